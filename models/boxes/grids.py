"""Codings of boxes relative to the cells of a grid: YOLOv3, YOLOv4, YOLOv5, YOLOv7, YOLOX.

Cells are given by their top left corners in px, as by `anchor_grid`, or by `grid_points` with an
offset of 0. Encoding is the inverse of decoding where a box can be written at all: a centre at the
end of the range of a sigmoid is infinite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import dtype_of, from_xyxy
from models.boxes.iou import Boxes

Raw = NDArray[np.floating]
"""(N, 4) x, y, w, h as a model gives them."""
Numbers = NDArray[np.floating]


def decode_yolov3(
    raw: Raw, corners: Numbers, strides: Numbers, anchors: Numbers, spread: float = 1.0
) -> Boxes:
    """Compute boxes of YOLOv3: centre sigmoid + cell, sides exp * anchor.

    Source: Redmon & Farhadi, "YOLOv3: An Incremental Improvement", 2018, section 2.1; `spread` is
    that of Bochkovskiy et al., "YOLOv4", 2020, section 4.2.

    Args:
        raw: (N, 4) x, y, w, h before any function.
        corners: (N, 2) top left corners of the cells in px.
        strides: (N,) in px.
        anchors: (N, 2) width and height in px.
        spread: the centre reaches over this many cells, around the middle of its own; YOLOv4's
            `scale_x_y`: 1.2, 1.1, 1.05.

    Returns:
        (N, 4) xyxy in px.
    """
    dtype = dtype_of(raw)
    rows = raw.astype(dtype)
    shift = _sigmoid(rows[..., :2]) * spread - (spread - 1) / 2
    return _boxes(shift, corners, strides, _exp(rows[..., 2:]) * anchors.astype(dtype))


def encode_yolov3(
    boxes: Boxes, corners: Numbers, strides: Numbers, anchors: Numbers, spread: float = 1.0
) -> Raw:
    """Compute the numbers that `decode_yolov3` makes boxes of; see there."""
    shift, size = _cells(boxes, corners, strides)
    return np.concatenate(
        [_logit((shift + (spread - 1) / 2) / spread), _log(size / anchors.astype(size.dtype))],
        axis=-1,
    )


def decode_yolov5(raw: Raw, corners: Numbers, strides: Numbers, anchors: Numbers) -> Boxes:
    """Compute boxes of YOLOv5 and YOLOv7: centre 2 * sigmoid - 0.5 + cell, sides (2 * sigmoid)².

    Source: Wang et al., "YOLOv7", CVPR 2023, and the description of YOLOv5's output: the centre
    reaches over two cells, and a side to four times that of the anchor.

    Args:
        raw: (N, 4) x, y, w, h before the sigmoid.
        corners: (N, 2) top left corners of the cells in px.
        strides: (N,) in px.
        anchors: (N, 2) width and height in px.

    Returns:
        (N, 4) xyxy in px.
    """
    twice = 2 * _sigmoid(raw.astype(dtype_of(raw)))
    size = twice[..., 2:] ** 2 * anchors.astype(twice.dtype)
    return _boxes(twice[..., :2] - 0.5, corners, strides, size)


def encode_yolov5(boxes: Boxes, corners: Numbers, strides: Numbers, anchors: Numbers) -> Raw:
    """Compute the numbers that `decode_yolov5` makes boxes of; see there."""
    shift, size = _cells(boxes, corners, strides)
    root = np.sqrt(size / anchors.astype(size.dtype))
    return _logit(np.concatenate([shift + 0.5, root], axis=-1) / 2)


def decode_yolox(raw: Raw, corners: Numbers, strides: Numbers) -> Boxes:
    """Compute boxes of YOLOX: centre (x + cell) * stride, sides exp * stride.

    Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1.

    Args:
        raw: (N, 4) x, y, w, h.
        corners: (N, 2) top left corners of the cells in px.
        strides: (N,) in px.

    Returns:
        (N, 4) xyxy in px.
    """
    rows = raw.astype(dtype_of(raw))
    size = _exp(rows[..., 2:]) * strides.astype(rows.dtype)[..., None]
    return _boxes(rows[..., :2], corners, strides, size)


def encode_yolox(boxes: Boxes, corners: Numbers, strides: Numbers) -> Raw:
    """Compute the numbers that `decode_yolox` makes boxes of; see there."""
    shift, size = _cells(boxes, corners, strides)
    return np.concatenate([shift, _log(size / strides.astype(size.dtype)[..., None])], axis=-1)


def _boxes(shift: Numbers, corners: Numbers, strides: Numbers, size: Numbers) -> Boxes:
    """Compute boxes (N, 4) xyxy from centres in cells from the corner, and sizes in px."""
    dtype = shift.dtype
    centre = corners.astype(dtype, copy=False) + shift * strides.astype(dtype)[..., None]
    half = size / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def _cells(boxes: Boxes, corners: Numbers, strides: Numbers) -> tuple[Numbers, Numbers]:
    """Return centres in cells from the corner, and sizes in px, (N, 2) each."""
    rows = from_xyxy(boxes, "cxcywh")
    shift = rows[..., :2] - corners.astype(rows.dtype, copy=False)
    return shift / strides.astype(rows.dtype)[..., None], rows[..., 2:]


def _sigmoid(x: Numbers) -> Numbers:
    """Return 1 / (1 + exp(-x))."""
    sigmoid: Numbers = 1 / (1 + _exp(-x))
    return sigmoid


def _exp(x: Numbers) -> Numbers:
    """Return exp(x); infinite where it is too large for the dtype."""
    with np.errstate(over="ignore"):
        power: Numbers = np.exp(x)
    return power


def _log(x: Numbers) -> Numbers:
    """Return log(x); minus infinity for 0, which decodes to 0 again."""
    with np.errstate(divide="ignore"):
        log: Numbers = np.log(x)
    return log


def _logit(p: Numbers) -> Numbers:
    """Return the inverse of the sigmoid; probabilities beyond 0 and 1 are moved to them."""
    p = np.clip(p, 0, 1)
    return _log(p) - _log(1 - p)
