"""The points of objects: poses, and the landmarks of faces."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.output_layout import Keypoints
from models.transform import Transform

Floats = NDArray[np.float32]
COCO17 = Keypoints(
    names=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder"),
        *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip"),
        *("right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    edges=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7)),
        *((6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
)
"""Names and edges of the 17 points of COCO, which a model with 17 points without names has."""
VISIBLE = 0.3
"""Score from which on a point counts for the box of an object that has none of its own."""


class Places(NamedTuple):
    """Places that the points of some rows are relative to; (n,) or (n, 2) each."""

    points: Floats | None = None
    """Points of the cells in pixels of the input, with `units: cells`."""
    strides: Floats | None = None
    """Strides of the cells in pixels, with `units: cells`."""
    priors: Floats | None = None
    """(n, 4) cx, cy, w, h of the priors in pixels, with `units: priors`."""
    boxes: Floats | None = None
    """(n, 4) xyxy of the boxes in pixels, with `units: box`."""
    variances: tuple[float, float] = (1.0, 1.0)
    """Factors of x and y, with `units: priors`."""


def decode_points(
    numbers: NDArray[Any], layout: Keypoints, size: tuple[int, int], places: Places
) -> Floats:
    """Decode the points of some rows.

    Args:
        numbers: (n, K * V), the column `keypoints`.
        layout: numbers and units of the points.
        size: width and height of the input in pixels.
        places: what they are relative to.

    Returns:
        (n, K, 3) x and y in pixels of the input, and the score; 1 where the model gives none.

    Raises:
        ValueError: the numbers are not those of whole points.
    """
    per_point = len(layout.values)
    if numbers.shape[1] % per_point:
        raise ValueError(
            f"keypoints: expected a multiple of {per_point} numbers (found {numbers.shape[1]})"
        )
    values = numbers.reshape(len(numbers), numbers.shape[1] // per_point, per_point)
    found = np.ones((*values.shape[:2], 3), np.float32)
    for place, name in enumerate(("x", "y", "score")):
        if name in layout.values:
            found[..., place] = values[..., layout.values.index(name)]
    if layout.activation == "sigmoid" and "score" in layout.values:
        found[..., 2] = 1 / (1 + np.exp(-np.clip(found[..., 2], -60, 60)))
    if layout.units == "fraction":
        found[..., :2] *= np.array(size, np.float32)
    elif layout.units == "cells":
        assert places.points is not None
        assert places.strides is not None
        found[..., :2] *= places.strides[:, None, None]
        found[..., :2] += places.points[:, None]
    elif layout.units == "box":
        assert places.boxes is not None
        low, high = places.boxes[:, None, :2], places.boxes[:, None, 2:]
        found[..., :2] = low + found[..., :2] * (high - low)
    elif layout.units == "priors":
        assert places.priors is not None
        found[..., :2] *= np.array(places.variances, np.float32) * places.priors[:, None, 2:]
        found[..., :2] += places.priors[:, None, :2]
    return found


def box_around(points: Floats) -> tuple[Floats, Floats]:
    """Compute the boxes of objects that have points alone.

    Args:
        points: (n, K, 3) in pixels, with a score each.

    Returns:
        (n, 4) xyxy around the points that are visible, of all where none is, and (n,) the mean
        score of all points.
    """
    visible = points[..., 2] >= VISIBLE
    visible |= ~visible.any(axis=1, keepdims=True)
    far = np.float32(np.inf)
    low = np.where(visible[..., None], points[..., :2], far).min(axis=1)
    high = np.where(visible[..., None], points[..., :2], -far).max(axis=1)
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    return boxes, points[..., 2].mean(axis=1).astype(np.float32)


def to_captured(points: Floats, transform: Transform) -> Floats:
    """Convert points (n, K, 3) from pixels of the input to pixels of the captured image."""
    scale = np.array([transform.scale_x, transform.scale_y])
    pad = np.array([transform.pad_x, transform.pad_y])
    found = points.copy()
    found[..., :2] = (points[..., :2] - pad) / scale
    return found
