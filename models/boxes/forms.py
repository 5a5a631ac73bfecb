"""Forms of boxes: the four numbers that a model or a file writes for one.

xyxy    left, top, right, bottom: the form of all other code
cxcywh  centre, width, height: YOLO, DETR, text files of YOLO
xywh    left, top, width, height: COCO, MOTChallenge
yxyx    top, left, bottom, right: TensorFlow
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes

Form = Literal["xyxy", "cxcywh", "xywh", "yxyx"]
"""See the head of this file."""


def to_xyxy(boxes: NDArray[np.floating], form: Form) -> Boxes:
    """Convert boxes of any form to left, top, right, bottom.

    Args:
        boxes: (..., 4) of the form `form`, in any unit.
        form: see the head of this file.

    Returns:
        (..., 4) in the same unit; float64 where `boxes` are, else float32.
    """
    boxes = boxes.astype(dtype_of(boxes))
    if form == "yxyx":
        return boxes[..., (1, 0, 3, 2)]
    if form == "xywh":
        boxes[..., 2:] += boxes[..., :2]
    elif form == "cxcywh":
        boxes[..., :2] -= boxes[..., 2:] / 2
        boxes[..., 2:] += boxes[..., :2]
    return boxes


def from_xyxy(boxes: Boxes, form: Form) -> NDArray[np.floating]:
    """Convert boxes to another form; the inverse of `to_xyxy`.

    Args:
        boxes: (..., 4) xyxy, in any unit.
        form: see the head of this file.

    Returns:
        (..., 4) in the same unit; float64 where `boxes` are, else float32.
    """
    boxes = boxes.astype(dtype_of(boxes))
    if form == "yxyx":
        return boxes[..., (1, 0, 3, 2)]
    if form in ("xywh", "cxcywh"):
        boxes[..., 2:] -= boxes[..., :2]
    if form == "cxcywh":
        boxes[..., :2] += boxes[..., 2:] / 2
    return boxes


def dtype_of(*arrays: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype of a result: float64 where one of the arguments is, else float32."""
    wide = any(array.dtype == np.float64 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)
