"""Methods that name each pixel: their figures and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.datasets.semantic import IGNORED, read_class_map
from models.evaluation.arrays import ratio
from models.evaluation.plots import bars_png
from models.evaluation.semantic import (
    NONE,
    PixelCounts,
    SemanticFigures,
    count_pixels,
    semantic_figures,
)
from models.training import drawing
from models.training.augment import Image
from models.training.method import Figures, Method, ModelCard

Classes = NDArray[np.uint8]
"""(h, w) class of each cell of a grid over the whole image."""
MAX_NAMED = 12
"""Classes with a figure of their own."""


class NamesPixels(Method):
    """A method the result of which is a map of classes, (h, w) uint8."""

    needs = "class_map"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Classes]) -> Figures:
        """Return intersection over union: its mean over classes, and of each; right pixels.

        All pixels of all images count together, as in `run.py evaluate`.
        """
        figures = self._figures(images, results)
        of_classes = {
            f"IoU {own.label}": own.iou
            for own in figures.classes[:MAX_NAMED]
            if own.iou is not None
        }
        return {
            "mean IoU": figures.mean_iou or 0.0,
            **of_classes,
            "right pixels": figures.pixel_accuracy or 0.0,
        }

    def error(self, image: LabelledImage, result: Classes) -> float:
        """Return how wrong a result is: the part of the pixels that is."""
        right, _, true = self._counts(image, result).sum(axis=0)
        return 1.0 - (ratio(right, true) or 0.0)

    def charts_of(
        self, images: Sequence[LabelledImage], results: Sequence[Classes]
    ) -> list[tuple[str, bytes]]:
        """Return the intersection over union of each class."""
        values = {own.label: own.iou for own in self._figures(images, results).classes}
        return [("IoU of each class", bars_png("IoU of each class", "IoU", values))]

    def draw(self, pixels: Image, image: LabelledImage, result: Classes) -> Image:
        """Tint pixels of objects: right, wrong, and missed."""
        size = (pixels.shape[1], pixels.shape[0])
        found = cv2.resize(result, size, interpolation=cv2.INTER_NEAREST)
        true = cv2.resize(true_map(image), size, interpolation=cv2.INTER_NEAREST)
        counted = true != NONE
        for place, colour in (
            (counted & (found == true) & (true > 0), drawing.CORRECT),
            (counted & (found != true) & (found > 0), drawing.WRONG),
            (counted & (found != true) & (found == 0), drawing.MISSED),
        ):
            drawing.tint(pixels, place, colour)
        return pixels

    def card(self) -> ModelCard:
        """Return the card of a model that gives scores of classes for each pixel."""
        output = {"outputs": {"scores": ["score_map"]}, "activation": "none"}
        return ModelCard("semantic", "semantic", output)

    def _figures(
        self, images: Sequence[LabelledImage], results: Sequence[Classes]
    ) -> SemanticFigures:
        counts = [self._counts(*pair) for pair in zip(images, results, strict=True)]
        return semantic_figures(np.array(counts), self.job.labels)

    def _counts(self, image: LabelledImage, result: Classes) -> PixelCounts:
        return count_pixels(result.astype(np.intp), true_map(image), len(self.job.labels))


def true_map(image: LabelledImage) -> NDArray[np.int16]:
    """Return the class of each pixel (H, W); `NONE`: it does not count."""
    assert image.class_map is not None, "an example of this task has a map"
    classes = read_class_map(image.class_map)
    classes[classes == IGNORED] = NONE
    return classes
