"""SSD: default boxes on several maps of the backbone, each with its class and offsets, in one pass.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016. Other than there, the backbone
is MobileNetV2 as in "SSDLite" (Sandler et al., CVPR 2018, section 6.2: the expansion of block 14 is
the first map), and the default boxes are those of k-means on the training boxes (Redmon and
Farhadi, CVPR 2017, section 2) where the settings do not list them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.boxes.anchors import Shape, pyramid_levels, tile
from models.boxes.forms import to_xyxy
from models.boxes.iou import iou_matrix
from models.boxes.offsets import SSD as CODING
from models.boxes.offsets import encode_offsets
from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training import gradient
from models.training.assign import hard_negatives, ignore_inside, match_best
from models.training.augment import Augmentation, View
from models.training.gradient import GradientMethod, Outputs, Truth
from models.training.layers import convolution, predictor, rows_of
from models.training.method import Job, ModelCard, Result
from models.training.tasks.default_boxes import default_boxes, sizes_of
from models.training.tasks.detect import (
    DETECTION,
    Detects,
    level_tensors,
    suppressed,
    truth_of_view,
)

Side = Annotated[float, Meta(gt=0, le=4096)]


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of SSD."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 320
    augment: Augmentation = DETECTION
    batch: Annotated[int, Meta(ge=1, le=1024)] = 8
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 12
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 40
    patience: Annotated[int, Meta(ge=1, le=10_000)] = 40
    open: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it."""
    strides: Annotated[tuple[int, ...], Meta(min_length=1, max_length=6)] = (16, 32, 64)
    """Of the maps with default boxes, finest first: those of the backbone, then further ones, each
    half as large."""
    default_boxes: Annotated[int, Meta(ge=1, le=60)] = 9
    """Number of default boxes, on all maps together, that k-means makes of the training boxes."""
    shapes: tuple[tuple[tuple[Side, Side], ...], ...] | None = None
    """Width and height in pixels of the input of the default boxes of each map; null: k-means."""
    width: Annotated[int, Meta(ge=8, le=1024)] = 128
    """Channels of the head's layers."""
    min_iou: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Overlap from which on a default box is an object's, also if it is not its best one."""
    negatives: Annotated[float, Meta(ge=0, le=100)] = 3.0
    """Hard negatives for each positive."""


class Decoded(nn.Module):
    """The end of the exported graph: boxes of the offsets, and scores without the background."""

    def __init__(self, anchors: NDArray[np.float32], size: int) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.from_numpy(anchors / np.float32(size)))
        self.register_buffer("scales", torch.tensor(CODING.scales))

    def forward(self, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, A, 4) xyxy as fractions of the input, and scores (N, A, C)."""
        rows = offsets / self.scales
        centre = self.anchors[:, :2] + rows[..., :2] * self.anchors[:, 2:]
        half = self.anchors[:, 2:] * torch.exp(rows[..., 2:].clamp(max=4)) / 2
        scores = torch.softmax(logits, dim=2)[..., 1:]
        return torch.cat([centre - half, centre + half], dim=2), scores


class Head(nn.Module):
    """Offsets and class logits of all default boxes.

    Args:
        channels: of the maps of the backbone.
        boxes: default boxes of a cell of each map; there may be more maps than the backbone's.
        classes: number of classes, without the background.
        width: channels of the layers.
    """

    def __init__(
        self, channels: Sequence[int], boxes: Sequence[int], classes: int, width: int
    ) -> None:
        super().__init__()
        further = len(boxes) - len(channels)
        self.own = nn.ModuleList(convolution(count, width, 1) for count in channels)
        self.further = nn.ModuleList(convolution(width, width, stride=2) for _ in range(further))
        self.mixed = nn.ModuleList(convolution(width, width) for _ in boxes)
        self.offsets = nn.ModuleList(predictor(width, 4 * count) for count in boxes)
        self.logits = nn.ModuleList(predictor(width, (1 + classes) * count) for count in boxes)
        self.classes = classes

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (N, A, 4) and logits (N, A, 1 + C), the background first."""
        levels = [layer(own) for layer, own in zip(self.own, maps, strict=True)]
        for layer in self.further:
            levels.append(layer(levels[-1]))
        mixed = [layer(level) for layer, level in zip(self.mixed, levels, strict=True)]
        offsets = [
            rows_of(layer(level), 4) for layer, level in zip(self.offsets, mixed, strict=True)
        ]
        logits = [
            rows_of(layer(level), 1 + self.classes)
            for layer, level in zip(self.logits, mixed, strict=True)
        ]
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


class Matched(NamedTuple):
    """The default boxes of a batch that have a loss."""

    positive: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Image and row of each that has an object."""
    offsets: NDArray[np.float32]
    """(P, 4) of their objects."""
    chosen: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Image and row of each with a loss of the class: these, and the hard negatives."""
    classes: NDArray[np.intp]
    """(B,) class of each chosen one; 0: background."""


class Ssd(Detects, GradientMethod):
    """Finds objects by default boxes on several maps."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("boxes", "scores")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._corners = to_xyxy(self._anchors, "cxcywh")

    def maps(self) -> tuple[str, ...]:
        """Return the maps of the strides that the backbone has."""
        return level_tensors(self.job.backbone, self.settings.strides)

    def cut(self) -> int:
        """Leave the upper blocks open."""
        return self.job.backbone.cut_for(1 - self.settings.open)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Choose the default boxes, and return the head for them."""
        shapes = self._shapes()
        strides = self.settings.strides
        self._anchors = tile(pyramid_levels((self.size, self.size), strides, shapes))
        counts = [len(own) for own in shapes]
        return Head(channels, counts, len(self.job.labels), self.settings.width)

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the boxes and classes."""
        return truth_of_view(image, view)

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the multibox loss (section 2.2): confidence and location."""
        offsets, logits = outputs[0].float(), outputs[1].float()
        background = -functional.log_softmax(logits.detach(), dim=2)[..., 0]
        found = self._match(background.cpu().numpy(), truths)
        device = offsets.device
        count = max(1, len(found.offsets))
        location = functional.smooth_l1_loss(
            offsets[found.positive], torch.from_numpy(found.offsets).to(device), reduction="sum"
        )
        confidence = functional.cross_entropy(
            logits[found.chosen], torch.from_numpy(found.classes).to(device), reduction="sum"
        )
        return {"confidence": confidence / count, "location": location / count}

    def finish(self) -> nn.Module:
        """Decode boxes and scores."""
        return Decoded(self._anchors, self.size)

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the objects."""
        return suppressed(outputs[0], outputs[1], image)

    def card(self) -> ModelCard:
        """Return the card of a detector with decoded boxes."""
        return ModelCard("detect", "ssd", {})

    def _shapes(self) -> Sequence[Sequence[Shape]]:
        """Return the default boxes of each map, in pixels of the input."""
        settings = self.settings
        if settings.shapes is not None:
            if len(settings.shapes) != len(settings.strides) or not all(settings.shapes):
                raise TrainingError(
                    f"shapes: expected default boxes for each of {len(settings.strides)} maps "
                    f"(found {[len(own) for own in settings.shapes]}); list some for each"
                )
            shapes: Sequence[Sequence[Shape]] = settings.shapes
            return shapes
        found = default_boxes(
            sizes_of(self._train), len(settings.strides), settings.default_boxes, self.size
        )
        self.notes.append(found.note)
        across, up = found.chart
        if across:
            self.charts["Mean IoU of a box with the best of so many default boxes"] = (
                across,
                {"mean IoU": up},
            )
        return found.shapes

    def _match(self, background: NDArray[np.float32], truths: Sequence[Truth]) -> Matched:
        """Match default boxes with objects, and choose the negatives.

        Args:
            background: (N, A) loss of each default box as background.
            truths: of the images.
        """
        matches = np.empty(background.shape, np.intp)
        chosen = np.empty(background.shape, np.bool_)
        classes = np.zeros(background.shape, np.intp)
        targets = []
        for number, truth in enumerate(truths):
            own = match_best(iou_matrix(self._corners, truth["boxes"]), self.settings.min_iou)
            own = ignore_inside(own, self._corners, truth["ignored"])
            # A picture without objects has a few negatives too, or nothing is learned from it.
            least = max(1, round(self.settings.negatives))
            chosen[number] = hard_negatives(own, background[number], self.settings.negatives, least)
            positive = own >= 0
            classes[number, positive] = 1 + truth["classes"][own[positive]]
            targets.append(
                encode_offsets(truth["boxes"][own[positive]], self._anchors[positive], CODING)
            )
            matches[number] = own
        images, rows = np.nonzero(matches >= 0)
        all_chosen = np.nonzero(chosen)
        return Matched(
            (images, rows),
            np.concatenate(targets).astype(np.float32),
            (all_chosen[0], all_chosen[1]),
            classes[chosen],
        )
