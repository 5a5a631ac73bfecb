"""Rotated boxes: from the columns cx, cy, w, h, angle to pixels of the captured image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.boxes.rotated import corners_of, from_corners
from models.output_layout import OutputLayout
from models.transform import Transform

Floats = NDArray[np.float32]


def rotated_of(boxes: Floats, angles: NDArray[Any], layout: OutputLayout) -> Floats:
    """Join the boxes of some rows and their angles.

    Args:
        boxes: (n, 4) xyxy in pixels of the input, as if they were upright.
        angles: (n,) the column `angle`.
        layout: unit of the angle.

    Returns:
        (n, 5) cx, cy, w, h in pixels of the input, angle in radians.
    """
    radians = angles.astype(np.float32)
    if layout.angle == "degrees":
        radians = np.deg2rad(radians)
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low, radians[:, None]], axis=1)


def to_captured(rotated: Floats, transform: Transform) -> Floats:
    """Convert rotated boxes (n, 5) from pixels of the input to pixels of the captured image.

    Where the image was stretched, a rectangle becomes a parallelogram; the result is the rectangle
    with its centre, its mean sides and the direction of the longer one.
    """
    scale = np.array([transform.scale_x, transform.scale_y])
    pad = np.array([transform.pad_x, transform.pad_y])
    if transform.scale_x == transform.scale_y:
        found = rotated.astype(np.float64)
        found[:, :2] = (found[:, :2] - pad) / scale
        found[:, 2:4] /= transform.scale_x
        return found.astype(np.float32)
    corners = (corners_of(rotated.astype(np.float64)) - pad) / scale
    return from_corners(corners).astype(np.float32)
