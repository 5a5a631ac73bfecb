"""Figures of masks, keypoints and rotated boxes: those of boxes, with another overlap.

Masks and keypoints have COCO's figures (https://cocodataset.org/#detection-eval and
#keypoints-eval), equal to those of pycocotools. Rotated boxes are matched in the same way by the
overlap of the rotated boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, rle_area, rle_iou
from models.boxes.rotated import rotated_iou_matrix
from models.errors import EvaluationError
from models.evaluation.arrays import check_lengths
from models.evaluation.detection import (
    ClassFigures,
    DetectionFigures,
    DetectionResult,
    ImageBoxes,
    Overlaps,
)
from models.evaluation.weighted import WeightedDetections

Floats = NDArray[np.float64]

MAX_FOUND_KEYPOINTS = 20
"""Number of objects per image and class whose keypoints are evaluated, those with the best
scores."""
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""How far people place each of COCO's 17 points apart, as a part of the object's size."""
AREA_OF_BOX = 0.53
"""Area of a person as a part of the area of the box, where the data set states none."""


def with_masks(
    image: ImageBoxes,
    found: Sequence[Rle],
    truth: Sequence[Rle],
    areas: Floats,
    ignored: NDArray[np.bool_],
) -> ImageBoxes:
    """Return an image the masks of which are measured.

    Args:
        image: its boxes.
        found: M masks of the found objects.
        truth: N masks of the true objects.
        areas: (N,) px² of the true objects, by which they are small, medium or large.
        ignored: (N,) whether a mask found there is neither right nor wrong.

    Raises:
        EvaluationError: they are of images of different sizes, or not as many as the boxes.
    """
    _check(image, "masks", len(found), len(truth))
    iou = np.zeros((len(found), len(truth)))
    try:
        # Masks of different classes never match, and most pairs are of different ones.
        for number in np.unique(image.truth_classes).tolist():
            rows = np.flatnonzero(image.found_classes == number)
            columns = np.flatnonzero(image.truth_classes == number)
            iou[np.ix_(rows, columns)] = rle_iou(
                [found[row] for row in rows],
                [truth[column] for column in columns],
                ignored[columns].tolist(),
            )
    except ValueError as error:
        raise EvaluationError(
            f"{image.name}: {error}; correct the size of the image in the data set"
        ) from None
    own = np.array([rle_area(rle) for rle in found], np.float64)
    return image._replace(areas=areas, ignored=ignored, overlaps=Overlaps(iou, own, ignored))


def with_rotated(image: ImageBoxes, found: Floats, truth: Floats) -> ImageBoxes:
    """Return an image the rotated boxes of which are measured.

    Args:
        image: its boxes.
        found: (M, 5) cx, cy, w, h in px, angle in radians.
        truth: (N, 5)

    Raises:
        EvaluationError: they are not as many as the boxes.
    """
    _check(image, "rotated boxes", len(found), len(truth))
    iou = rotated_iou_matrix(found, truth)
    own, areas = found[:, 2] * found[:, 3], truth[:, 2] * truth[:, 3]
    # Of an ignored object, the part of the found one that is inside.
    shared = iou * (own[:, None] + areas) / (1 + iou)
    inside = np.divide(shared, own[:, None], out=np.zeros_like(iou), where=own[:, None] > 0)
    values = np.where(image.ignored, inside, iou)
    return image._replace(areas=areas, overlaps=Overlaps(values, own, image.ignored))


def with_keypoints(
    image: ImageBoxes, found: Floats, truth: Floats, areas: Floats, sigmas: Floats
) -> ImageBoxes:
    """Return an image the keypoints of which are measured, with the best 20 found of each class.

    An object without a labelled point is ignored.

    Args:
        image: its boxes.
        found: (M, K, 3) x, y in px and a score, which is not used.
        truth: (N, K, 3) x, y in px, and whether the point is labelled: above 0.
        areas: (N,) px² of the objects.
        sigmas: (K,) see `sigmas_of`.

    Raises:
        EvaluationError: they are not as many as the boxes, or have other numbers of points.
    """
    _check(image, "keypoints", len(found), len(truth))
    for points in (found, truth):
        if points.shape[1:] != (len(sigmas), 3):
            raise EvaluationError(
                f"{image.name}: keypoints are not (N, {len(sigmas)}, 3) (found {points.shape}); "
                "give as many points as the model has"
            )
    rows = best_of_classes(image, MAX_FOUND_KEYPOINTS)
    values = similarities(found[rows], truth, image.truth_boxes, areas, sigmas)
    sides = np.ptp(found[rows, :, :2], axis=1) if len(rows) else np.zeros((0, 2))
    unlabelled = ~(truth[..., 2] > 0).any(axis=1)
    return image._replace(
        areas=areas,
        ignored=image.ignored | unlabelled,
        found_boxes=image.found_boxes[rows],
        found_scores=image.found_scores[rows],
        found_classes=image.found_classes[rows],
        overlaps=Overlaps(values, sides.prod(axis=1), image.ignored),
    )


def sigmas_of(points: int) -> Floats:
    """Return the sigmas (K,) of keypoints: COCO's for 17 points, else 1 / K for each."""
    if points == len(COCO_SIGMAS):
        return np.array(COCO_SIGMAS)
    return np.full(points, 1 / points)


def similarities(
    found: Floats, truth: Floats, boxes: Floats, areas: Floats, sigmas: Floats
) -> Floats:
    """Compute the object keypoint similarity (OKS) of found and true keypoints.

    It is the mean over the labelled points of exp(-d² / (2 s² k²)): d is the distance in px, s² the
    area of the object and k twice the sigma of the point. Of an object without a labelled point,
    d is the distance from the box of three times its size.

    Args:
        found: (M, K, 3) x, y in px, and a score.
        truth: (N, K, 3) x, y in px, and whether the point is labelled: above 0.
        boxes: (N, 4) xyxy in px of the true objects.
        areas: (N,) px² of the true objects.
        sigmas: (K,) see `sigmas_of`.

    Returns:
        (M, N) values from 0 to 1.
    """
    values = np.zeros((len(found), len(truth)))
    spread = (2 * sigmas) ** 2 * 2
    for column, (points, box, area) in enumerate(zip(truth, boxes, areas, strict=True)):
        labelled = points[:, 2] > 0
        if labelled.any():
            steps = (found[:, labelled, :2] - points[labelled, :2]) ** 2
            of_points = spread[labelled]
        else:
            size = box[2:] - box[:2]
            low, high = box[:2] - size, box[:2] + 2 * size
            outside = np.maximum(0, low - found[..., :2]) + np.maximum(0, found[..., :2] - high)
            steps, of_points = outside**2, spread
        error = steps.sum(axis=2) / of_points / (area + np.spacing(1))
        values[:, column] = np.exp(-error).mean(axis=1)
    return values


def evaluate_shapes(images: Sequence[ImageBoxes], labels: Sequence[str]) -> DetectionResult:
    """Measure the shapes of images, as `evaluate_detections` does their boxes.

    Args:
        images: from `with_masks`, `with_keypoints` or `with_rotated`. For keypoints, `ar_100` is
            the recall of the best 20.
        labels: names of the classes.

    Raises:
        EvaluationError: an array is wrong.
    """
    weighted, once = WeightedDetections(images, labels), np.ones(len(images))
    precision = weighted.of_classes(once)
    objects = np.zeros((len(images), len(labels)), np.int64)
    for row, image in zip(objects, images, strict=True):
        np.add.at(row, image.truth_classes[~image.ignored], 1)
    classes = []
    for number, label in enumerate(labels):
        ap, ap50, ap75 = (_defined(precision[number, part]) for part in _PARTS)
        counts = objects[:, number]
        present = int((counts > 0).sum())
        classes.append(ClassFigures(label, ap, ap50, ap75, present, int(counts.sum())))
    figures = DetectionFigures(
        **weighted.figures(once),
        images=len(images),
        objects=int(objects.sum()),
        classes=tuple(classes),
    )
    return DetectionResult(figures, weighted.curves(once))


_PARTS = (slice(None), slice(0, 1), slice(5, 6))
"""IoU thresholds of AP, AP50 and AP75."""


def _defined(values: Floats) -> float | None:
    """Average the precision of a class; None: it has no objects."""
    return None if np.isnan(values).any() else float(values.mean())


def best_of_classes(image: ImageBoxes, most: int) -> NDArray[np.intp]:
    """Return the rows of at most so many best found objects of each class, in their order."""
    kept = np.zeros(len(image.found_scores), np.bool_)
    for number in np.unique(image.found_classes):
        rows = np.flatnonzero(image.found_classes == number)
        kept[rows[np.argsort(-image.found_scores[rows], kind="stable")[:most]]] = True
    return np.flatnonzero(kept)


def _check(image: ImageBoxes, what: str, found: int, truth: int) -> None:
    """Refuse shapes that are not as many as the boxes."""
    check_lengths(f"{image.name}: {what}", found, [("found boxes", image.found_scores)])
    check_lengths(f"{image.name}: {what}", truth, [("true boxes", image.areas)])
