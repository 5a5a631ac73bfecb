"""Weighted fusion: boxes that overlap become one, their mean, weighted with their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes, Rows

FusedScore = Literal["mean", "max"]
"""The score of a fused box: the mean of its boxes, as in the paper, or the best of them."""
MIN_WEIGHT = 1e-12
"""Weight of a box of score 0, so that a mean of such boxes is defined."""


class Fused(NamedTuple):
    """Fused boxes, best first; of equal scores, that with the lower row first."""

    rows: Rows
    """(K,) the best box of each."""
    boxes: NDArray[np.float64]
    """(K, 4) xyxy in px."""
    scores: NDArray[np.float64]
    """(K,)"""


class _Cluster:
    """Boxes that became one."""

    __slots__ = ("area", "box", "count", "row", "score", "sums", "weight")

    def __init__(self, row: int) -> None:
        self.row = row
        """Row of the best box."""
        self.box: Sequence[float] = ()
        self.area = 0.0
        self.sums = [0.0] * 4
        """Sums of weight * coordinate."""
        self.weight = 0.0
        self.score = 0.0
        """Sum of the scores."""
        self.count = 0

    def add(self, box: Sequence[float], score: float) -> None:
        """Move the fused box to the new mean."""
        weight = max(score, MIN_WEIGHT)
        self.sums = [total + weight * side for total, side in zip(self.sums, box, strict=True)]
        self.weight += weight
        self.score += score
        self.count += 1
        self.box = [total / self.weight for total in self.sums]
        self.area = _area(self.box)


def fuse(
    boxes: Boxes,
    scores: NDArray[np.floating],
    groups: NDArray[np.integer] | None,
    max_iou: float,
    fused_score: FusedScore = "mean",
) -> Fused:
    """Replace boxes that overlap by their mean, for the boxes of one model.

    Each box, best first, joins the fused box that it overlaps most, which then moves to the new
    mean, or begins another one. Source: Solovyev et al., "Weighted boxes fusion: Ensembling boxes
    from different object detection models", Image and Vision Computing 107 (2021), section 3; with
    one model, no score is reduced for the models that did not find the object.

    Args:
        boxes: (N, 4) xyxy in px, finite.
        scores: (N,) from 0 to 1; of equal scores, that of the lower row is the better one.
        groups: (N,) boxes are fused only within a group; None: all are one group.
        max_iou: a box joins a fused box if their IoU is above this.
        fused_score: see `FusedScore`.
    """
    # Most groups are small, so that loops over plain numbers take less time than numpy's calls.
    numbers = [0] * len(boxes) if groups is None else groups.tolist()
    rectangles, values = boxes.tolist(), scores.tolist()
    by_group: dict[int, list[_Cluster]] = {}
    for row in np.argsort(-scores, kind="stable").tolist():
        clusters = by_group.setdefault(numbers[row], [])
        found = _best_match(rectangles[row], clusters, max_iou)
        if found is None:
            found = _Cluster(row)
            clusters.append(found)
        found.add(rectangles[row], values[row])
    fused = [cluster for clusters in by_group.values() for cluster in clusters]
    rows = np.array([cluster.row for cluster in fused], np.intp)
    best = fused_score == "max"
    new = np.array([values[c.row] if best else c.score / c.count for c in fused], np.float64)
    order = np.lexsort((rows, -new))
    means = np.array([cluster.box for cluster in fused], np.float64).reshape(-1, 4)
    return Fused(rows[order], means[order], new[order])


def _best_match(
    box: Sequence[float], clusters: Iterable[_Cluster], max_iou: float
) -> _Cluster | None:
    """Return the fused box that a box overlaps most; None: no overlap is above the limit."""
    left, top, right, bottom = box
    area = _area(box)
    found = None
    for cluster in clusters:
        c_left, c_top, c_right, c_bottom = cluster.box
        if c_left >= right or left >= c_right or c_top >= bottom or top >= c_bottom:
            continue
        across = min(right, c_right) - max(left, c_left)
        down = min(bottom, c_bottom) - max(top, c_top)
        if across <= 0 or down <= 0:  # a box with right < left passes the comparisons
            continue
        shared = across * down
        union = area + cluster.area - shared
        if union > 0 and shared / union > max_iou:
            max_iou, found = shared / union, cluster
    return found


def _area(box: Sequence[float]) -> float:
    """Return an area; 0 for a box with right < left or bottom < top."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
