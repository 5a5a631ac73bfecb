"""Methods that give one class and one box: their figures, thresholds and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.evaluation.localization import (
    MIN_IOU,
    LocalizationFigures,
    localization_figures,
)
from models.training import drawing
from models.training.augment import Image
from models.training.method import Figures, Method, ModelCard
from models.training.tasks.classify import lowest_score, true_classes


class Located(NamedTuple):
    """The main object of an image."""

    scores: NDArray[np.float32]
    """(C,) from 0 to 1, by class."""
    box: NDArray[np.float32]
    """(4,) xyxy in pixels of the image."""


class Locates(Method):
    """A method the result of which is `Located`."""

    needs = "main_object"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Located]) -> Figures:
        """Return the figures of class and box, and the overlap of a box that never changes.

        The first one, the mean overlap where it is 0 for a wrong class, weighs both.
        """
        boxes = np.array([result.box for result in results], np.float64).reshape(-1, 4)
        found = np.array([result.scores.argmax() for result in results], np.intp)
        figures = _figures(images, found, boxes)
        same = _figures(images, found, mean_box(self.job.train) * _sizes(images))
        return {
            "class and IoU": figures.right_iou or 0.0,
            "top-1": figures.top_1 or 0.0,
            "mean IoU": figures.mean_iou or 0.0,
            "IoU >= .5": figures.iou_50 or 0.0,
            "mean IoU of the mean box": same.mean_iou or 0.0,
        }

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Located]
    ) -> Mapping[str, float]:
        """Return the score below which an object is not worth showing: that of the best F1."""
        scores = np.array([result.scores for result in results], np.float64)
        right = scores.argmax(axis=1) == true_classes(images)
        return {"score": lowest_score(scores.max(axis=1), right)}

    def error(self, image: LabelledImage, result: Located) -> float:
        """Return how wrong a result is: the score that the true class lacks, and the overlap."""
        return 2.0 - float(result.scores[image.classes[0]]) - self._iou(image, result)

    def draw(self, pixels: Image, image: LabelledImage, result: Located) -> Image:
        """Draw the found box over the true one, and write both labels where they differ."""
        scale = pixels.shape[1] / image.size[0]
        found, true = int(result.scores.argmax()), image.classes[0]
        iou = self._iou(image, result)
        good = found == true and iou >= MIN_IOU
        drawing.boxes(pixels, np.array([image.objects[0].box]) * scale, drawing.MISSED)
        drawing.boxes(pixels, result.box[None] * scale, drawing.CORRECT if good else drawing.WRONG)
        text = f"{self.job.labels[found]} {result.scores[found]:.2f}, IoU {iou:.2f}"
        if found != true:
            text += f", true: {self.job.labels[true]}"
        return drawing.caption(pixels, text, drawing.CORRECT if good else drawing.WRONG)

    def card(self) -> ModelCard:
        """Return the card of a model that gives scores and corners as fractions of the image."""
        output = {
            "outputs": {"scores": ["scores"], "box": ["x1", "y1", "x2", "y2"]},
            "units": "fraction",
            "activation": "none",
            "end_to_end": True,
        }
        return ModelCard("localize", "localize", output)

    def _iou(self, image: LabelledImage, result: Located) -> float:
        found = np.array([result.scores.argmax()])
        return _figures([image], found, result.box[None].astype(np.float64)).mean_iou or 0.0


def mean_box(images: Sequence[LabelledImage]) -> NDArray[np.float64]:
    """Return the mean box (4,) xyxy of images, as fractions of their sides."""
    mean: NDArray[np.float64] = (_true_boxes(images) / _sizes(images)).mean(axis=0)
    return mean


def _figures(
    images: Sequence[LabelledImage], found: NDArray[np.intp], boxes: NDArray[np.float64]
) -> LocalizationFigures:
    return localization_figures(true_classes(images), _true_boxes(images), found, boxes)


def _true_boxes(images: Sequence[LabelledImage]) -> NDArray[np.float64]:
    return np.array([image.objects[0].box for image in images], np.float64).reshape(-1, 4)


def _sizes(images: Sequence[LabelledImage]) -> NDArray[np.float64]:
    """Return width, height, width, height of each image (N, 4)."""
    return np.array([image.size * 2 for image in images], np.float64).reshape(-1, 4)
