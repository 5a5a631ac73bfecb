"""YOLO without anchors: each cell of a grid gives a box, a chance of an object, and its class.

Sources: Redmon et al., "You Only Look Once", CVPR 2016 (one pass on a grid); Ge et al., "YOLOX:
Exceeding YOLO Series in 2021" (no anchors, a decoupled head, objectness and box learned together,
SimOTA). Other than there, two maps of the backbone are used, the coarser one also added to the
finer (Lin et al., "Feature Pyramid Networks", CVPR 2017), and the loss of the box is that of the
generalised IoU, which has a gradient for boxes apart too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.boxes.anchors import grid_points
from models.datasets.base import LabelledImage
from models.training import gradient
from models.training.assign import BACKGROUND, IGNORED, Points, ignore_inside, sim_ota
from models.training.augment import Augmentation, View
from models.training.gradient import GradientMethod, Outputs, Truth
from models.training.layers import convolution, predictor, rows_of
from models.training.method import Job, ModelCard, Result
from models.training.tasks.detect import (
    DETECTION,
    Detects,
    level_tensors,
    suppressed,
    truth_of_view,
)

RARE = -math.log((1 - 0.01) / 0.01)
"""Logit of a score of .01: nearly all cells are background (Lin et al., ICCV 2017, section 3.3)."""
MAX_LOG = 4.0
"""Limit of the logarithm of a side in strides."""


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of YOLO."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 320
    augment: Augmentation = DETECTION
    batch: Annotated[int, Meta(ge=1, le=1024)] = 8
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 12
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 40
    patience: Annotated[int, Meta(ge=1, le=10_000)] = 40
    open: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it."""
    strides: Annotated[tuple[int, ...], Meta(min_length=1, max_length=4)] = (16, 32)
    """Of the grids, finest first; the backbone has maps of them."""
    width: Annotated[int, Meta(ge=8, le=1024)] = 128
    """Channels of the head's layers."""
    box_weight: Annotated[float, Meta(ge=0, le=100)] = 5.0
    """Weight of the loss of the box."""


class Head(nn.Module):
    """Box, objectness and class of every cell.

    Args:
        channels: of each map.
        classes: number of classes.
        width: channels of the layers.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        levels = range(len(channels))
        self.own = nn.ModuleList(convolution(count, width, 1) for count in channels)
        self.box_layers = nn.ModuleList(convolution(width, width) for _ in levels)
        self.class_layers = nn.ModuleList(convolution(width, width) for _ in levels)
        self.boxes = nn.ModuleList(predictor(width, 5, _rare(4, 1)) for _ in levels)
        self.classes = nn.ModuleList(predictor(width, classes, RARE) for _ in levels)
        self.count = classes

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (N, A, 4), objectness (N, A, 1) and classes (N, A, C), before any sigmoid.

        A box is x and y of its centre from the middle of the cell in strides, and the logarithms
        of its sides in strides.
        """
        own = [layer(level) for layer, level in zip(self.own, maps, strict=True)]
        for finer in range(len(own) - 2, -1, -1):
            own[finer] = own[finer] + functional.interpolate(own[finer + 1], scale_factor=2.0)
        found, classes = [], []
        for number, level in enumerate(own):
            found.append(rows_of(self.boxes[number](self.box_layers[number](level)), 5))
            classes.append(
                rows_of(self.classes[number](self.class_layers[number](level)), self.count)
            )
        rows = torch.cat(found, dim=1)
        return rows[..., :4], rows[..., 4:], torch.cat(classes, dim=1)


class Decoded(nn.Module):
    """The end of the exported graph: boxes, and scores of objectness times class."""

    def __init__(self, points: NDArray[np.float32], strides: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("points", torch.from_numpy(points))
        self.register_buffer("strides", torch.from_numpy(strides)[:, None])

    def boxes(self, rows: Tensor) -> Tensor:
        """Return boxes (..., A, 4) xyxy, in the unit of the points."""
        centre = self.points + rows[..., :2] * self.strides
        half = torch.exp(rows[..., 2:].clamp(max=MAX_LOG)) * self.strides / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def forward(self, rows: Tensor, objectness: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, A, 4) xyxy, and scores (N, A, C)."""
        return self.boxes(rows), torch.sigmoid(objectness) * torch.sigmoid(classes)


class Assigned(NamedTuple):
    """The cells of a batch."""

    positive: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Image and row of each cell with an object."""
    boxes: NDArray[np.float32]
    """(P, 4) of these objects, in pixels of the input."""
    classes: NDArray[np.float32]
    """(P, C) their classes, times the IoU with the box that the net gives now."""
    counted: NDArray[np.bool_]
    """(N, A) which cells have a loss of objectness."""


class Yolo(Detects, GradientMethod):
    """Finds objects in the cells of a grid."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("boxes", "scores")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        side = (self.size, self.size)
        self._grid = grid_points(side, self.settings.strides, rounding="ceil")
        self._decoded = Decoded(self._grid.points, self._grid.strides).to(job.device)

    def maps(self) -> tuple[str, ...]:
        """Return the maps of the grids."""
        return level_tensors(self.job.backbone, self.settings.strides, own=True)

    def cut(self) -> int:
        """Leave the upper blocks open."""
        return self.job.backbone.cut_for(1 - self.settings.open)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the head."""
        return Head(channels, len(self.job.labels), self.settings.width)

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the boxes and classes."""
        return truth_of_view(image, view)

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the losses of box, objectness and class (YOLOX, section 2.1)."""
        rows, objectness, classes = (output.float() for output in outputs)
        boxes = self._decoded.boxes(rows)
        scores = torch.sigmoid(objectness) * torch.sigmoid(classes)
        found = self._assign(boxes, scores, truths)
        device, count = rows.device, max(1, len(found.boxes))
        present = torch.zeros(objectness.shape[:2], device=device)
        present[found.positive] = 1.0
        counted = torch.from_numpy(found.counted).to(device)
        iou = generalised_iou(boxes[found.positive], torch.from_numpy(found.boxes).to(device))
        terms = {
            "box": self.settings.box_weight * (1 - iou).sum(),
            "objectness": functional.binary_cross_entropy_with_logits(
                objectness[..., 0][counted], present[counted], reduction="sum"
            ),
            "class": functional.binary_cross_entropy_with_logits(
                classes[found.positive],
                torch.from_numpy(found.classes).to(device),
                reduction="sum",
            ),
        }
        return {name: term / count for name, term in terms.items()}

    def finish(self) -> nn.Module:
        """Decode boxes as fractions of the input, and scores."""
        side = np.float32(self.size)
        return Decoded(self._grid.points / side, self._grid.strides / side)

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the objects."""
        return suppressed(outputs[0], outputs[1], image)

    def card(self) -> ModelCard:
        """Return the card of a detector with decoded boxes."""
        return ModelCard("detect", "ssd", {})

    def _assign(self, boxes: Tensor, scores: Tensor, truths: Sequence[Truth]) -> Assigned:
        """Give objects to the cells that fit them best now.

        Args:
            boxes: (N, A, 4) that the net gives, xyxy in pixels of the input.
            scores: (N, A, C).
            truths: of the images.
        """
        now, chances = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
        grid = self._grid
        matches = np.full(now.shape[:2], BACKGROUND, np.intp)
        targets, labels = [], []
        for number, truth in enumerate(truths):
            points = Points(grid.points, grid.strides, now[number], chances[number])
            found = sim_ota(points, truth["boxes"], truth["classes"])
            matches[number] = ignore_inside(found.matches, now[number], truth["ignored"])
            rows = np.flatnonzero(found.matches >= 0)
            own = found.matches[rows]
            label = np.zeros((len(rows), chances.shape[2]), np.float32)
            label[np.arange(len(rows)), truth["classes"][own]] = found.iou[rows]
            targets.append(truth["boxes"][own])
            labels.append(label)
        images, rows = np.nonzero(matches >= 0)
        return Assigned(
            (images, rows),
            np.concatenate(targets).astype(np.float32),
            np.concatenate(labels),
            matches != IGNORED,
        )


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU (P,) of boxes (P, 4) xyxy, from -1 to 1.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    both = shared.prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - both
    whole = hull.prod(dim=1)
    return both / union - (whole - union) / whole


def _rare(zeros: int, rare: int) -> Tensor:
    """Return the biases of numbers that start at 0, and of rare ones after them."""
    return torch.tensor([0.0] * zeros + [RARE] * rare)
