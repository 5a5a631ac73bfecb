"""Intersection over union (IoU) of boxes: 0 where they are disjoint, 1 where they are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]
"""(N, 4) xyxy in px."""
Rows = NDArray[np.intp]
"""Row numbers."""


def overlapping_pairs(a: Boxes, b: Boxes) -> tuple[Rows, Rows, NDArray[np.float64]]:
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
