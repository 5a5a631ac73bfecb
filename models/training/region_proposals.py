"""The region proposal network: where objects may be, of whatever class.

A small network slides over the map of features. At each cell it says, for each of several anchors,
whether there is an object and where its box lies relative to the anchor. Source: Ren et al.,
"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.boxes.anchors import AnchorLevel, Shape, tile
from models.boxes.forms import to_xyxy
from models.boxes.iou import iou_matrix
from models.boxes.offsets import RPN, encode_offsets
from models.training.assign import IGNORED, ignore_inside, match_between, sample
from models.training.layers import convolution, predictor, rows_of
from models.training.suppression import Limits, best_first, suppressed

MAX_LOG = math.log(1000 / 16)
"""Limit of the growth of a side, so that its exponential stays small."""
MIN_SIDE_PX = 4.0
"""Side of a proposal that is worth looking at."""
BEFORE = 1000
"""Best proposals that are compared with each other."""
MAX_IOU = 0.7
"""Overlap above which the worse of two proposals is dropped."""
SAMPLED = 256
"""Anchors of an image that have a loss; at most half of them are objects."""
BETA = 1 / 9
"""Error below which the loss of a box is a square, in units of the offsets."""


class Proposed(NamedTuple):
    """Outputs of the network."""

    objectness: Tensor
    """(N, A) logits."""
    offsets: Tensor
    """(N, A, 4) from the anchors."""


class RegionProposals(nn.Module):
    """The network, and the proposals that it makes.

    Args:
        channels: of the map.
        shapes: width and height of the anchors of a cell, in pixels of the input.
        cells: cells of a side of the map.
        size: side of the input in pixels.
    """

    anchors: Tensor
    """(A, 4) cx, cy, w, h in pixels of the input."""

    def __init__(self, channels: int, shapes: Sequence[Shape], cells: int, size: int) -> None:
        super().__init__()
        self.size = size
        pitch = size / cells
        grid = tile([AnchorLevel((cells, cells), shapes, (pitch, pitch))])
        self.register_buffer("anchors", torch.from_numpy(grid), persistent=False)
        self.convolution = convolution(channels, channels)
        self.objectness = predictor(channels, len(shapes))
        self.offsets = predictor(channels, len(shapes) * 4)

    def forward(self, features: Tensor) -> Proposed:
        """Return what it gives for maps (N, C, H, W)."""
        hidden = self.convolution(features)
        objectness = rows_of(self.objectness(hidden), 1)[..., 0]
        return Proposed(objectness, rows_of(self.offsets(hidden), 4))

    def proposals(self, objectness: Tensor, offsets: Tensor, count: int) -> Tensor:
        """Return the proposals of an image, best first.

        Args:
            objectness: (A,) of the image.
            offsets: (A, 4).
            count: proposals, at most; there may be none.

        Returns:
            (K, 4) xyxy in pixels of the input, inside it.
        """
        best = best_first(objectness, BEFORE)
        boxes = decode(offsets[best], self.anchors[best], RPN.scales).clamp(0, self.size)
        solid = torch.nonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(dim=1))[:, 0]
        boxes, scores = boxes[solid], objectness[best][solid]
        kept = suppressed(boxes[None], scores[None], Limits(MAX_IOU, count))
        return boxes[kept[:, 1]]

    def loss(
        self,
        found: Proposed,
        truths: Sequence[Mapping[str, NDArray[Any]]],
        random: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return L_cls and L_reg, equation 1, of some images.

        Other than in the paper, anchors that reach over the image take part: objects at its edge
        have no others. The weight of L_reg is 10 there, since it is divided by the number of
        cells, about 10 times as many as sampled anchors; here both are divided by the latter.

        Args:
            found: what the network gives.
            truths: `boxes` (G, 4) xyxy in pixels of the input, and those that are `ignored`.
            random: draws the anchors that count.
        """
        anchors = self.anchors.cpu().numpy()
        corners = to_xyxy(anchors, "cxcywh")
        images, rows, targets = [], [], []
        for truth in truths:
            matches = match_between(iou_matrix(corners, truth["boxes"]), 0.3, 0.7, best_too=True)
            matches = ignore_inside(matches, corners, truth["ignored"])
            chosen = sample(matches, SAMPLED, 0.5, random)
            own = np.flatnonzero(chosen & (matches >= 0))
            rows.append(own)
            images.append(np.where(chosen, matches, IGNORED))
            targets.append(encode_offsets(truth["boxes"][matches[own]], anchors[own], RPN))
        matches = np.stack(images)
        device = found.objectness.device
        image, row = (torch.from_numpy(at).to(device) for at in np.nonzero(matches != IGNORED))
        is_object = torch.from_numpy(matches >= 0).to(device)[image, row].float()
        wanted = torch.from_numpy(np.concatenate(targets).astype(np.float32)).to(device)
        number = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        of, at = torch.from_numpy(number), torch.from_numpy(np.concatenate(rows))
        error = functional.smooth_l1_loss(
            found.offsets[of.to(device), at.to(device)], wanted, reduction="sum", beta=BETA
        )
        classes = functional.binary_cross_entropy_with_logits(
            found.objectness[image, row], is_object
        )
        return classes, error / max(1, len(image))


def decode(offsets: Tensor, anchors: Tensor, scales: Sequence[float]) -> Tensor:
    """Return boxes (..., 4) xyxy of offsets from anchors, as `models.boxes.offsets` has them.

    Args:
        offsets: (..., 4).
        anchors: (..., 4) cx, cy, w, h.
        scales: of the offsets.
    """
    part = offsets / torch.tensor(scales, device=offsets.device)
    centre = anchors[..., :2] + part[..., :2] * anchors[..., 2:]
    half = anchors[..., 2:] * part[..., 2:].clamp(max=MAX_LOG).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)
