"""Figures of one class and one box per image: classification with localisation.

Source of the task: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV
2015, section 4.2, where a result is right if its class is, and its box overlaps by half.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import iou_pairs
from models.errors import EvaluationError
from models.evaluation.arrays import check_lengths, ratio

NONE = -1
"""Class of an image in which nothing is found, or a class that is not measured; never right."""
MIN_IOU = 0.5
"""Overlap from which on a box is right."""


class LocalizationFigures(msgspec.Struct, frozen=True):
    """Figures, from 0 to 1; None: undefined, because there is no image."""

    top_1: float | None
    """Part of the images whose class is right."""
    mean_iou: float | None
    """Mean overlap of the box with the true one, whatever the class."""
    iou_50: float | None
    """Part of the images whose box overlaps by half."""
    right: float | None
    """Part of the images whose class is right and whose box overlaps by half."""
    right_iou: float | None
    """Mean overlap, which is 0 where the class is wrong."""
    images: int


def localization_figures(
    truth: NDArray[np.integer],
    true_boxes: NDArray[np.floating],
    found: NDArray[np.integer],
    boxes: NDArray[np.floating],
) -> LocalizationFigures:
    """Measure the class and the box of each image.

    Args:
        truth: (N,) true classes.
        true_boxes: (N, 4) xyxy.
        found: (N,) found classes; `NONE`: none of them.
        boxes: (N, 4) xyxy; one without area, where nothing is found, overlaps nothing.

    Raises:
        EvaluationError: the arrays do not fit together.
    """
    check_lengths("images", len(truth), [("found classes", found)])
    if true_boxes.shape != (len(truth), 4) or boxes.shape != true_boxes.shape:
        raise EvaluationError(
            f"boxes: not ({len(truth)}, 4) (found {true_boxes.shape} and {boxes.shape}); give one "
            "for each image"
        )
    named = found == truth
    overlaps = iou_pairs(true_boxes, boxes)
    close = overlaps >= MIN_IOU
    count = len(truth)
    return LocalizationFigures(
        ratio(named.sum(), count),
        ratio(overlaps.sum(), count),
        ratio(close.sum(), count),
        ratio((named & close).sum(), count),
        ratio((named * overlaps).sum(), count),
        count,
    )
