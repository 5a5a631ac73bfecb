"""COCO figures in which each image counts as often as a weight says, fast enough to resample.

Boxes are matched and sorted once. With weights, only sums along the sorted boxes are computed; a
weight of 2 gives the figures of a data set that has the image twice. With all weights 1 the
figures are those of `models.evaluation.detection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import Rows, areas_of
from models.evaluation.detection import (
    IOUS,
    RECALLS,
    ImageBoxes,
    PrecisionCurves,
    check_images,
)
from models.evaluation.matching import best_first, class_ious, crowd_of, taken_columns

Weights = NDArray[np.float64]
"""(I,) how often each image counts."""
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
"""Names of the figures, those of `DetectionFigures`."""
SIZES = {
    "": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Name of a range of sizes -> its lowest and highest area in px², both included."""
_IOUS = np.linspace(0.5, 0.95, IOUS)
_RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, RECALLS, dtype=np.float64)
_SPACING = float(np.spacing(1.0))
"""Added to a divisor, as in pycocotools, so that it is not 0."""


class _Matched(NamedTuple):
    """Found boxes of all images, matched for one range of sizes."""

    image: Rows
    """(D,) number of the image."""
    number: NDArray[np.intp]
    """(D,) class."""
    score: NDArray[np.float64]
    rank: NDArray[np.intp]
    """(D,) number of better boxes of its class in its image."""
    right: NDArray[np.bool_]
    """(D, 10) whether it matches a true box, at each IoU threshold."""
    ignored: NDArray[np.bool_]
    """(D, 10) whether it is not counted."""
    objects: NDArray[np.float64]
    """(I, C) number of true boxes that count."""


class WeightedDetections:
    """Detections of a data set, matched and sorted once.

    Args:
        images: as for `evaluate_detections`.
        labels: names of the classes.
        figures: names of the figures that are needed, of `FIGURES`.

    Raises:
        EvaluationError: a name is unknown, or an array is wrong.
    """

    def __init__(
        self,
        images: Sequence[ImageBoxes],
        labels: Sequence[str],
        figures: Sequence[str] = FIGURES,
    ) -> None:
        check_images(images, labels)
        unknown = set(figures) - set(FIGURES)
        if unknown:
            raise EvaluationError(
                f"figures: {min(unknown)} is unknown; choose from {', '.join(FIGURES)}"
            )
        self._names = tuple(figures)
        needed = [size for size in SIZES if any(_size_of(name) == size for name in figures)]
        of_images = [_match(image, needed) for image in images]
        self._rankings = {
            size: _Ranking(_joined(images, [parts[at] for parts in of_images], len(labels), size))
            for at, size in enumerate(needed)
        }

    def figures(self, weights: Weights) -> dict[str, float | None]:
        """Return the figures by name; None: undefined, because there is no such object."""
        found: dict[str, float | None] = {}
        sums = {size: ranking.sums(weights) for size, ranking in self._rankings.items()}
        for name in self._names:
            size = _size_of(name)
            ranking, at = self._rankings[size], sums[size]
            if name.startswith("ar"):
                best = {"ar_1": 1, "ar_10": 10}.get(name, 100)
                found[name] = _mean(ranking.recall(at, best), at.objects)
            else:
                rows = {"ap50": slice(0, 1), "ap75": slice(5, 6)}.get(name, slice(None))
                found[name] = _mean(at.precision[:, rows], at.objects)
        return found

    def of_classes(self, weights: Weights) -> NDArray[np.float64]:
        """Return (C, 10) average precision by class and IoU; NaN for a class without objects.

        The figure "ap" is among those that were asked for.
        """
        sums = self._rankings[""].sums(weights)
        return np.where(sums.objects[:, None] > 0, sums.precision, np.nan)

    def curves(self, weights: Weights) -> PrecisionCurves:
        """Return precision over recall at IoU .50; "ap" is among the figures, as above."""
        ranking = self._rankings[""]
        sums = ranking.sums(weights)
        classes = np.flatnonzero(sums.objects > 0)
        precision = ranking.precision_at(sums)[classes]
        mean = precision.mean(axis=0) if len(classes) else None
        return PrecisionCurves(_RECALLS, classes, precision, mean)


class _Sums(NamedTuple):
    """Sums along sorted boxes, for given weights."""

    objects: NDArray[np.float64]
    """(C,) number of true boxes."""
    precision: NDArray[np.float64]
    """(C, 10) average precision; without a meaning where there are no true boxes."""
    right: NDArray[np.float64]
    """(E,) weights of the events that are matches, 0 for others."""
    best: NDArray[np.float64]
    """(E,) highest precision at the recall of each event, or a higher one."""
    step: NDArray[np.intp]
    """(E,) number of the 101 recalls that the event is the first to reach."""


class _Ranking:
    """Found boxes for one range of sizes, sorted by class and score.

    Precision changes at every box, but its highest values are at matches. So only `events` are
    looked at: a box and an IoU threshold at which it matches, or is ignored though it counts at
    another one. Events of a class and a threshold lie together: a segment.
    """

    def __init__(self, matched: _Matched) -> None:
        keep = np.flatnonzero(~matched.ignored.all(axis=1))
        order = keep[np.lexsort((-matched.score[keep], matched.number[keep]))]
        classes = matched.objects.shape[1]
        self._objects = matched.objects
        self._image = matched.image[order]
        number = matched.number[order]
        right, ignored = matched.right[order], matched.ignored[order]
        box, threshold = np.nonzero(right | ignored)
        segment = number[box] * IOUS + threshold
        by_segment = np.argsort(segment, kind="stable")
        box, threshold = box[by_segment], threshold[by_segment]
        self._segments = classes * IOUS
        self._segment = segment[by_segment]
        self._box = box
        self._number = number[box]
        self._right = right[box, threshold].astype(np.float64)
        self._ignored = ignored[box, threshold].astype(np.float64)
        self._rank = matched.rank[order][box]
        # Sums before the first box of the class, and before the first event of the segment.
        self._before_class = np.searchsorted(number, self._number)
        self._before_segment = np.searchsorted(self._segment, self._segment)
        self._first = self._before_segment == np.arange(len(box))
        # Highest values are taken from the end, within a segment: later segments are lower.
        self._floor = 2.0 * (self._segments - self._segment)

    def sums(self, weights: Weights) -> _Sums:
        """Compute average precision for given weights."""
        objects = weights @ self._objects
        of_box = weights[self._image]
        of_event = of_box[self._box]
        right = of_event * self._right
        seen = _sum_before(of_box)
        counted = seen[self._box + 1] - seen[self._before_class]
        counted -= self._since_start(of_event * self._ignored)
        matches = self._since_start(right)
        precision = matches / (counted + _SPACING)
        best = np.maximum.accumulate((precision + self._floor)[::-1])[::-1] - self._floor
        recall = matches / np.maximum(objects[self._number], _SPACING)
        reached = np.searchsorted(_RECALLS, recall, side="right")
        # An event is the first to reach so many of the 101 recalls.
        step = np.diff(reached, prepend=0)
        step[self._first] = reached[self._first]
        area = np.bincount(self._segment, best * step, minlength=self._segments)
        return _Sums(objects, area.reshape(-1, IOUS) / RECALLS, right, best, step)

    def recall(self, sums: _Sums, best: int) -> NDArray[np.float64]:
        """Return (C, 10) the recall of the best boxes of each image and class."""
        found = np.bincount(
            self._segment, sums.right * (self._rank < best), minlength=self._segments
        )
        recall: NDArray[np.float64] = found.reshape(-1, IOUS) / np.maximum(
            sums.objects[:, None], _SPACING
        )
        return recall

    def precision_at(self, sums: _Sums) -> NDArray[np.float64]:
        """Return (C, 101) the highest precision at each recall or above, at IoU .50."""
        curves = np.zeros((self._segments // IOUS, RECALLS))
        at_50 = self._segment % IOUS == 0
        for number, curve in enumerate(curves):
            own = at_50 & (self._number == number)
            reached = np.repeat(sums.best[own], sums.step[own])
            curve[: len(reached)] = reached
        return curves

    def _since_start(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up along the events of each segment."""
        total = _sum_before(values)
        since: NDArray[np.float64] = total[1:] - total[self._before_segment]
        return since


def _size_of(name: str) -> str:
    """Return the range of sizes of a figure, a key of `SIZES`."""
    size = name.rpartition("_")[2]
    return size if size in SIZES else ""


def _sum_before(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N + 1,) sums of the values before each place."""
    total = np.zeros(len(values) + 1)
    np.cumsum(values, out=total[1:])
    return total


def _mean(values: NDArray[np.float64], objects: NDArray[np.float64]) -> float | None:
    """Average over the classes that have objects; None: there are none."""
    defined = values[objects > 0]
    return float(defined.mean()) if defined.size else None


class _Part(NamedTuple):
    """Matches of one image, for one range of sizes."""

    rows: Rows
    """(D,) found boxes, best first."""
    right: NDArray[np.bool_]
    """(D, 10), as the following."""
    ignored: NDArray[np.bool_]


def _match(image: ImageBoxes, sizes: Sequence[str]) -> list[_Part]:
    """Match the boxes of an image at each IoU threshold, for each range of sizes."""
    rows = best_first(image)
    iou = class_ious(image, rows)
    near = np.flatnonzero(iou.max(axis=1, initial=0) >= _IOUS[0])
    crowd, overlaps = crowd_of(image), image.overlaps
    areas = areas_of(image.found_boxes) if overlaps is None else overlaps.areas
    parts = []
    for size in sizes:
        ignored = image.ignored | _outside(image.areas, size)
        taken = np.full((len(rows), IOUS), -1, np.intp)
        for number, min_iou in enumerate(_IOUS.tolist()):
            taken[near, number] = taken_columns(iou[near], ignored, crowd, min_iou)
        hit = taken >= 0
        on_ignored = np.zeros_like(hit)
        on_ignored[hit] = ignored[taken[hit]]
        outside = _outside(areas[rows], size)
        parts.append(_Part(rows, hit & ~on_ignored, on_ignored | (~hit & outside[:, None])))
    return parts


def _outside(areas: NDArray[np.float64], size: str) -> NDArray[np.bool_]:
    """Return whether areas in px² are outside a range of sizes."""
    low, high = SIZES[size]
    return (areas < low) | (areas > high)


def _joined(
    images: Sequence[ImageBoxes], parts: Sequence[_Part], classes: int, size: str
) -> _Matched:
    """Join the matches of all images, for one range of sizes."""
    objects = np.zeros((len(images), classes))
    numbers: list[NDArray[np.integer]] = [np.zeros(0, np.intp)]
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    ranks: list[Rows] = [np.zeros(0, np.intp)]
    right, ignored = np.zeros((2, 0, IOUS), np.bool_)
    for row, image, part in zip(objects, images, parts, strict=True):
        counts = ~image.ignored & ~_outside(image.areas, size)
        np.add.at(row, image.truth_classes[counts], 1)
        numbers.append(image.found_classes[part.rows])
        scores.append(image.found_scores[part.rows])
        ranks.append(_ranks(numbers[-1]))
    return _Matched(
        image=np.repeat(np.arange(len(images)), [len(part.rows) for part in parts]),
        number=np.concatenate(numbers).astype(np.intp),
        score=np.concatenate(scores),
        rank=np.concatenate(ranks),
        right=np.concatenate([right, *(part.right for part in parts)]),
        ignored=np.concatenate([ignored, *(part.ignored for part in parts)]),
        objects=objects,
    )


def _ranks(numbers: NDArray[np.integer]) -> Rows:
    """Return for each member the number of equal ones before it."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    ranks = np.zeros(len(numbers), np.intp)
    ranks[order] = np.arange(len(numbers)) - np.searchsorted(ordered, ordered)
    return ranks
