"""The score from which on a result is shown, chosen on the validation images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEAR = 0.98
"""Part of the best F1 that is good enough."""
MARGIN = 0.005
"""Distance of the threshold below the score that it lets through."""


def score_threshold(
    scores: NDArray[np.floating], right: NDArray[np.bool_], objects: int, lowest: float = 0.0
) -> float | None:
    """Return the lowest score with nearly the best F1.

    Of scores that are about as good, the lowest is taken: in another place or light scores are
    lower, and a tracker drops boxes that do not last.

    Args:
        scores: (N,) of results.
        right: (N,) whether each is right.
        objects: number of results that could be right.
        lowest: smallest threshold.

    Returns:
        None: no result is right.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    if not len(hits) or not hits[-1]:
        return None
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    place = int(np.flatnonzero(f1 >= NEAR * f1.max())[-1])
    found = float(scores[order][place])
    return round(max(lowest, min(found, 0.99) - MARGIN), 3)
