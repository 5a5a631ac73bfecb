"""Figures of maps of classes: intersection over union of each class, and accuracy of the pixels.

IoU of a class is that of all its pixels in all images together (Everingham et al., PASCAL VOC,
IJCV 2010, section 4.1.3); the mean is over the classes that are true or found anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import ratio

NONE = -1
"""Class of a true pixel that does not count, or of a found one that is of none of the classes."""

PixelCounts = NDArray[np.int64]
"""(C, 3) pixels of each class in an image: right, found, and true."""


class ClassIou(msgspec.Struct, frozen=True):
    """Figures of one class; None: undefined, because no pixel is of it."""

    label: str
    iou: float | None
    accuracy: float | None
    """Part of its true pixels that is found."""
    pixels: int
    """Number of true pixels."""


class SemanticFigures(msgspec.Struct, frozen=True):
    """Figures of maps, from 0 to 1; None: undefined, because no pixel counts."""

    mean_iou: float | None
    pixel_accuracy: float | None
    """Part of the pixels the class of which is right."""
    images: int
    classes: tuple[ClassIou, ...]
    """In the order of the labels."""


def count_pixels(
    found: NDArray[np.integer], truth: NDArray[np.integer], classes: int
) -> PixelCounts:
    """Count the pixels of each class at the resolution of the true map.

    Args:
        found: (h, w) class of each cell of a grid over the whole image; `NONE`: none of them. Pixel
            p along an axis has the class of cell p * cells // pixels, the nearest neighbour of
            OpenCV, as where the pipeline counts pixels.
        truth: (H, W) class of each pixel; `NONE`: the pixel does not count.
        classes: number of classes.

    Raises:
        EvaluationError: a map is empty, or a class is out of range.
    """
    for name, values in (("found map", found), ("true map", truth)):
        if values.ndim != 2 or not values.size:
            raise EvaluationError(f"{name}: not (H, W) (found {values.shape}); give classes")
        if values.min() < NONE or values.max() >= classes:
            raise EvaluationError(
                f"{name}: a class is not in the labels (found {values.min()} to {values.max()}, "
                f"{classes} labels); give indices"
            )
    rows, columns = (
        np.arange(count) * cells // count
        for count, cells in zip(truth.shape, found.shape, strict=True)
    )
    spread = found[rows[:, None], columns]
    counted = truth != NONE
    own, true = spread[counted], truth[counted]
    return np.stack(
        [
            np.bincount(part, minlength=classes).astype(np.int64)
            for part in (true[own == true], own[own != NONE], true)
        ],
        axis=1,
    )


def semantic_figures(
    counts: NDArray[Any], labels: Sequence[str], weights: NDArray[np.float64] | None = None
) -> SemanticFigures:
    """Work out the figures of all images together.

    Args:
        counts: (I, C, 3) see `PixelCounts`.
        labels: names of the classes.
        weights: (I,) how often each image counts; None: once.

    Raises:
        EvaluationError: the counts do not fit the labels.
    """
    if counts.shape[1:] != (len(labels), 3):
        raise EvaluationError(
            f"counts: not (I, {len(labels)}, 3) (found {counts.shape}); give three a class"
        )
    once = np.ones(len(counts)) if weights is None else weights
    right, found, true = np.tensordot(once, counts, 1).T
    iou = [ratio(*part) for part in zip(right, found + true - right, strict=True)]
    defined = [value for value in iou if value is not None]
    return SemanticFigures(
        ratio(sum(defined), len(defined)),
        ratio(right.sum(), true.sum()),
        int(once.sum()),
        tuple(
            ClassIou(label, value, ratio(hit, pixels), int(pixels))
            for label, value, hit, pixels in zip(labels, iou, right, true, strict=True)
        ),
    )
