"""A decoder on three maps of the backbone: a class for each pixel.

The deepest map says what is there, those of smaller strides say where. Sources: Long et al., CVPR
2015 (scores from maps of several strides, summed); Lin et al., CVPR 2017 (the sums are of features,
from the deepest map upwards); Milletari et al., 3DV 2016 (the Dice loss).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.datasets.base import LabelledImage
from models.datasets.semantic import IGNORED, read_class_map
from models.training import gradient
from models.training.augment import View
from models.training.backbone import Backbone, Block
from models.training.gradient import GradientMethod, Outputs, Truth
from models.training.method import Job, Result
from models.training.tasks.semantic import NamesPixels

STRIDES = (4, 8, 16, 32)
"""Strides of the maps, where the backbone has them."""
MAX_BYTES = 64 * 2**20
"""Memory for the maps of classes of views, which are the same in each epoch."""


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of the decoder."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 320
    open: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it; 0: none."""
    channels: Annotated[int, Meta(ge=8, le=512)] = 48
    """Channels of the decoder."""
    dice: Annotated[float, Meta(ge=0, le=10)] = 1.0
    """Weight of the Dice loss, which counts rare classes as much as frequent ones."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 2e-3
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 6


class Semantic(NamesPixels, GradientMethod):
    """Names each pixel."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, job: Job) -> None:
        self._blocks = blocks_of(job.backbone)
        self._stride = self._blocks[0].stride
        self._truths: dict[tuple[str, bytes], NDArray[np.uint8]] = {}
        super().__init__(job)

    def maps(self) -> tuple[str, ...]:
        """Take one map of each stride."""
        return tuple(block.tensor for block in self._blocks)

    def cut(self) -> int:
        """Leave the upper blocks open."""
        return self.job.backbone.cut_for(1 - self.settings.open)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the decoder."""
        return Decoder(channels, self.settings.channels, len(self.job.labels))

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the class of the pixel in the middle of each cell."""
        key = (image.name, view.matrix.tobytes())
        found = self._truths.get(key)
        if found is None:
            assert image.class_map is not None, "an example of this task has a map"
            whole = view.mask(read_class_map(image.class_map).astype(np.uint8), IGNORED)
            middle = self._stride // 2
            found = np.ascontiguousarray(whole[middle :: self._stride, middle :: self._stride])
            if len(self._truths) * found.nbytes < MAX_BYTES:
                self._truths[key] = found
        return {"classes": found}

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return cross entropy and Dice loss; pixels that do not count are left out."""
        logits = outputs[0].float()
        truth = torch.from_numpy(np.stack([own["classes"] for own in truths])).long()
        truth = truth.to(logits.device)
        terms = {"cross entropy": cross_entropy(logits, truth)}
        if self.settings.dice:
            terms["dice"] = self.settings.dice * dice_loss(logits, truth)
        return terms

    def finish(self) -> nn.Module:
        """Make scores of the logits, at twice their resolution."""
        return Finish()

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the class with the highest score of each cell (h, w)."""
        return outputs[0].argmax(axis=0).astype(np.uint8)


def blocks_of(backbone: Backbone) -> tuple[Block, ...]:
    """Return a block of each stride: the last narrow one, or the last of all.

    Inverted residuals are wide inside; the narrow map before has what the wide one has, in a
    fraction of the memory.
    """
    found = []
    for stride in STRIDES:
        of_stride = [block for block in backbone.blocks if block.stride == stride]
        narrow = [block for block in of_stride if 2 * block.channels <= of_stride[-1].channels]
        found += (narrow or of_stride)[-1:]
    return tuple(found or backbone.blocks[-1:])


class Decoder(nn.Module):
    """Adds the maps up, from the deepest to the one of the smallest stride.

    Args:
        channels: of each map, by rising strides.
        width: channels of the decoder.
        classes: number of classes.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_layer(own, width, 1) for own in channels)
        self.mix = nn.ModuleList(
            nn.Sequential(_layer(width, width, 3, width), _layer(width, width, 1)) for _ in channels
        )
        self.scores = nn.Conv2d(width, classes, 1)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return logits (N, C, h, w) at the smallest stride."""
        total = None
        for lateral, mix, own in zip(
            reversed(self.lateral), reversed(self.mix), reversed(maps), strict=True
        ):
            added = lateral(own)
            if total is not None:
                added = added + functional.interpolate(total, scale_factor=2.0, mode="nearest")
            total = mix(added)
        logits: Tensor = self.scores(total)
        return logits


class Finish(nn.Module):
    """Scores (N, C, 2h, 2w) from 0 to 1 of logits (N, C, h, w)."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return the scores."""
        larger = functional.interpolate(
            logits, scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return larger.softmax(dim=1)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross entropy of the pixels that count.

    Args:
        logits: (N, C, h, w).
        truth: (N, h, w) classes; `IGNORED`: the pixel does not count.
    """
    counted = (truth != IGNORED).sum().clamp(min=1)
    total = functional.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="sum")
    return total / counted


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - the mean Dice coefficient of the classes that are in the batch.

    Args:
        logits: (N, C, h, w).
        truth: (N, h, w) classes; `IGNORED`: the pixel does not count.
    """
    classes = logits.shape[1]
    counted = truth != IGNORED
    scores = logits.softmax(dim=1) * counted[:, None]
    true = functional.one_hot(truth * counted, classes).permute(0, 3, 1, 2) * counted[:, None]
    common = (scores * true).sum(dim=(0, 2, 3))
    sizes = scores.square().sum(dim=(0, 2, 3)) + true.sum(dim=(0, 2, 3))
    present = true.sum(dim=(0, 2, 3)) > 0
    dice = (2 * common / sizes.clamp(min=1e-6))[present]
    return 1 - dice.mean() if len(dice) else logits.sum() * 0


def _layer(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    """A convolution, its normalisation, and ReLU6, which int8 holds well."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
