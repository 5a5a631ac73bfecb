"""Non-maximum suppression by one of several methods: one call, one form of result.

greedy         a box is dropped if its IoU with a better, kept box of its class is above a limit
diou           the same with DIoU, which keeps boxes whose centres are apart, as those of objects
               in a row (Zheng et al., AAAI 2020)
soft_linear    a box that overlaps a better one gets a lower score: * (1 - IoU) above a limit
soft_gaussian  the same with exp(-IoU² / sigma), without a limit (both: Bodla et al., ICCV 2017)
fusion         boxes that overlap become their weighted mean (Solovyev et al., 2021)

Rotated boxes are compared by their rotated IoU, by all methods but `diou` and `fusion`. Of equal
scores, that of the lower row is the better one, so results do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from models.boxes.fusion import FusedScore, fuse
from models.boxes.iou import Boxes, Rows
from models.boxes.rotated import RotatedBoxes
from models.boxes.soft import gaussian_decay, linear_decay, soften
from models.boxes.suppress import rivals_of, suppress, suppress_rivals

Method = Literal["greedy", "diou", "soft_linear", "soft_gaussian", "fusion"]
"""See the head of this file."""
Classes = NDArray[np.integer]
Scores = NDArray[np.floating]


class NmsOptions(NamedTuple):
    """Method and limits of suppression."""

    method: Method = "greedy"
    """See the head of this file."""
    max_iou: float = 0.5
    """Overlap above which boxes are one object."""
    min_score: float = 0.0
    """Boxes with a lower score are dropped; soft methods also compare the lowered score."""
    class_scores: Mapping[int, float] | None = None
    """Class -> its own `min_score`."""
    class_agnostic: bool = False
    """Whether boxes of different classes are compared too."""
    sigma: float = 0.5
    """Width of `soft_gaussian`; higher lowers scores less."""
    fused_score: FusedScore = "mean"
    """Score of the boxes of `fusion`."""
    max_candidates: int = 1000
    """Number of best boxes that are compared with each other; limits the time per image."""
    max_boxes: int = 300
    """Number of best boxes that are returned."""


class Kept(NamedTuple):
    """The boxes that remain, best first; parallel arrays."""

    rows: Rows
    """(K,) rows of the arguments. For `fusion`, the best of the boxes that became one."""
    boxes: Boxes | RotatedBoxes
    """(K, 4) or (K, 5), as the argument; only `fusion` changes them."""
    scores: Scores
    """(K,) only the soft methods and `fusion` change them."""
    classes: Classes
    """(K,)"""


def nms(
    boxes: Boxes | RotatedBoxes,
    scores: Scores,
    classes: Classes,
    options: NmsOptions | None = None,
) -> Kept:
    """Choose, or compute, one box for each object.

    Rows with a score or a number of a box that is not finite are dropped. Boxes without area
    overlap no other box.

    Args:
        boxes: (N, 4) xyxy in px, or (N, 5) cx, cy, w, h in px and angle in radians.
        scores: (N,) from 0 to 1, in any order.
        classes: (N,)
        options: None: greedy, per class, with the defaults of `NmsOptions`.

    Raises:
        ValueError: the method is unknown, or not for boxes with this number of columns.
    """
    options = NmsOptions() if options is None else options
    _check(boxes, options)
    rows = _candidates(boxes, scores, classes, options)
    if options.method == "fusion":
        kept, new_boxes, new_scores = _fused(boxes, scores, classes, rows, options)
    elif options.method in ("soft_linear", "soft_gaussian"):
        kept, new_scores = _softened(boxes, scores, classes, rows, options)
        new_boxes = boxes[kept]
    else:
        kept = rows[_greedy(boxes[rows], _groups(classes[rows], options), options)]
        new_boxes, new_scores = boxes[kept], scores[kept]
    best = slice(options.max_boxes)
    return Kept(kept[best], new_boxes[best], new_scores[best], classes[kept[best]])


def _greedy(boxes: Boxes | RotatedBoxes, groups: Classes | None, options: NmsOptions) -> Rows:
    """Return the rows that greedy suppression keeps, of boxes in order, best first."""
    if options.method == "greedy" and boxes.shape[1] == 4:
        return suppress(boxes, groups, options.max_iou)
    rivals = rivals_of(boxes, groups, "diou" if options.method == "diou" else "iou")
    return suppress_rivals(len(boxes), rivals, options.max_iou)


def _softened(
    boxes: Boxes | RotatedBoxes, scores: Scores, classes: Classes, rows: Rows, options: NmsOptions
) -> tuple[Rows, Scores]:
    """Return the rows that a soft method keeps, and their lowered scores."""
    rows = np.sort(rows)  # of equal lowered scores, that of the lower row is chosen
    rivals = rivals_of(boxes[rows], _groups(classes[rows], options))
    linear = options.method == "soft_linear"
    decay = linear_decay(options.max_iou) if linear else gaussian_decay(options.sigma)
    limits = _limits(scores, classes[rows], options)
    chosen, lowered = soften(scores[rows], rivals, decay, limits)
    return rows[chosen], lowered.astype(scores.dtype)


def _fused(
    boxes: Boxes, scores: Scores, classes: Classes, rows: Rows, options: NmsOptions
) -> tuple[Rows, Boxes, Scores]:
    """Return the best row, the box and the score of each fused box."""
    rows = np.sort(rows)  # of equal scores, fused or not, that of the lower row is the better one
    groups = _groups(classes[rows], options)
    fused = fuse(boxes[rows], scores[rows], groups, options.max_iou, options.fused_score)
    return rows[fused.rows], fused.boxes.astype(boxes.dtype), fused.scores.astype(scores.dtype)


def _groups(classes: Classes, options: NmsOptions) -> Classes | None:
    """Return the groups within which boxes are compared; None: all are one group."""
    return None if options.class_agnostic else classes


def _check(boxes: Boxes | RotatedBoxes, options: NmsOptions) -> None:
    """Refuse an unknown method, and one that is not for these boxes."""
    if options.method not in get_args(Method):
        raise ValueError(
            f"method: unknown (found {options.method!r}); use one of {', '.join(get_args(Method))}"
        )
    upright_only = options.method in ("diou", "fusion")
    if boxes.ndim != 2 or boxes.shape[1] not in ((4,) if upright_only else (4, 5)):
        raise ValueError(
            f"boxes: {options.method} takes (N, 4){'' if upright_only else ' or (N, 5)'} "
            f"(found {boxes.shape})"
        )


def _candidates(
    boxes: Boxes | RotatedBoxes, scores: Scores, classes: Classes, options: NmsOptions
) -> Rows:
    """Return the best finite rows that reach the score of their class, best first."""
    own = options.class_scores or {}
    rows = np.flatnonzero(scores >= min([options.min_score, *own.values()]))
    if own:
        rows = rows[scores[rows] >= _limits(scores, classes[rows], options)]
    finite = np.isfinite(boxes[rows]).all(axis=1) & np.isfinite(scores[rows])
    if not finite.all():
        rows = rows[finite]
    if len(rows) > options.max_candidates:
        # All rows as good as the last one that is compared; fewer than all are then sorted.
        last = len(rows) - options.max_candidates
        rows = rows[scores[rows] >= np.partition(scores[rows], last)[last]]
    best_first: Rows = rows[np.argsort(-scores[rows], kind="stable")]
    return best_first[: options.max_candidates]


def _limits(scores: Scores, classes: Classes, options: NmsOptions) -> Scores:
    """Return the score that each row must reach, rounded like the scores, (N,)."""
    limits = np.full(len(classes), options.min_score, scores.dtype)
    for number, limit in (options.class_scores or {}).items():
        limits[classes == number] = limit
    return limits
