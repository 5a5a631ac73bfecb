"""Methods that map the scores of classes over an image: their figures, thresholds and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.training import drawing
from models.training.augment import Image
from models.training.method import Figures, Method, ModelCard
from models.training.thresholds import score_threshold

LEVELS = np.linspace(0.02, 0.98, 49)
"""Scores that are tried as that of the background."""


class Located(NamedTuple):
    """The classes of an image, and their places."""

    scores: NDArray[np.float32]
    """(C,) from 0 to 1, by class, of the whole image."""
    maps: NDArray[np.float32]
    """(C, h, w) from 0 to 1, over the whole image."""


class MapsScores(Method):
    """A method the result of which is `Located`; its examples have boxes."""

    needs = "box"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Located]) -> Figures:
        """Return figures of the places, and of the classes of whole images.

        peak in object: part of the classes of images, each where it is there, whose map is highest
        inside an object of it; map in objects: mean part of the sum of these maps that lies in such
        objects; class AP: mean over classes of the average precision of the images, by score;
        top-1: part of the images whose best class is there; centre in object: part of the classes
        of images with an object at the centre of the image, for comparison with the peaks.
        """
        places = [
            (inside_of(image, number, result.maps.shape[1:]), result.maps[number])
            for image, result in zip(images, results, strict=True)
            for number in classes_in(image)
        ]
        present = presence(images, len(self.job.labels))
        scores = np.array([result.scores for result in results])
        some = present.any(axis=1)
        return {
            "peak in object": _mean([bool(m[peak_of(own)]) for m, own in places]),
            "map in objects": _mean([float((own * m).sum() / own.sum()) for m, own in places]),
            "class AP": _mean(
                [
                    average_precision(present[:, number], scores[:, number])
                    for number in np.flatnonzero(present.any(axis=0)).tolist()
                ]
            ),
            "top-1": _mean(present[some][np.arange(some.sum()), scores[some].argmax(axis=1)]),
            "centre in object": _mean(
                [
                    bool(inside_of(image, number, (1, 1))[0, 0])
                    for image in images
                    for number in classes_in(image)
                ]
            ),
        }

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Located]
    ) -> Mapping[str, float]:
        """Return the score of the best F1 over all classes of all images."""
        present = presence(images, len(self.job.labels)).reshape(-1)
        scores = np.array([result.scores for result in results]).reshape(-1)
        lowest = score_threshold(scores, present, int(present.sum()))
        return {"score": 0.5 if lowest is None else lowest}

    def error(self, image: LabelledImage, result: Located) -> float:
        """Return how wrong a result is: peaks outside, and the part of the maps that is outside."""
        found = 0.0
        for number in classes_in(image):
            own = result.maps[number]
            inside = inside_of(image, number, own.shape)
            found += 1 - bool(inside[peak_of(own)]) + float((own * ~inside).sum() / own.sum())
        return found

    def draw(self, pixels: Image, image: LabelledImage, result: Located) -> Image:
        """Draw the map of the best class as heat, its peak, and the true objects of the class."""
        number = int(result.scores.argmax())
        own = result.maps[number]
        height, width = pixels.shape[:2]
        low, high = float(own.min()), max(float(own.max()), float(own.min()) + 1e-6)
        grey = cv2.resize((own - low) / (high - low), (width, height)) * 255
        heat = cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_VIRIDIS)
        pixels = np.asarray(cv2.addWeighted(pixels, 0.5, heat, 0.5, 0), np.uint8)
        sides = (width, height, width, height)
        drawing.boxes(pixels, boxes_of(image, number) * sides, drawing.MISSED)
        y, x = peak_of(own)
        right = bool(inside_of(image, number, own.shape)[y, x])
        colour = drawing.CORRECT if right else drawing.WRONG
        centre = round((x + 0.5) / own.shape[1] * width), round((y + 0.5) / own.shape[0] * height)
        cv2.drawMarker(pixels, centre, colour, cv2.MARKER_CROSS, 24, 3)
        text = f"{self.job.labels[number]} {result.scores[number]:.2f}"
        return drawing.caption(pixels, text, colour)

    def card(self) -> ModelCard:
        """Return the card of the map: the class of each of its cells."""
        labels = ("background", *self.job.labels)
        return ModelCard(
            "semantic", "semantic", {"outputs": {"score_map": ["score_map"]}}, {}, labels
        )

    def further_cards(self) -> Mapping[str, ModelCard]:
        """Return the card of the labels of whole images."""
        return {"labels": ModelCard("classify", "classify", {"outputs": {"scores": ["scores"]}})}


def classes_in(image: LabelledImage) -> list[int]:
    """Return the classes of the objects of an image, in order."""
    return sorted({item.number for item in image.objects if not item.ignored})


def presence(images: Sequence[LabelledImage], classes: int) -> NDArray[np.bool_]:
    """Return which class is in which image, (N, C)."""
    found = np.zeros((len(images), classes), np.bool_)
    for row, image in enumerate(images):
        found[row, classes_in(image)] = True
    return found


def boxes_of(image: LabelledImage, number: int) -> NDArray[np.float64]:
    """Return the objects of a class in an image, (N, 4) xyxy as fractions of the image."""
    own = [item.box for item in image.objects if item.number == number and not item.ignored]
    width, height = image.size
    return np.array(own, np.float64).reshape(-1, 4) / (width, height, width, height)


def inside_of(image: LabelledImage, number: int, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return which cells (h, w) of a map have their centre in an object of a class."""
    height, width = shape
    x = ((np.arange(width) + 0.5) / width)[None, :]
    y = ((np.arange(height) + 0.5) / height)[:, None]
    found = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in boxes_of(image, number).tolist():
        found |= (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    return found


def peak_of(values: NDArray[np.floating]) -> tuple[int, int]:
    """Return row and column of the highest cell of a map."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


def average_precision(present: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the mean of the precision at each image that has the class, best scores first."""
    hits = present[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def choose_level(images: Sequence[LabelledImage], results: Sequence[Located]) -> float:
    """Return the score of the background with which the painted cells overlap the boxes best."""
    shared, united = np.zeros(len(LEVELS)), np.zeros(len(LEVELS))
    for image, result in zip(images, results, strict=True):
        best, own = result.maps.max(axis=0), result.maps.argmax(axis=0)
        for number in range(len(result.maps)):
            inside = inside_of(image, number, best.shape)
            painted = (own == number) & (best > LEVELS[:, None, None])
            shared += (painted & inside).sum(axis=(1, 2))
            united += (painted | inside).sum(axis=(1, 2))
    return float(LEVELS[int((shared / np.maximum(united, 1)).argmax())])


def _mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
