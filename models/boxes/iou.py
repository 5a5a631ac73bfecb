"""Intersection over union: how far two boxes are the same, from 0 (apart) to 1 (equal)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]
Rows = NDArray[np.intp]


def overlapping_pairs(a: Boxes, b: Boxes) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """All pairs of a box of `a` and a box of `b` that overlap.

    Args:
        a: (N, 4) xyxy in px. A box without area overlaps nothing.
        b: (M, 4) xyxy in px.

    Returns:
        rows of `a`, rows of `b`, and the IoU in (0, 1] of each pair; (P,) each, ordered by the row
        of `a`, then the row of `b`.
    """
    # Comparing is cheap and leaves few of the N x M pairs to be computed.
    left, top, right, bottom = a.T[:, :, None]
    meet = left < b[:, 2]
    meet &= right > b[:, 0]
    meet &= top < b[:, 3]
    meet &= bottom > b[:, 1]
    i, j = np.nonzero(meet)
    p, q = a[i].astype(np.float64), b[j].astype(np.float64)
    side = np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2])
    shared = side[:, 0] * side[:, 1]
    solid = (side > 0).all(axis=1)  # a box turned inside out has passed the comparisons
    if not solid.all():
        i, j, p, q, shared = i[solid], j[solid], p[solid], q[solid], shared[solid]
    return i, j, shared / (_area(p) + _area(q) - shared)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    side = boxes[:, 2:] - boxes[:, :2]
    area: NDArray[np.float64] = side[:, 0] * side[:, 1]
    return area
