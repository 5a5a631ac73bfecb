"""Assignment of detections to tracks."""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]


def assign(i: Rows, j: Rows, gain: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Choose the pairs with the largest sum of gains; each member is in one pair at most.

    Jonker & Volgenant, Computing 38, 1987 (lap.lapjv), for members with several candidates.

    Args:
        i: (P,) left members, from 0.
        j: (P,) right members, from 0; no pair twice.
        gain: (P,) more than 0.

    Returns:
        Left and right members of the chosen pairs.
    """
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)
    if alone.all():
        return i, j
    left, at_left = np.unique(i[~alone], return_inverse=True)
    right, at_right = np.unique(j[~alone], return_inverse=True)
    cost = np.zeros((len(left), len(right)))
    cost[at_left, at_right] = -gain[~alone]
    to, _ = lap.lapjv(cost, extend_cost=True, return_cost=False)
    # A match of two that are no pair costs nothing, like no match, and is dropped here.
    chosen = np.flatnonzero((to >= 0) & (cost[np.arange(len(to)), to] < 0))
    return (
        np.concatenate([i[alone], left[chosen]]),
        np.concatenate([j[alone], right[to[chosen]]]),
    )
