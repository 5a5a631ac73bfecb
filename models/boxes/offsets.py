"""Codings of boxes as offsets from anchors: SSD, Faster R-CNN, RetinaNet, EfficientDet.

An anchor (cx, cy, w, h) and a row (tx, ty, tw, th) give the box with the centre
`cx + tx * w / scale`, `cy + ty * h / scale` and the sides `w * exp(tw / scale)`,
`h * exp(th / scale)`. SSD calls 1 / scale a variance.
Source: Ren et al., "Faster R-CNN", NeurIPS 2015, equation 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import dtype_of, from_xyxy
from models.boxes.iou import Boxes

Offsets = NDArray[np.floating]
"""(..., 4) offsets from anchors, as a model gives them."""


class OffsetCoding(NamedTuple):
    """Scales and order of the numbers of a row."""

    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """For tx, ty, tw, th: 10, 10, 5, 5 are variances of 0.1, 0.1, 0.2, 0.2."""
    yx_first: bool = False
    """Whether a row is ty, tx, th, tw, as in TensorFlow."""
    max_log: float | None = None
    """Limit of tw / scale and th / scale, so that their exponential stays small; None: no limit."""


SSD = OffsetCoding()
"""Liu et al., ECCV 2016, in the authors' models."""
TF_SSD = OffsetCoding(yx_first=True)
"""SSD in the TensorFlow Object Detection API; its EfficientDet has scales of 1."""
FASTER_RCNN = OffsetCoding(max_log=math.log(1000 / 16))
"""The second stage in torchvision and Detectron."""
RPN = OffsetCoding((1.0, 1.0, 1.0, 1.0), max_log=math.log(1000 / 16))
"""The first stage in torchvision and Detectron, and RetinaNet there."""


def decode_offsets(
    offsets: Offsets, anchors: NDArray[np.floating], coding: OffsetCoding = SSD
) -> Boxes:
    """Compute boxes from offsets.

    Args:
        offsets: (..., 4).
        anchors: (N, 4) cx, cy, w, h, or of a shape that numpy can broadcast.
        coding: see `OffsetCoding`.

    Returns:
        (..., 4) xyxy in the unit of the anchors. A side too large for the dtype is infinite.
    """
    dtype = dtype_of(offsets)
    rows = offsets[..., (1, 0, 3, 2)] if coding.yx_first else offsets
    rows = rows.astype(dtype) / np.array(coding.scales, dtype)
    growth = rows[..., 2:]
    if coding.max_log is not None:
        growth = np.minimum(growth, coding.max_log)
    anchors = anchors.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        half = anchors[..., 2:] * np.exp(growth) / 2
    centre = anchors[..., :2] + rows[..., :2] * anchors[..., 2:]
    return np.concatenate([centre - half, centre + half], axis=-1)


def encode_offsets(
    boxes: Boxes, anchors: NDArray[np.floating], coding: OffsetCoding = SSD
) -> Offsets:
    """Compute offsets from boxes; the inverse of `decode_offsets`, below its limit.

    Args:
        boxes: (..., 4) xyxy. A side of 0 gives an offset of minus infinity.
        anchors: (N, 4) cx, cy, w, h in the same unit, with sides above 0.
        coding: see `OffsetCoding`.

    Returns:
        (..., 4) offsets.
    """
    dtype = dtype_of(boxes)
    rows = from_xyxy(boxes, "cxcywh")
    anchors = anchors.astype(dtype, copy=False)
    shift = (rows[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    with np.errstate(divide="ignore"):
        growth = np.log(rows[..., 2:] / anchors[..., 2:])
    offsets: Offsets = np.concatenate([shift, growth], axis=-1) * np.array(coding.scales, dtype)
    return offsets[..., (1, 0, 3, 2)] if coding.yx_first else offsets
