"""The head of Fast R-CNN: the class of each region, and a box of each class.

Source: Girshick, "Fast R-CNN", ICCV 2015, section 2. The features of a region are read by RoIAlign
(He et al., "Mask R-CNN", ICCV 2017), which rounds no box, in the place of RoI pooling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.boxes.forms import from_xyxy
from models.boxes.iou import iou_matrix
from models.boxes.offsets import FASTER_RCNN, encode_offsets
from models.training.assign import ignore_inside, match_between, sample
from models.training.region_proposals import decode
from models.training.roi import RoiGrid, roi_align
from models.training.suppression import Limits, best_first, suppressed

CELLS = 7
"""Cells of a side of a region."""
SAMPLED = 64
"""Regions of an image that have a loss; at most a quarter of them are objects."""
MIN_IOU = 0.5
"""Overlap with an object from which on a region is one."""
MAX_IOU = 0.5
"""Overlap above which the worse of two boxes of a class is dropped."""
MIN_SCORE = 0.05
"""Score of a box that is worth handing on."""
MAX_BOXES = 100
"""Boxes of an image, those with the best scores."""


class Regions(NamedTuple):
    """Regions of some images that have a loss."""

    boxes: Tensor
    """(R, 4) xyxy in pixels of the input."""
    image_of: Tensor
    """(R,) int64."""
    classes: Tensor
    """(R,) int64: 0 the background, else 1 + the class."""
    targets: Tensor
    """(R, 4) offsets of the object's box from the region; 0 for the background."""
    rows: NDArray[np.intp]
    """(R,) row of the object in the truth of its image; -1: the background."""


class Found(NamedTuple):
    """The objects of an image; parallel tensors, best first."""

    boxes: Tensor
    """(M, 4) xyxy in pixels of the input."""
    scores: Tensor
    """(M,) from 0 to 1."""
    classes: Tensor
    """(M,) int64."""


class RegionHead(nn.Module):
    """Two layers for all regions; from these the classes, and the boxes.

    Args:
        channels: of the map.
        classes: number of classes, without background.
        stride: pixels of the input for each cell of the map.
        width: of the layers.
    """

    def __init__(self, channels: int, classes: int, stride: float, width: int = 256) -> None:
        super().__init__()
        self.grid = RoiGrid(CELLS, CELLS, stride)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * CELLS**2, width),
            nn.ReLU6(),
            nn.Linear(width, width),
            nn.ReLU6(),
        )
        self.classes = nn.Linear(width, classes + 1)
        self.offsets = nn.Linear(width, classes * 4)
        for layer, std in ((self.classes, 0.01), (self.offsets, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, boxes: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (R, K + 1), the background first, and the offsets (R, K, 4).

        Args:
            features: (N, C, H, W) map of each image.
            boxes: (R, 4) xyxy in pixels of the input.
            image_of: (R,) int64.
        """
        hidden = self.layers(roi_align(features, boxes, image_of, self.grid))
        offsets = self.offsets(hidden)
        return self.classes(hidden), offsets.reshape(-1, offsets.shape[1] // 4, 4)

    def loss(self, logits: Tensor, offsets: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Return L_cls and L_loc of regions; the background has no L_loc."""
        classes = functional.cross_entropy(logits, regions.classes)
        own = torch.nonzero(regions.classes > 0)[:, 0]
        given = offsets[own, regions.classes[own] - 1]
        error = functional.smooth_l1_loss(given, regions.targets[own], reduction="sum")
        return classes, error / max(1, len(regions.classes))

    def found(self, logits: Tensor, offsets: Tensor, boxes: Tensor, size: int) -> Found:
        """Return the objects of an image.

        Args:
            logits: (R, K + 1) of its regions.
            offsets: (R, K, 4).
            boxes: (R, 4) of the regions.
            size: side of the input in pixels.
        """
        scores = logits.softmax(dim=1)[:, 1:].T
        anchors = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
        own = decode(offsets.permute(1, 0, 2), anchors[None], FASTER_RCNN.scales).clamp(0, size)
        kept = suppressed(own, scores, Limits(MAX_IOU, MAX_BOXES, MIN_SCORE))
        best = best_first(scores[kept[:, 0], kept[:, 1]], MAX_BOXES)
        number, row = kept[best].unbind(1)
        return Found(own[number, row], scores[number, row], number)


def sample_regions(
    proposals: Sequence[NDArray[np.floating]],
    truths: Sequence[Mapping[str, NDArray[Any]]],
    random: np.random.Generator,
    device: torch.device,
) -> Regions:
    """Draw the regions that have a loss, from the proposals and the true boxes.

    Args:
        proposals: (K, 4) xyxy in pixels of the input, of each image.
        truths: `boxes` (G, 4), `classes` (G,) and boxes that are `ignored`, of each image.
        random: draws.
        device: of the tensors.
    """
    found: list[tuple[NDArray[Any], ...]] = []
    for number, (own, truth) in enumerate(zip(proposals, truths, strict=True)):
        boxes = np.concatenate([own, truth["boxes"]]).astype(np.float64)
        matches = match_between(iou_matrix(boxes, truth["boxes"]), MIN_IOU, MIN_IOU)
        matches = ignore_inside(matches, boxes, truth["ignored"])
        chosen = np.flatnonzero(sample(matches, SAMPLED, 0.25, random))
        boxes, rows = boxes[chosen], matches[chosen]
        classes, targets = np.zeros(len(rows), np.int64), np.zeros((len(rows), 4))
        is_object = rows >= 0
        classes[is_object] = truth["classes"][rows[is_object]] + 1
        targets[is_object] = encode_offsets(
            truth["boxes"][rows[is_object]].astype(np.float64),
            from_xyxy(boxes[is_object], "cxcywh"),
            FASTER_RCNN,
        )
        found.append((boxes, np.full(len(rows), number), classes, targets, rows))
    parts = [np.concatenate(part) for part in zip(*found, strict=True)]
    first, of, classes_of, offsets, at = parts
    return Regions(
        torch.from_numpy(first.astype(np.float32)).to(device),
        torch.from_numpy(of.astype(np.int64)).to(device),
        torch.from_numpy(classes_of).to(device),
        torch.from_numpy(offsets.astype(np.float32)).to(device),
        at,
    )
