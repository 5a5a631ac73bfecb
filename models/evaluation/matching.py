"""Matches at one confidence: boxes that are right, missed, false, or of the wrong class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import from_xyxy
from models.evaluation.arrays import Boxes, Rows, ratio
from models.evaluation.detection import MAX_FOUND, ImageBoxes, check_images

MIN_IOU = 0.5
"""Overlap from which on a found box matches a true one."""


class ImageMatches(NamedTuple):
    """Matches in an image. Boxes that match an ignored object are in no field."""

    name: str
    truth: Rows
    """(P,) rows of the true boxes that are found."""
    found: Rows
    """(P,) rows of the boxes that find them, best first."""
    missed: Rows
    """Rows of the true boxes that are not found, without ignored ones."""
    false: Rows
    """Rows of the found boxes that match no true box of their class, best first."""

    @property
    def errors(self) -> int:
        """Number of missed and false boxes."""
        return len(self.missed) + len(self.false)


class ClassCounts(msgspec.Struct, frozen=True):
    """Right, missed and false boxes at a confidence; None: undefined, a division by 0."""

    label: str | None
    """None: all classes together."""
    right: int
    missed: int
    false: int
    precision: float | None
    """Part of the found boxes that is right."""
    recall: float | None
    """Part of the true boxes that is found."""
    f1: float | None
    """Harmonic mean of precision and recall."""


class ConfidenceFigures(msgspec.Struct, frozen=True):
    """Figures of the boxes with at least a given score."""

    confidence: float
    total: ClassCounts
    classes: tuple[ClassCounts, ...]
    """In the order of the labels."""


def match_images(
    images: Sequence[ImageBoxes], labels: Sequence[str], confidence: float
) -> tuple[ImageMatches, ...]:
    """Match the found boxes with at least a score `confidence`, class by class, at IoU .50.

    COCO's matching: best first, each box takes the true box of its class with the highest IoU that
    is not taken yet; an ignored object only if there is no other, and any number of boxes.

    Raises:
        EvaluationError: an array is wrong.
    """
    check_images(images, labels)
    return tuple(_match(image, confidence) for image in images)


def class_counts(
    images: Sequence[ImageBoxes], matches: Sequence[ImageMatches], classes: int
) -> NDArray[np.int64]:
    """Count right, missed and false boxes.

    Args:
        images: as for `match_images`.
        matches: its result.
        classes: number of labels.

    Returns:
        (images, classes, 3) int64: right, missed, false.
    """
    counts = np.zeros((len(images), classes, 3), np.int64)
    for row, image, match in zip(counts, images, matches, strict=True):
        np.add.at(row[:, 0], image.truth_classes[match.truth], 1)
        np.add.at(row[:, 1], image.truth_classes[match.missed], 1)
        np.add.at(row[:, 2], image.found_classes[match.false], 1)
    return counts


def confidence_figures(
    images: Sequence[ImageBoxes], labels: Sequence[str], confidence: float
) -> ConfidenceFigures:
    """Measure precision, recall and F1 of the boxes with at least a score `confidence`.

    Raises:
        EvaluationError: an array is wrong.
    """
    matches = match_images(images, labels, confidence)
    counts = class_counts(images, matches, len(labels)).sum(axis=0)
    return ConfidenceFigures(
        confidence=confidence,
        total=_of_counts(None, counts.sum(axis=0)),
        classes=tuple(_of_counts(label, row) for label, row in zip(labels, counts, strict=True)),
    )


def confusions(
    images: Sequence[ImageBoxes], matches: Sequence[ImageMatches], classes: int
) -> NDArray[np.int64]:
    """Count which class is taken for which.

    The diagonal has the right boxes. Of the others, best first, each false box takes the missed
    true box of another class with the highest IoU, at least .50; the rest is background.

    Args:
        images: as for `match_images`.
        matches: its result.
        classes: number of labels.

    Returns:
        (classes + 1, classes + 1) int64: a row per true class and a column per found class; the
        last row has false boxes on background, the last column has missed boxes.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for image, match in zip(images, matches, strict=True):
        truth, found = image.truth_classes, image.found_classes
        np.add.at(counts, (truth[match.truth], truth[match.truth]), 1)
        none = np.zeros(len(match.missed), np.bool_)
        iou = coco_ious(image.found_boxes[match.false], image.truth_boxes[match.missed])
        of_false = taken_columns(iou, none, none)
        at = np.where(of_false >= 0, np.append(truth[match.missed], -1)[of_false], classes)
        np.add.at(counts, (at, found[match.false]), 1)
        missed = np.delete(match.missed, of_false[of_false >= 0])
        np.add.at(counts[:, classes], truth[missed], 1)
    return counts


def worst_first(matches: Sequence[ImageMatches]) -> list[ImageMatches]:
    """Order the images with errors: most errors first, then by name."""
    return sorted((m for m in matches if m.errors), key=lambda m: (-m.errors, m.name))


def _match(image: ImageBoxes, confidence: float) -> ImageMatches:
    """Match the boxes of one image."""
    rows = best_first(image)
    rows = rows[image.found_scores[rows] >= confidence]
    iou = class_ious(image, rows)
    taken = taken_columns(iou, image.ignored, crowd_of(image))
    hit = taken >= 0
    truth = taken[hit]
    real = ~image.ignored[truth]
    missed = ~image.ignored
    missed[truth] = False
    return ImageMatches(
        image.name, truth[real], rows[hit][real], np.flatnonzero(missed), rows[~hit]
    )


def best_first(image: ImageBoxes) -> Rows:
    """Return the rows of the found boxes that count: best first, at most 100 of each class."""
    rows = np.argsort(-image.found_scores, kind="stable")
    if len(rows) <= MAX_FOUND:
        return rows
    kept = np.zeros(len(rows), np.bool_)
    classes = image.found_classes[rows]
    for number in np.unique(classes):
        kept[np.flatnonzero(classes == number)[:MAX_FOUND]] = True
    return rows[kept]


def class_ious(image: ImageBoxes, rows: Rows) -> NDArray[np.float64]:
    """Return the overlaps of some found objects with all true ones; 0 between classes."""
    if image.overlaps is None:
        iou = coco_ious(image.found_boxes[rows], image.truth_boxes, image.ignored)
    else:
        iou = image.overlaps.values[rows]
    iou[image.found_classes[rows][:, None] != image.truth_classes] = 0
    return iou


def crowd_of(image: ImageBoxes) -> NDArray[np.bool_]:
    """Return (N,) whether several found objects may match each true one."""
    return image.ignored if image.overlaps is None else image.overlaps.crowd


def taken_columns(
    iou: NDArray[np.float64],
    ignored: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    min_iou: float = MIN_IOU,
) -> Rows:
    """Assign greedily; (M,) the column that each row takes, -1 for none.

    Args:
        iou: (M, N) rows best first; 0 for a pair that may not match.
        ignored: (N,) whether a column is only taken for want of others.
        crowd: (N,) whether a column is taken any number of times.
        min_iou: overlap from which on a pair may match, more than 0.
    """
    taken = np.full(len(iou), -1, np.intp)
    near = iou >= min_iou
    free = np.ones(len(ignored), np.bool_)
    for row in np.flatnonzero(near.any(axis=1)):
        columns = np.flatnonzero(near[row] & free)
        if not len(columns):
            continue
        if len(columns) > 1:
            real = columns[~ignored[columns]]
            # As in pycocotools, the last of several equal ones.
            columns = (real if len(real) else columns)[::-1]
        column = columns[np.argmax(iou[row, columns])]
        taken[row] = column
        free[column] = crowd[column]
    return taken


def coco_ious(
    found: Boxes, truth: Boxes, ignored: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the (M, N) overlaps; of an ignored box, the part of the found box that is inside."""
    # With widths, and in the order of pycocotools, so that it rounds the same.
    p, q = from_xyxy(found, "xywh")[:, None], from_xyxy(truth, "xywh")[None]
    side = np.minimum(p[..., :2] + p[..., 2:], q[..., :2] + q[..., 2:])
    side = np.maximum(side - np.maximum(p[..., :2], q[..., :2]), 0)
    shared = side[..., 0] * side[..., 1]
    area = p[..., 2] * p[..., 3]
    union = area + q[..., 2] * q[..., 3] - shared
    if ignored is not None:
        union = np.where(ignored, area, union)
    iou: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, union, out=iou, where=union > 0)
    return iou


def _of_counts(label: str | None, counts: NDArray[np.int64]) -> ClassCounts:
    """Make figures of right, missed and false boxes."""
    right, missed, false = (int(count) for count in counts)
    return ClassCounts(
        label=label,
        right=right,
        missed=missed,
        false=false,
        precision=ratio(right, right + false),
        recall=ratio(right, right + missed),
        f1=ratio(2 * right, 2 * right + missed + false),
    )
