"""Greedy non-maximum suppression: of boxes that overlap, only the best is kept."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes, Rows

MAX_COORDINATE_PX = 2.0**15
"""Bound of coordinates: overlaps are computed with those beyond it moved to it."""
MIN_AREA_PX2 = 1e-9
"""A box of a smaller area overlaps no other box."""


def suppress(boxes: Boxes, groups: NDArray[np.integer] | None, max_iou: float) -> Rows:
    """Choose the boxes that remain (Neubeck & Van Gool, ICPR 2006, with IoU as the overlap).

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
