"""Overlaps of boxes: IoU and the measures derived from it, for all pairs or row by row.

iou   intersection over union: 0 where two boxes are disjoint, 1 where they are equal
ioa   intersection over the area of the first box: how much of it lies in the other, such as a crowd
giou  IoU less the empty part of the smallest box around both (Rezatofighi et al., "Generalized
      Intersection over Union", CVPR 2019); from -1 to 1
diou  IoU less the squared distance of the centres, over the squared diagonal of that box (Zheng et
      al., "Distance-IoU Loss", AAAI 2020); from -1 to 1
ciou  DIoU less a term for different aspect ratios (the same paper)

All are computed in float64. A box without area (right <= left, or bottom <= top) overlaps no box;
a term with a divisor of 0 is 0, so that finite boxes never give NaN.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]
"""(N, 4) xyxy in px."""
Rows = NDArray[np.intp]
"""Row numbers."""
Overlaps = NDArray[np.float64]
"""Values of a measure."""
Measure = Literal["iou", "ioa", "giou", "diou", "ciou"]
"""See the head of this file."""


def iou_matrix(a: Boxes, b: Boxes, measure: Measure = "iou") -> Overlaps:
    """Compute a measure for each box of `a` with each box of `b`.

    Args:
        a: (N, 4) xyxy, finite.
        b: (M, 4) xyxy, finite, in the same unit.
        measure: see the head of this file.

    Returns:
        (N, M) values.
    """
    return _measured(_columns(a)[:, :, None], _columns(b)[:, None, :], measure)


def iou_pairs(a: Boxes, b: Boxes, measure: Measure = "iou") -> Overlaps:
    """Compute a measure for each box of `a` with the box of `b` in the same row.

    Args:
        a: (N, 4) xyxy, finite.
        b: (N, 4) xyxy, finite, in the same unit.
        measure: see the head of this file.

    Returns:
        (N,) values.
    """
    return _measured(_columns(a), _columns(b), measure)


def overlapping_pairs(a: Boxes, b: Boxes) -> tuple[Rows, Rows, Overlaps]:
    """Find all pairs of a box of `a` and a box of `b` that overlap.

    Args:
        a: (N, 4) xyxy in px. A box without area overlaps no other box.
        b: (M, 4) xyxy in px.

    Returns:
        rows of `a`, rows of `b`, and the IoU in (0, 1] of each pair; (P,) each, ordered by the row
        of `a`, then the row of `b`.
    """
    # Comparisons are cheap and leave few of the N x M pairs to be computed.
    left, top, right, bottom = a.T[:, :, None]
    overlaps = left < b[:, 2]
    overlaps &= right > b[:, 0]
    overlaps &= top < b[:, 3]
    overlaps &= bottom > b[:, 1]
    i, j = np.nonzero(overlaps)
    p, q = a[i].astype(np.float64), b[j].astype(np.float64)
    side = np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2])
    shared = side[:, 0] * side[:, 1]
    solid = (side > 0).all(axis=1)  # a box with right < left passes the comparisons
    if not solid.all():
        i, j, p, q, shared = i[solid], j[solid], p[solid], q[solid], shared[solid]
    return i, j, shared / (_area(p) + _area(q) - shared)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas of boxes in px²."""
    side = boxes[:, 2:] - boxes[:, :2]
    area: NDArray[np.float64] = side[:, 0] * side[:, 1]
    return area


def _columns(boxes: Boxes) -> Overlaps:
    """Return left, top, right and bottom as rows of an array, (4, N)."""
    return np.ascontiguousarray(boxes.T, np.float64)


def _measured(a: Overlaps, b: Overlaps, measure: Measure) -> Overlaps:
    """Compute a measure of columns that numpy can broadcast against each other."""
    area_a, area_b = _solid_area(a), _solid_area(b)
    across = _shared_side(a, b, 0)
    shared = across * _shared_side(a, b, 1)
    if measure == "ioa":
        return _ratio(shared, np.broadcast_to(area_a, shared.shape))
    union = area_a + area_b - shared
    iou = _ratio(shared, union)
    if measure == "iou":
        return iou
    width, height = _hull_side(a, b, 0), _hull_side(a, b, 1)
    if measure == "giou":
        hull = width * height
        return iou - _ratio(np.maximum(hull - union, 0), hull)
    distance2 = (_twice_centre(a, 0) - _twice_centre(b, 0)) ** 2 / 4
    distance2 = distance2 + (_twice_centre(a, 1) - _twice_centre(b, 1)) ** 2 / 4
    diou = iou - _ratio(distance2, width**2 + height**2)
    if measure == "diou":
        return diou
    v = 4 / np.pi**2 * (_slope(a) - _slope(b)) ** 2
    return diou - v * _ratio(v, 1 - iou + v)


def _ratio(upper: Overlaps, lower: Overlaps) -> Overlaps:
    """Divide; 0 where the divisor is not above 0."""
    ratio: Overlaps = np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)
    return ratio


def _solid_area(box: Overlaps) -> Overlaps:
    """Return areas; 0 for a box with right < left or bottom < top."""
    area: Overlaps = np.maximum(box[2] - box[0], 0) * np.maximum(box[3] - box[1], 0)
    return area


def _shared_side(a: Overlaps, b: Overlaps, axis: int) -> Overlaps:
    """Return the length that two boxes share along x (0) or y (1)."""
    side: Overlaps = np.minimum(a[axis + 2], b[axis + 2]) - np.maximum(a[axis], b[axis])
    return np.maximum(side, 0, out=side)


def _hull_side(a: Overlaps, b: Overlaps, axis: int) -> Overlaps:
    """Return the length of the smallest box around both along x (0) or y (1)."""
    side: Overlaps = np.maximum(a[axis + 2], b[axis + 2]) - np.minimum(a[axis], b[axis])
    return np.maximum(side, 0, out=side)


def _twice_centre(box: Overlaps, axis: int) -> Overlaps:
    """Return twice the centre along x (0) or y (1)."""
    twice: Overlaps = box[axis] + box[axis + 2]
    return twice


def _slope(box: Overlaps) -> Overlaps:
    """Return the angle of the diagonal from the y axis; it states the aspect ratio."""
    angle: Overlaps = np.arctan2(box[2] - box[0], box[3] - box[1])
    return angle
