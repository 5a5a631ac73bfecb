"""Figures of classes of whole images: top-1 and top-5 accuracy, and which class is taken for which.

Top-5 accuracy is that of the ImageNet challenge (Russakovsky et al., IJCV 2015, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import check_classes, check_lengths, ratio

NONE = -1
"""Number of a found class that is none of the labels."""
TOP = 5
"""Number of best classes among which the true one has to be for top-5 accuracy."""


class ClassAccuracy(msgspec.Struct, frozen=True):
    """Accuracy of one class; None: undefined, because no image is of it."""

    label: str
    top_1: float | None
    top_5: float | None
    images: int


class ClassificationFigures(msgspec.Struct, frozen=True):
    """Accuracies, from 0 to 1; None: undefined, because there is no image."""

    top_1: float | None
    """Part of the images whose best class is the true one."""
    top_5: float | None
    """Part of the images whose true class is among the best five."""
    mean_top_1: float | None
    """Mean of the top-1 accuracies of the classes that have images."""
    images: int
    classes: tuple[ClassAccuracy, ...]
    """In the order of the labels."""


class ClassificationResult(NamedTuple):
    """Figures, the results per image from which they follow, and the confusion matrix."""

    figures: ClassificationFigures
    in_top_1: NDArray[np.bool_]
    """(N,) whether the best class is the true one."""
    in_top_5: NDArray[np.bool_]
    """(N,) whether the true class is among the best five."""
    confusions: NDArray[np.int64]
    """(C, C + 1) number of images: a row per true class, a column per best class; the last column
    has the images whose best class is none of the labels."""


def evaluate_scores(
    truth: NDArray[np.integer], scores: NDArray[np.floating], labels: Sequence[str]
) -> ClassificationResult:
    """Measure classes from the scores of all classes; equal scores rank by the class number.

    Args:
        truth: (N,) true classes: indices into the labels.
        scores: (N, C) finite; higher is better.
        labels: names of the classes.

    Raises:
        EvaluationError: an array is wrong.
    """
    if scores.shape != (len(truth), len(labels)):
        raise EvaluationError(
            f"scores: not ({len(truth)}, {len(labels)}) (found {scores.shape}); "
            f"give a row per image and a column per label"
        )
    if not np.isfinite(scores).all():
        raise EvaluationError("scores: one is not a finite number; correct the score")
    return evaluate_ranks(truth, np.argsort(-scores, axis=1, kind="stable")[:, :TOP], labels)


def evaluate_ranks(
    truth: NDArray[np.integer], ranked: NDArray[np.integer], labels: Sequence[str]
) -> ClassificationResult:
    """Measure classes from the best classes of each image.

    Args:
        truth: (N,) true classes: indices into the labels.
        ranked: (N, K) the best classes, best first, K at least 1. For K below 5, top-5 accuracy is
            that of the K best. `NONE`: a class that is none of the labels.
        labels: names of the classes.

    Raises:
        EvaluationError: an array is wrong.
    """
    _check(truth, ranked, len(labels))
    best = ranked[:, 0]
    in_top_1 = best == truth
    in_top_5 = (ranked[:, :TOP] == truth[:, None]).any(axis=1)
    # The last column is that of `NONE`.
    confusions = np.zeros((len(labels), len(labels) + 1), np.int64)
    np.add.at(confusions, (truth, best), 1)
    images = confusions.sum(axis=1)
    right = np.bincount(truth[in_top_5], minlength=len(labels))
    classes = tuple(
        ClassAccuracy(
            label=label,
            top_1=ratio(confusions[number, number], images[number]),
            top_5=ratio(right[number], images[number]),
            images=int(images[number]),
        )
        for number, label in enumerate(labels)
    )
    of_classes = [figures.top_1 for figures in classes if figures.top_1 is not None]
    figures = ClassificationFigures(
        top_1=ratio(in_top_1.sum(), len(truth)),
        top_5=ratio(in_top_5.sum(), len(truth)),
        mean_top_1=ratio(sum(of_classes), len(of_classes)),
        images=len(truth),
        classes=classes,
    )
    return ClassificationResult(figures, in_top_1, in_top_5, confusions)


def _check(truth: NDArray[Any], ranked: NDArray[Any], classes: int) -> None:
    """Refuse arrays that do not fit together."""
    if not classes:
        raise EvaluationError("labels: there are none; give the names of the classes")
    if ranked.ndim != 2 or ranked.shape[1] == 0:
        raise EvaluationError(
            f"ranked classes: not (N, K) (found {ranked.shape}); give the best K of each image"
        )
    check_lengths("images", len(ranked), [("true classes", truth)])
    check_classes("true classes", truth, classes)
    check_classes("ranked classes", ranked[ranked != NONE], classes)
