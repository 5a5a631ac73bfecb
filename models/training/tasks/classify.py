"""Methods that name whole images: their figures, thresholds and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.evaluation.classification import evaluate_scores
from models.evaluation.plots import confusion_png
from models.training.augment import Image
from models.training.drawing import CORRECT, WRONG, caption
from models.training.method import Figures, Method, ModelCard
from models.training.thresholds import score_threshold

Scores = NDArray[np.float32]
"""(C,) from 0 to 1, by class."""
MIN_SCORE = 0.01
"""Score that counts as the lowest one, since the logarithm of 0 is infinite."""


class Classifies(Method):
    """A method the result of which is the scores of all classes, (C,) float32."""

    needs = "class"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Scores]) -> Figures:
        """Return top-1 accuracy, its mean over classes, and the mean score of the true class.

        The last one is the geometric mean, and decides between epochs that are right as often.
        """
        truth, found = true_classes(images), np.array(results, np.float64)
        figures = evaluate_scores(truth, found, self.job.labels).figures
        own = np.maximum(found[np.arange(len(truth)), truth], MIN_SCORE)
        return {
            "top-1": figures.top_1 or 0.0,
            "mean top-1": figures.mean_top_1 or 0.0,
            "true score": float(np.exp(np.log(own).mean())),
        }

    def merit(self, figures: Figures) -> Sequence[float]:
        """Return the score of the true class before the accuracy.

        Accuracy on a few dozen images moves in steps of some per cent, mostly by chance.
        """
        return figures["true score"], figures["top-1"]

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Scores]
    ) -> Mapping[str, float]:
        """Return the score below which a label is not worth showing: that of the best F1."""
        truth, found = true_classes(images), np.array(results, np.float64)
        return {"score": lowest_score(found.max(axis=1), found.argmax(axis=1) == truth)}

    def error(self, image: LabelledImage, result: Scores) -> float:
        """Return how wrong a result is: the score that the true class lacks."""
        return 1.0 - float(result[image.classes[0]])

    def doubt(self, image: LabelledImage, result: Scores) -> float:
        """Return the score of the found class where it is not the true one."""
        found = int(result.argmax())
        return 0.0 if found == image.classes[0] else float(result[found])

    def charts_of(
        self, images: Sequence[LabelledImage], results: Sequence[Scores]
    ) -> list[tuple[str, bytes]]:
        """Return the confusions of the classes that are true or found somewhere."""
        found = np.array(results, np.float64)
        counts = evaluate_scores(true_classes(images), found, self.job.labels).confusions[:, :-1]
        seen = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
        names = [self.job.labels[number] for number in seen]
        return [("Confusions of classes", confusion_png(counts[np.ix_(seen, seen)], names))]

    def draw(self, pixels: Image, image: LabelledImage, result: Scores) -> Image:
        """Write the found label, and the true one where it is another."""
        found, true = int(result.argmax()), image.classes[0]
        text = f"{self.job.labels[found]} {result[found]:.2f}"
        if found == true:
            return caption(pixels, text, CORRECT)
        return caption(pixels, f"{text}, true: {self.job.labels[true]}", WRONG)

    def card(self) -> ModelCard:
        """Return the card of a classifier."""
        return ModelCard("classify", "classify", {"outputs": {"scores": ["scores"]}})


def true_classes(images: Sequence[LabelledImage]) -> NDArray[np.intp]:
    """Return the class of each image (N,)."""
    return np.array([image.classes[0] for image in images], np.intp)


def lowest_score(best: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Return the score with the best F1, a little below that of its last image.

    Args:
        best: (N,) score of the best class of each image.
        right: (N,) whether it is the true one.
    """
    found = score_threshold(best, right, len(right))
    return 0.5 if found is None else found


def class_weights(images: Sequence[LabelledImage], classes: int) -> NDArray[np.float32]:
    """Return the weight of each class of images (C,), see `weights_of`."""
    return weights_of(np.bincount(true_classes(images), minlength=classes))


def weights_of(counts: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return a weight of each class (C,): rare ones count more, by the root of their number.

    Weights in full proportion would make a class of one image as heavy as one of a thousand.
    """
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    return np.asarray(weights / weights[counts > 0].mean(), np.float32)
