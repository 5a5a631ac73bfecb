"""Masks of objects: from prototypes, or from small masks, to runs (RLE) in the captured image.

A mask is computed for the boxes that remain after suppression only, and only inside its box. It is
never a full image.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, rle_of_part
from models.output_layout import Masks
from models.transform import Transform

Floats = NDArray[np.float32]


class Canvas(NamedTuple):
    """The captured image that masks are made for, and the input that it became."""

    transform: Transform
    size: tuple[int, int]
    """Width and height of the input in pixels."""


def masks_of_prototypes(
    coefficients: Floats, prototypes: Floats, boxes: Floats, canvas: Canvas, layout: Masks
) -> list[Rle]:
    """Compute masks as weighted sums of prototypes (Bolya et al., YOLACT, ICCV 2019).

    The sum is interpolated at each pixel of the captured image, inside the box.

    Args:
        coefficients: (N, M).
        prototypes: (M, h, w) over the input.
        boxes: (N, 4) xyxy in pixels of the captured image, inside it.
        canvas: captured image and input.
        layout: threshold.

    Raises:
        ValueError: there are other prototypes than coefficients.
    """
    if len(boxes) and coefficients.shape[1] != len(prototypes):
        raise ValueError(
            f"masks: expected {coefficients.shape[1]} prototypes, as many as coefficients (found "
            f"{len(prototypes)})"
        )
    limit = float(np.log(layout.threshold / (1 - layout.threshold)))
    _, rows, columns = prototypes.shape
    steps = canvas.size[0] / columns, canvas.size[1] / rows
    found = []
    for own, box in zip(coefficients, boxes, strict=True):
        left, top, right, bottom = _cells_of(box, canvas.transform, steps, (columns, rows))
        part = np.ascontiguousarray(prototypes[:, top:bottom, left:right], np.float32)
        total = (own @ part.reshape(len(part), -1)).reshape(bottom - top, right - left)
        found.append(_inside_box(total, (left, top), steps, box, canvas.transform, limit))
    return found


def masks_of_boxes(masks: Floats, boxes: Floats, canvas: Canvas, layout: Masks) -> list[Rle]:
    """Place masks over their boxes, or over the input.

    Args:
        masks: (N, h, w).
        boxes: (N, 4) xyxy in pixels of the captured image, inside it.
        canvas: captured image and input.
        layout: place of the masks, activation and threshold.
    """
    limit = layout.threshold
    if layout.activation == "sigmoid":
        limit = float(np.log(limit / (1 - limit)))
    transform = canvas.transform
    rows, columns = masks.shape[1:]
    over_image = layout.over == "image" or (
        layout.over == "auto" and (columns, rows) == canvas.size
    )
    found = []
    for own, box in zip(masks, boxes, strict=True):
        if over_image:
            steps = canvas.size[0] / columns, canvas.size[1] / rows
            found.append(_inside_box(own, (0, 0), steps, box, transform, limit))
            continue
        # The box is the whole of the mask: cells of it in place of pixels of the input.
        width, height = box[2] - box[0], box[3] - box[1]
        if width <= 0 or height <= 0:
            found.append(_empty(transform))
            continue
        scale_x, scale_y = columns / width, rows / height
        over = transform._replace(
            scale_x=scale_x, scale_y=scale_y, pad_x=-box[0] * scale_x, pad_y=-box[1] * scale_y
        )
        found.append(_inside_box(own, (0, 0), (1.0, 1.0), box, over, limit))
    return found


def _cells_of(
    box: Floats, transform: Transform, steps: tuple[float, float], grid: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the cells that interpolation inside a box needs, xyxy, one at least."""
    x1, y1, x2, y2 = (transform.apply(box[None])[0] / np.tile(steps, 2)).tolist()
    left = min(max(0, int(np.floor(x1 - 0.5))), grid[0] - 1)
    top = min(max(0, int(np.floor(y1 - 0.5))), grid[1] - 1)
    right = max(left + 1, min(grid[0], int(np.ceil(x2 + 0.5)) + 1))
    bottom = max(top + 1, min(grid[1], int(np.ceil(y2 + 0.5)) + 1))
    return left, top, right, bottom


def _inside_box(
    values: Floats,
    first: tuple[int, int],
    steps: tuple[float, float],
    box: Floats,
    transform: Transform,
    limit: float,
) -> Rle:
    """Interpolate values at the pixels of a box, and return those above a limit as a mask.

    Args:
        values: (h, w) cells.
        first: column and row of the first cell in the whole grid.
        steps: width and height of a cell in pixels of the input.
        box: (4,) xyxy in pixels of the captured image.
        transform: from the captured image to the input.
        limit: value above which a pixel is inside.
    """
    # A pixel is inside the box if its centre is.
    x1, y1 = (max(0, int(np.ceil(side - 0.5))) for side in box[:2].tolist())
    x2 = min(transform.width, int(np.ceil(float(box[2]) - 0.5)))
    y2 = min(transform.height, int(np.ceil(float(box[3]) - 0.5)))
    if x2 <= x1 or y2 <= y1:
        return _empty(transform)
    scale = transform.scale_x / steps[0], transform.scale_y / steps[1]
    pad = transform.pad_x / steps[0], transform.pad_y / steps[1]
    # OpenCV counts from the centres of pixels and cells.
    shift = [
        (start + 0.5) * scale[axis] + pad[axis] - 0.5 - first[axis]
        for axis, start in enumerate((x1, y1))
    ]
    back = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    fine = cv2.warpAffine(
        np.ascontiguousarray(values, np.float32),
        back,
        (x2 - x1, y2 - y1),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return rle_of_part(fine > limit, x1, y1, transform.height, transform.width)


def _empty(transform: Transform) -> Rle:
    return Rle(
        transform.height, transform.width, np.array([transform.height * transform.width], np.int64)
    )
