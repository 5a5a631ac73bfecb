"""Greedy non-maximum suppression: of boxes that overlap, only the best is kept."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes, Measure, Overlaps, Rows, iou_pairs
from models.boxes.rotated import RotatedBoxes, rotated_iou_pairs, upright_around

MAX_COORDINATE_PX = 2.0**15
"""Bound of coordinates: overlaps are computed with those beyond it moved to it."""
MIN_AREA_PX2 = 1e-9
"""A box of a smaller area overlaps no other box."""


def suppress(boxes: Boxes, groups: NDArray[np.integer] | None, max_iou: float) -> Rows:
    """Choose the boxes that remain (Neubeck & Van Gool, ICPR 2006, with IoU as the overlap).

    OpenCV rounds the IoU to float32: a box whose IoU is within 1e-7 of the limit may be kept or
    dropped. For 300 boxes the same in numpy takes six times as long, for 1000 twelve times.

    Args:
        boxes: (N, 4) xyxy in px, best first, finite.
        groups: (N,) boxes suppress each other only within a group; None: all are one group.
        max_iou: a box is dropped if its IoU with a better box that is kept is above this.

    Returns:
        (K,) the rows that are kept, best first.
    """
    corners = np.clip(boxes.astype(np.float64), -MAX_COORDINATE_PX, MAX_COORDINATE_PX)
    size = corners[:, 2:] - corners[:, :2]
    solid = (size > 0).all(axis=1) & (size[:, 0] * size[:, 1] > MIN_AREA_PX2)
    if not solid.all():
        # OpenCV computes an overlap of 1 for any two boxes without area.
        rows = np.flatnonzero(solid)
        kept = rows[suppress(boxes[rows], None if groups is None else groups[rows], max_iou)]
        return np.sort(np.concatenate([kept, np.flatnonzero(~solid)]))
    if groups is not None and len(groups) and (groups != groups[0]).any():
        # Side by side no group overlaps another; rounding moves a box by less than 1e-6 px.
        corners[:, 0] += groups * (2 * MAX_COORDINATE_PX)
    ranks = range(len(boxes), 0, -1)  # in place of scores, which OpenCV requires to be above 0
    xywh = np.concatenate([corners[:, :2], size], axis=1).tolist()
    return np.asarray(cv2.dnn.NMSBoxes(xywh, ranks, 0.0, max_iou), np.intp).reshape(-1)


class Rivals(NamedTuple):
    """Pairs of boxes of one group that overlap, ordered by `first`, then `second`."""

    first: Rows
    """(P,) the lower row of each pair."""
    second: Rows
    """(P,) the higher row."""
    overlaps: Overlaps
    """(P,) IoU, or another measure."""


def rivals_of(
    boxes: Boxes | RotatedBoxes, groups: NDArray[np.integer] | None, measure: Measure = "iou"
) -> Rivals:
    """Find all pairs of boxes of one group that overlap.

    Args:
        boxes: (N, 4) xyxy in px, or (N, 5) rotated boxes, finite.
        groups: (N,) or None: all are one group.
        measure: the measure for upright boxes; that for rotated ones is always the IoU.
    """
    rotated = boxes.shape[1] == 5
    upright = upright_around(boxes.astype(np.float64)) if rotated else boxes
    left, top, right, bottom = upright.T[:, :, None]
    # Comparisons are cheap and leave few of the N x N pairs to be computed.
    near = left < upright[:, 2]
    if groups is not None:
        near &= groups[:, None] == groups
    near &= right > upright[:, 0]
    near &= top < upright[:, 3]
    near &= bottom > upright[:, 1]
    i, j = np.nonzero(near)
    lower = i < j
    i, j = i[lower], j[lower]
    if rotated:
        return Rivals(i, j, rotated_iou_pairs(boxes[i], boxes[j]))
    return Rivals(i, j, iou_pairs(boxes[i], boxes[j], measure))


def suppress_rivals(count: int, rivals: Rivals, max_overlap: float) -> Rows:
    """Choose the boxes that remain, by overlaps of any measure.

    Args:
        count: number of boxes; their rows are in order, best first.
        rivals: their overlaps.
        max_overlap: a box is dropped if its overlap with a better box that is kept is above this.

    Returns:
        (K,) the rows that are kept, best first.
    """
    high = rivals.overlaps > max_overlap
    first, second = rivals.first[high], rivals.second[high]
    better, starts = np.unique(first, return_index=True)
    alive = np.ones(count, bool)
    for row, worse in zip(better.tolist(), np.split(second, starts[1:]), strict=False):
        if alive[row]:
            alive[worse] = False
    return np.flatnonzero(alive)
