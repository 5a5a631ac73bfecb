"""Soft suppression: boxes that overlap a better one get a lower score in place of being dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Overlaps, Rows
from models.boxes.suppress import Rivals

Decay = Callable[[Overlaps], Overlaps]
"""Maps overlaps to the factors that scores are multiplied by."""


class Softened(NamedTuple):
    """Rows in the order in which they were chosen, best first."""

    rows: Rows
    """(K,)"""
    scores: NDArray[np.float64]
    """(K,) scores after all decays."""


def linear_decay(max_iou: float) -> Decay:
    """Make the factor 1 - IoU, for an IoU above `max_iou` (Bodla et al., ICCV 2017)."""
    return lambda iou: np.where(iou > max_iou, 1 - iou, 1.0)


def gaussian_decay(sigma: float) -> Decay:
    """Make the factor exp(-IoU² / sigma) (the same paper)."""
    return lambda iou: np.exp(-(iou**2) / sigma)


def soften(
    scores: NDArray[np.floating], rivals: Rivals, decay: Decay, limits: NDArray[np.floating]
) -> Softened:
    """Choose the best box, lower the scores of those that overlap it, and repeat.

    Source: Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017.

    Args:
        scores: (N,) from 0 to 1; of equal scores, that of the lower row is the better one.
        rivals: overlaps of the boxes.
        decay: `linear_decay` or `gaussian_decay`.
        limits: (N,) a box is dropped as soon as its score is below its limit; it then lowers no
            other score.
    """
    factors = np.ones((len(scores), len(scores)))
    factors[rivals.first, rivals.second] = decay(rivals.overlaps)
    factors[rivals.second, rivals.first] = factors[rivals.first, rivals.second]
    left = scores.astype(np.float64)
    lowest, limit = float(limits.min(initial=np.inf)), limits.tolist()
    done = np.zeros(len(scores), bool)
    rows: list[int] = []
    final: list[float] = []
    for _ in range(len(scores)):
        row = int(left.argmax())
        score = float(left[row])
        if score < lowest:
            break
        done[row] = True
        if score >= limit[row]:
            rows.append(row)
            final.append(score)
            left *= factors[row]
        left[done] = -1
    return Softened(np.array(rows, np.intp), np.array(final, np.float64))
