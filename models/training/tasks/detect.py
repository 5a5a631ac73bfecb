"""Methods that find objects: their figures, thresholds and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import iou_matrix
from models.boxes.nms import NmsOptions, nms
from models.datasets.base import LabelledImage
from models.evaluation.detection import ImageBoxes, evaluate_detections
from models.training import drawing
from models.training.augment import Image
from models.training.method import Figures, Method

MIN_SCORE = 0.01
"""Lowest score of a box that counts in average precision."""
MAX_IOU = 0.5
"""Overlap above which two boxes are one object."""
MIN_IOU = 0.5
"""Overlap of a found box with an object from which on it has found it."""


class Objects(NamedTuple):
    """The objects that a model finds in an image; parallel arrays, best first."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the image."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.intp]
    """(N,) indices into the labels."""


class Detects(Method):
    """A method the result of which is `Objects`."""

    needs = "box"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Objects]) -> Figures:
        """Return average precision: at IoU .5, at .75, and the mean over .5 to .95."""
        pairs = [beside_truth(*pair) for pair in zip(images, results, strict=True)]
        figures = evaluate_detections(pairs, self.job.labels).figures
        return {
            "AP50": figures.ap50 or 0.0,
            "AP75": figures.ap75 or 0.0,
            "AP": figures.ap or 0.0,
        }

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Objects]
    ) -> Mapping[str, float]:
        """Return the score with the best F1 at IoU .5, and the overlap for suppression."""
        scores, hits, objects = [], [], 0
        for image, found in zip(images, results, strict=True):
            scores.append(found.scores)
            hits.append(matches(image, found))
            objects += sum(not item.ignored for item in image.objects)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        right = np.cumsum(np.concatenate(hits)[order])
        if not len(right) or not right[-1]:
            return {"score": 0.5, "iou": MAX_IOU}
        f1 = 2 * right / (np.arange(1, len(right) + 1) + objects)
        lowest = float(np.concatenate(scores)[order][int(f1.argmax())])
        return {"score": round(max(MIN_SCORE, min(lowest, 0.99) - 0.005), 3), "iou": MAX_IOU}

    def error(self, image: LabelledImage, result: Objects) -> float:
        """Return how wrong a result is: sure false boxes, and objects that are not found."""
        right = matches(image, result)
        missed = sum(not item.ignored for item in image.objects) - int(right.sum())
        return float(result.scores[~right].sum() + max(0, missed))

    def draw(self, pixels: Image, image: LabelledImage, result: Objects) -> Image:
        """Draw found boxes, right and wrong, over those of the truth."""
        scale = pixels.shape[1] / image.size[0]
        sure = result.scores >= 0.3
        found = Objects(result.boxes[sure], result.scores[sure], result.classes[sure])
        right = matches(image, found)
        truth = np.array([item.box for item in image.objects], np.float32).reshape(-1, 4)
        drawing.boxes(pixels, truth * scale, drawing.MISSED)
        texts = [
            f"{self.job.labels[number]} {score:.2f}"
            for number, score in zip(found.classes, found.scores, strict=True)
        ]
        for rows, colour in ((right, drawing.CORRECT), (~right, drawing.WRONG)):
            own = [text for text, row in zip(texts, rows, strict=True) if row]
            drawing.boxes(pixels, found.boxes[rows] * scale, colour, own)
        return pixels


def suppressed(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], image: LabelledImage
) -> Objects:
    """Return the objects of candidates: each class apart, overlaps suppressed, as NMS does.

    Args:
        boxes: (N, 4) xyxy as fractions of the input.
        scores: (N, C) of each class.
        image: the image.
    """
    rows, classes = np.nonzero(scores >= MIN_SCORE)
    return suppressed_rows(boxes[rows], scores[rows, classes], classes, image)


def suppressed_rows(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    classes: NDArray[np.intp],
    image: LabelledImage,
) -> Objects:
    """Return the objects of candidates of one class each, as `suppressed` does.

    Args:
        boxes: (N, 4) xyxy as fractions of the input.
        scores: (N,) from 0 to 1.
        classes: (N,)
        image: the image.
    """
    width, height = image.size
    corners = np.clip(boxes, 0, 1) * np.array([width, height, width, height])
    options = NmsOptions(max_iou=MAX_IOU, min_score=MIN_SCORE)
    own = nms(corners, scores, classes, options).rows
    return Objects(corners[own].astype(np.float32), scores[own].astype(np.float32), classes[own])


def matches(image: LabelledImage, found: Objects) -> NDArray[np.bool_]:
    """Return which found objects are right (N,): each object is found once, by the best score."""
    right = np.zeros(len(found.scores), np.bool_)
    truth = [item for item in image.objects if not item.ignored]
    if not truth or not len(right):
        return right
    numbers = np.array([item.number for item in truth])
    overlaps = iou_matrix(found.boxes, np.array([item.box for item in truth], np.float64))
    free = np.ones(len(truth), np.bool_)
    for row in np.argsort(-found.scores, kind="stable").tolist():
        own = np.where(free & (numbers == found.classes[row]), overlaps[row], 0.0)
        best = int(own.argmax())
        if own[best] >= MIN_IOU:
            right[row], free[best] = True, False
    return right


def beside_truth(image: LabelledImage, found: Objects) -> ImageBoxes:
    """Return the objects of an image, true and found."""
    truth = image.objects
    boxes = np.array([item.box for item in truth], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    own = [
        area if item.area_px is None else item.area_px
        for item, area in zip(truth, areas, strict=True)
    ]
    return ImageBoxes(
        name=image.name,
        width=image.size[0],
        height=image.size[1],
        truth_boxes=boxes,
        truth_classes=np.array([item.number for item in truth], np.intp),
        ignored=np.array([item.ignored for item in truth], np.bool_),
        areas=np.array(own, np.float64),
        found_boxes=found.boxes.astype(np.float64).reshape(-1, 4),
        found_scores=found.scores.astype(np.float64),
        found_classes=found.classes,
    )
