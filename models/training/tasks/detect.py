"""Methods that find objects: their figures, thresholds and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import iou_matrix
from models.boxes.nms import NmsOptions, nms
from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.evaluation.detection import ImageBoxes, evaluate_detections
from models.evaluation.matching import confusions, match_images
from models.evaluation.plots import confusion_png, precision_recall_png
from models.training import drawing
from models.training.augment import Augmentation, Image, View
from models.training.backbone import Backbone
from models.training.method import Figures, Method, Needs
from models.training.thresholds import score_threshold

MIN_SCORE = 0.001
"""Lowest score of a box that counts in average precision, as in `run.py evaluate`."""
MAX_IOU = 0.5
"""Overlap above which two boxes are one object."""
COMPARED_SCORE = 0.1
"""Lowest score of an object that two runs of a model must have in common."""
MIN_IOU = 0.5
"""Overlap of a found box with an object from which on it has found it."""

NEAR_IOU = 0.3
"""Overlap with an object below which a box is not just a bad box of that object."""
SHOWN_SCORE = 0.3
"""Score from which on boxes are drawn, where none was chosen."""


DETECTION = Augmentation(zoom=(0.7, 1.4), shift=0.15, rotate_deg=0.0)
"""Limits of the augmentation. The upright box around a turned one is larger than the object, so
that nothing is turned."""
MIN_VISIBLE = 1 / 3
"""Part of an object's box that is in a view, below which the object is neither right nor wrong."""
MIN_SIDE_PX = 2.0
"""Side of a box in a view below which the same holds."""

SMALL_PX, GOOD_PX = 16.0, 24.0
"""Shorter side of an object in the input: below the former, which is a cell of the usual map, few
are found; the latter is enough."""
MAX_SIZE_PX = 1024


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

    needs: ClassVar[Needs] = "box"

    def advice(self) -> list[str]:
        """Return a line if most objects are only a few pixels wide in the input."""
        sides = [
            min(
                (x2 - x1) * self.size / image.size[0],
                (y2 - y1) * self.size / image.size[1],
            )
            for image in self.job.train
            for x1, y1, x2, y2 in (item.box for item in image.objects if not item.ignored)
        ]
        middle = float(np.median(sides)) if sides else SMALL_PX
        if not 0 < middle < SMALL_PX:
            return []
        better = min(MAX_SIZE_PX, 32 * round(self.size * GOOD_PX / middle / 32))
        return [
            f"objects are small: half of them are less than {middle:.0f} px wide or high in the "
            f"input of {self.size} px; --size {better} finds more of them, and takes "
            f"{(better / self.size) ** 2:.0f} times as long"
        ]

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
        """Return the score with nearly the best F1 at IoU .5, and the overlap for suppression."""
        scores, hits, objects = [], [], 0
        for image, found in zip(images, results, strict=True):
            scores.append(found.scores)
            hits.append(matches(image, found))
            objects += sum(not item.ignored for item in image.objects)
        lowest = score_threshold(np.concatenate(scores), np.concatenate(hits), objects, MIN_SCORE)
        return {"score": 0.5 if lowest is None else lowest, "iou": MAX_IOU}

    def error(self, image: LabelledImage, result: Objects) -> float:
        """Return how wrong a result is: false boxes that are shown, and objects not found."""
        found = self._shown(result)
        right = matches(image, found)
        missed = sum(not item.ignored for item in image.objects) - int(right.sum())
        return float(found.scores[~right].sum() + max(0, missed))

    def _shown(self, result: Objects) -> Objects:
        """Return the objects from the threshold on."""
        sure = result.scores >= self.thresholds.get("score", SHOWN_SCORE)
        return Objects(result.boxes[sure], result.scores[sure], result.classes[sure])

    def doubt(self, image: LabelledImage, result: Objects) -> float:
        """Return the best score of a box where no object of its class is labelled."""
        false = ~matches(image, result, NEAR_IOU)
        return float(result.scores[false].max(initial=0))

    def charts_of(
        self, images: Sequence[LabelledImage], results: Sequence[Objects]
    ) -> list[tuple[str, bytes]]:
        """Return precision over recall, and the confusions at the chosen score."""
        labels, score = self.job.labels, self.thresholds.get("score", SHOWN_SCORE)
        pairs = [beside_truth(*pair) for pair in zip(images, results, strict=True)]
        curves = evaluate_detections(pairs, labels).curves
        counts = confusions(pairs, match_images(pairs, labels, score), len(labels))
        seen = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
        shown = np.union1d(seen, [len(labels)])  # the background stays the last
        names = [labels[number] for number in shown if number < len(labels)]
        return [
            ("Precision over recall at IoU .50", precision_recall_png(curves, labels)),
            (
                f"Confusions at the score {score:g}",
                confusion_png(counts[np.ix_(shown, shown)], names),
            ),
        ]

    def draw(self, pixels: Image, image: LabelledImage, result: Objects) -> Image:
        """Draw found boxes, right and wrong, over those of the truth."""
        scale = pixels.shape[1] / image.size[0]
        found = self._shown(result)
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


def truth_of_view(image: LabelledImage, view: View) -> Mapping[str, NDArray[Any]]:
    """Return the objects of an image that are seen in a view.

    Returns:
        boxes: (G, 4) float32 xyxy in pixels of the input, cut at its sides.
        classes: (G,) intp.
        rows: (G,) number of each in the objects of the image.
        ignored: (I, 4) boxes that are neither objects nor background: of objects that the data set
            marks so, and of those of which a view has no centre or little.
    """
    if not image.objects:
        none = np.zeros((0, 4), np.float32)
        empty = np.zeros(0, np.intp)
        return {"boxes": none, "classes": empty, "rows": empty, "ignored": none}
    whole = view.boxes(np.array([item.box for item in image.objects], np.float64))
    seen = np.clip(whole, 0, view.size)
    sides, whole_sides = seen[:, 2:] - seen[:, :2], whole[:, 2:] - whole[:, :2]
    centre = (whole[:, :2] + whole[:, 2:]) / 2
    good = ((centre >= 0) & (centre < view.size)).all(axis=1)
    good &= sides.prod(axis=1) >= MIN_VISIBLE * whole_sides.prod(axis=1)
    good &= (sides >= MIN_SIDE_PX).all(axis=1)
    good &= np.array([not item.ignored for item in image.objects])
    numbers = np.array([item.number for item in image.objects], np.intp)
    left = ~good & (sides > 0).all(axis=1)
    return {
        "boxes": seen[good],
        "classes": numbers[good],
        "rows": np.flatnonzero(good),
        "ignored": seen[left],
    }


def level_tensors(backbone: Backbone, strides: Sequence[int], own: bool = False) -> tuple[str, ...]:
    """Return the last tensor of each stride that the backbone has; further ones are the head's.

    Args:
        backbone: the backbone.
        strides: of the maps, finest first, each twice the one before.
        own: whether the backbone must have all of them.

    Raises:
        TrainingError: they are other strides, or the backbone has no map of the first.
    """
    levels = backbone.levels
    tensors = tuple(levels[stride].tensor for stride in strides if stride in levels)
    doubled = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not doubled or strides[0] not in levels or (own and len(tensors) < len(strides)):
        found = ", ".join(map(str, levels))
        raise TrainingError(
            f"strides: the backbone {backbone.name} has maps of the strides {found} (found "
            f"{list(strides)}); begin with one of these, and double it for each further map"
        )
    return tensors


def suppressed(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], image: LabelledImage
) -> Objects:
    """Return the objects of candidates, each of its best class; overlaps suppressed, as NMS does.

    Args:
        boxes: (N, 4) xyxy as fractions of the input.
        scores: (N, C) of each class.
        image: the image.
    """
    best = scores.argmax(axis=1)
    rows = np.flatnonzero(scores.max(axis=1) >= MIN_SCORE)
    return suppressed_rows(boxes[rows], scores[rows, best[rows]], best[rows], image)


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


def matches(image: LabelledImage, found: Objects, min_iou: float = MIN_IOU) -> NDArray[np.bool_]:
    """Return which found objects are right (N,): each object is found once, by the best score."""
    return matched_rows(image, found, min_iou) >= 0


def matched_rows(
    image: LabelledImage, found: Objects, min_iou: float = MIN_IOU
) -> NDArray[np.intp]:
    """Return the number of the true object that each found one is (N,); -1: it is wrong."""
    rows = np.full((len(found.scores),), -1, np.intp)
    own = [row for row, item in enumerate(image.objects) if not item.ignored]
    if not own or not len(rows):
        return rows
    truth = [image.objects[row] for row in own]
    numbers = np.array([item.number for item in truth])
    overlaps = iou_matrix(found.boxes, np.array([item.box for item in truth], np.float64))
    free = np.ones(len(truth), np.bool_)
    for row in np.argsort(-found.scores, kind="stable").tolist():
        fit = np.where(free & (numbers == found.classes[row]), overlaps[row], 0.0)
        best = int(fit.argmax())
        if fit[best] >= min_iou:
            rows[row], free[best] = own[best], False
    return rows


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


def objects_differ(
    own: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]], size: int
) -> float:
    """Return how much the objects of two runs differ: in score, or in place as a part of the input.

    Suppression compares overlaps with a limit, so that rounding alone can exchange a weak box for
    one beside it: only objects with a score of 0.1 or more need a counterpart, of any score.

    Args:
        own: boxes (N, 4) xyxy in pixels of the input, scores (N,), classes (N,).
        other: the same of the other run.
        size: side of the input in pixels.

    Returns:
        the largest difference; infinite: an object has no counterpart.
    """
    worst = 0.0
    for first, second in ((own, other), (other, own)):
        for row in np.flatnonzero(first["scores"] >= COMPARED_SCORE).tolist():
            apart = np.abs(second["boxes"] - first["boxes"][row]).max(axis=1, initial=0) / size
            apart = np.maximum(apart, np.abs(second["scores"] - first["scores"][row]))
            apart = apart[second["classes"] == first["classes"][row]]
            worst = max(worst, float(apart.min(initial=np.inf)))
    return worst
