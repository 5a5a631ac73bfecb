"""COCO figures of detections: average precision and recall, and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import from_xyxy
from models.errors import EvaluationError
from models.evaluation.arrays import (
    Boxes,
    check_boxes,
    check_classes,
    check_lengths,
    check_unique,
    optional_module,
)

IOUS = 10
"""Number of IoU thresholds: .50 to .95 in steps of .05."""
RECALLS = 101
"""Number of recalls of a curve: 0 to 1 in steps of .01."""
MAX_FOUND = 100
"""Number of boxes per image and class that are evaluated, those with the best scores."""


class Overlaps(NamedTuple):
    """Overlaps of masks, keypoints or rotated boxes, in the place of those of the boxes."""

    values: NDArray[np.float64]
    """(M, N) from 0 to 1, of each found with each true object."""
    areas: NDArray[np.float64]
    """(M,) px² of what was found."""
    crowd: NDArray[np.bool_]
    """(N,) whether several found objects may match an ignored one."""


class ImageBoxes(NamedTuple):
    """True boxes of an image, and those that a detector found there."""

    name: str
    """Name within the data set, unique."""
    width: int
    height: int
    truth_boxes: Boxes
    """(N, 4) float64 xyxy in px."""
    truth_classes: NDArray[np.integer]
    """(N,) indices into the labels."""
    ignored: NDArray[np.bool_]
    """(N,) whether a box found there is neither right nor wrong. As for a crowd of COCO, several
    found boxes may match it, and the overlap is the part of the found box that is inside."""
    areas: NDArray[np.float64]
    """(N,) px²; of the mask where there is one."""
    found_boxes: Boxes
    """(M, 4) float64 xyxy in px."""
    found_scores: NDArray[np.float64]
    """(M,) finite; higher is better."""
    found_classes: NDArray[np.integer]
    """(M,) indices into the labels."""
    overlaps: Overlaps | None = None
    """Of shapes that are measured instead of the boxes; None: the boxes are."""


class ClassFigures(msgspec.Struct, frozen=True):
    """Figures of one class; None: undefined, because no image has an object of it."""

    label: str
    ap: float | None
    """Average precision, mean over IoU thresholds .50 to .95."""
    ap50: float | None
    """Average precision at IoU .50."""
    ap75: float | None
    """Average precision at IoU .75."""
    images: int
    """Number of images with an object of the class."""
    objects: int
    """Number of objects, without ignored ones."""


class DetectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The twelve COCO figures, from 0 to 1; None: undefined, because there is no such object.

    AP is average precision at IoU .50 to .95 and AR average recall, the mean over classes that
    have objects. Sizes: small is below 32² px², medium up to 96² px², large above (Lin et al.,
    ECCV 2014; https://cocodataset.org/#detection-eval).
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    """Average recall with the best box of each image and class."""
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    images: int
    objects: int
    """Number of objects, without ignored ones."""
    classes: tuple[ClassFigures, ...]
    """In the order of the labels."""


class PrecisionCurves(NamedTuple):
    """Precision over recall at IoU .50: the highest precision at this recall or a higher one."""

    recall: NDArray[np.float64]
    """(101,) 0 to 1."""
    classes: NDArray[np.intp]
    """(K,) the classes that have objects: indices into the labels."""
    precision: NDArray[np.float64]
    """(K, 101) 0 where the recall is not reached; the mean of a row is the ap50 of the class."""
    mean: NDArray[np.float64] | None
    """(101,) mean over the classes; None: no class has objects."""


class DetectionResult(NamedTuple):
    """Everything that one COCO evaluation gives."""

    figures: DetectionFigures
    curves: PrecisionCurves


def evaluate_detections(images: Sequence[ImageBoxes], labels: Sequence[str]) -> DetectionResult:
    """Measure detections as COCO does; the figures equal those of pycocotools.

    Args:
        images: all images of the data set, those without objects too. Boxes with equal scores rank
            in this order.
        labels: names of the classes.

    Raises:
        EvaluationError: an array is wrong, or hotcoco is not installed.
    """
    evaluation = coco_evaluation(images, labels)
    evaluation.accumulate()
    # (IoU, recall, class, size, number of boxes) and without recall; -1: undefined.
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    figures = DetectionFigures(
        ap=_mean(precision[:, :, :, 0, 2]),
        ap50=_mean(precision[0, :, :, 0, 2]),
        ap75=_mean(precision[5, :, :, 0, 2]),
        ap_small=_mean(precision[:, :, :, 1, 2]),
        ap_medium=_mean(precision[:, :, :, 2, 2]),
        ap_large=_mean(precision[:, :, :, 3, 2]),
        ar_1=_mean(recall[:, :, 0, 0]),
        ar_10=_mean(recall[:, :, 0, 1]),
        ar_100=_mean(recall[:, :, 0, 2]),
        ar_small=_mean(recall[:, :, 1, 2]),
        ar_medium=_mean(recall[:, :, 2, 2]),
        ar_large=_mean(recall[:, :, 3, 2]),
        images=len(images),
        objects=sum(int((~image.ignored).sum()) for image in images),
        classes=_class_figures(images, labels, precision[:, :, :, 0, 2]),
    )
    return DetectionResult(figures, _curves(precision[0, :, :, 0, 2]))


def coco_evaluation(images: Sequence[ImageBoxes], labels: Sequence[str]) -> Any:
    """Match found to true boxes with hotcoco.

    Returns:
        hotcoco.COCOeval after `evaluate`. Ids of images are from 1, of classes from 0.

    Raises:
        EvaluationError: an array is wrong, or hotcoco is not installed.
    """
    check_images(images, labels)
    hotcoco = optional_module("hotcoco")
    ids = np.arange(1, len(images) + 1)
    sizes = [{"width": image.width, "height": image.height} for image in images]
    truth = hotcoco.COCO.from_arrays(
        [{"id": number, **size} for number, size in enumerate(sizes, 1)],
        [{"id": number, "name": str(number)} for number in range(len(labels))],
        np.repeat(ids, [len(image.truth_boxes) for image in images]),
        _joined([image.truth_classes for image in images]).astype(np.int64),
        from_xyxy(_joined([image.truth_boxes for image in images], 4), "xywh"),
        area=_joined([image.areas for image in images]),
        iscrowd=_joined([image.ignored for image in images]).astype(np.int64),
    )
    found = np.column_stack(
        [
            np.repeat(ids, [len(image.found_boxes) for image in images]),
            from_xyxy(_joined([image.found_boxes for image in images], 4), "xywh"),
            _joined([image.found_scores for image in images]),
            _joined([image.found_classes for image in images]),
        ]
    )
    evaluation = hotcoco.COCOeval(truth, truth.load_res(found), "bbox")
    evaluation.evaluate()
    return evaluation


def check_images(images: Sequence[ImageBoxes], labels: Sequence[str]) -> None:
    """Refuse arrays that do not fit together.

    Raises:
        EvaluationError: there is no label, a name occurs twice, or an array is wrong.
    """
    if not labels:
        raise EvaluationError("labels: there are none; give the names of the classes")
    check_unique("images", [image.name for image in images])
    for image in images:
        where = f"{image.name}: truth"
        check_boxes(where, image.truth_boxes)
        parallel: list[tuple[str, NDArray[Any]]] = [
            ("classes", image.truth_classes),
            ("ignored", image.ignored),
            ("areas", image.areas),
        ]
        check_lengths(where, len(image.truth_boxes), parallel)
        check_classes(where, image.truth_classes, len(labels))
        if not np.isfinite(image.areas).all():
            raise EvaluationError(f"{where}: an area is not a finite number; correct the area")
        where = f"{image.name}: found"
        check_boxes(where, image.found_boxes)
        parallel = [("classes", image.found_classes), ("scores", image.found_scores)]
        check_lengths(where, len(image.found_boxes), parallel)
        check_classes(where, image.found_classes, len(labels))
        if not np.isfinite(image.found_scores).all():
            raise EvaluationError(f"{where}: a score is not a finite number; correct the score")
        if image.overlaps is not None:
            _check_overlaps(image.name, image.overlaps, len(image.found_boxes), len(image.areas))


def _check_overlaps(name: str, overlaps: Overlaps, found: int, truth: int) -> None:
    """Refuse overlaps that do not fit the objects of an image."""
    if overlaps.values.shape != (found, truth) or not np.isfinite(overlaps.values).all():
        raise EvaluationError(
            f"{name}: overlaps are not ({found}, {truth}) finite numbers (found "
            f"{overlaps.values.shape}); give a row per found and a column per true object"
        )
    check_lengths(f"{name}: overlaps", found, [("areas", overlaps.areas)])
    check_lengths(f"{name}: overlaps", truth, [("crowd", overlaps.crowd)])


def _joined(arrays: Sequence[NDArray[Any]], columns: int | None = None) -> NDArray[Any]:
    """Concatenate arrays, of which there may be none."""
    start = np.zeros((0, columns) if columns else 0, np.float64)
    return np.concatenate([start, *arrays])


def _mean(values: NDArray[np.float64]) -> float | None:
    """Average the defined values; None: there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _class_figures(
    images: Sequence[ImageBoxes], labels: Sequence[str], precision: NDArray[np.float64]
) -> tuple[ClassFigures, ...]:
    """Return the figures of each class, from precision (IoU, recall, class)."""
    objects = np.zeros(len(labels), np.int64)
    with_objects = np.zeros(len(labels), np.int64)
    for image in images:
        here = np.bincount(image.truth_classes[~image.ignored], minlength=len(labels))
        objects += here
        with_objects += here > 0
    return tuple(
        ClassFigures(
            label=label,
            ap=_mean(precision[:, :, number]),
            ap50=_mean(precision[0, :, number]),
            ap75=_mean(precision[5, :, number]),
            images=int(with_objects[number]),
            objects=int(objects[number]),
        )
        for number, label in enumerate(labels)
    )


def _curves(precision: NDArray[np.float64]) -> PrecisionCurves:
    """Make curves of precision (recall, class), -1 for a class that has no objects."""
    classes = np.flatnonzero(precision[0] > -1)
    defined = np.ascontiguousarray(precision[:, classes].T)
    recall = np.linspace(0, 1, RECALLS, dtype=np.float64)
    mean = defined.mean(axis=0) if len(classes) else None
    return PrecisionCurves(recall, classes, defined, mean)
