"""Differences of two results over the same images or clips, with bootstrap intervals.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13: images (or clips)
are drawn with replacement, as many as there are, and the figures of both results are computed of
the same draw. The interval has the middle 95 % of the differences. Boxes of one image are not
independent of each other, so whole images are drawn, and whole clips, not frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import ratio
from models.evaluation.classification import ClassificationResult
from models.evaluation.detection import ImageBoxes
from models.evaluation.matching import class_counts, match_images
from models.evaluation.semantic import semantic_figures
from models.evaluation.tracking import TrackingFigures, clip_sums, tracking_figures
from models.evaluation.tracks import ClipBoxes
from models.evaluation.weighted import FIGURES, WeightedDetections, Weights

RESAMPLES = 1000
SEED = 0
INTERVAL = (2.5, 97.5)
"""Percentiles of the differences that bound the interval."""
TRACKING = ("hota", "det_a", "ass_a", "mota", "idf1")
"""Figures of tracking that are compared by default."""

Figures = Callable[[Weights], Mapping[str, float | None]]
"""Computes figures by name for weights (N,): how often each image, or clip, counts."""


class Difference(msgspec.Struct, frozen=True):
    """Difference of a figure between two results."""

    figure: str
    first: float | None
    """Value of the first result; None: undefined, as the following."""
    second: float | None
    difference: float | None
    """Second minus first."""
    low: float | None
    """Lower end of the 95 % interval of the difference; None: undefined, also for less than two
    images or clips."""
    high: float | None
    """Upper end of the interval."""


def bootstrap(
    first: Figures,
    second: Figures,
    count: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare two results, with an interval for each figure.

    Of less than about 20 images or clips the intervals are too narrow.

    Args:
        first: figures of the first result.
        second: the same figures of the second result, of the same images or clips.
        count: number of images or clips.
        resamples: number of draws, at least 1.
        seed: seed of the draws; the same seed gives the same intervals.

    Returns:
        a difference for each figure, in the order of `first`.
    """
    once = np.ones(count)
    of_first, of_second = first(once), second(once)
    drawn: dict[str, list[float]] = {name: [] for name in of_first}
    random = np.random.default_rng(seed)
    for _ in range(resamples if count > 1 else 0):
        weights = np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)
        one, two = first(weights), second(weights)
        for name, values in drawn.items():
            difference = _minus(two[name], one[name])
            if difference is not None:  # a draw may have no object of a size
                values.append(difference)
    return tuple(
        _difference(name, of_first[name], of_second[name], values) for name, values in drawn.items()
    )


def compare_detections(
    first: Sequence[ImageBoxes],
    second: Sequence[ImageBoxes],
    labels: Sequence[str],
    figures: Sequence[str] = FIGURES,
    confidence: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare the detections of two detectors, drawing images.

    Args:
        first: images with the boxes of the first detector.
        second: the same images and true boxes, in the same order, with the boxes of the second.
        labels: names of the classes.
        figures: names of COCO figures, of `FIGURES`.
        confidence: if given, "precision", "recall" and "f1" of the boxes with at least this score
            are compared too, of all classes together.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        EvaluationError: the images or their true boxes differ, or an array is wrong.
    """
    for one, two in zip_longest(first, second):
        _check_same(one, two, ("width", "height"), _TRUTH)
    return bootstrap(
        _of_detections(first, labels, figures, confidence),
        _of_detections(second, labels, figures, confidence),
        len(first),
        resamples,
        seed,
    )


def compare_classifications(
    first: ClassificationResult,
    second: ClassificationResult,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare "top_1" and "top_5" of two classifiers, drawing images.

    Args:
        first: result of the first classifier.
        second: result of the second, for the same images in the same order.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        EvaluationError: the numbers of images of a class differ.
    """
    if not np.array_equal(first.confusions.sum(axis=1), second.confusions.sum(axis=1)):
        raise EvaluationError(
            "images: the two results are not of the same images; compare results of one data set"
        )
    images = len(first.in_top_1)
    return bootstrap(_of_classes(first), _of_classes(second), images, resamples, seed)


def compare_maps(
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    labels: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare "mean_iou" and "pixel_accuracy" of two models that give maps, drawing images.

    Args:
        first: (I, C, 3) pixels of each image and class, as of `count_pixels`.
        second: those of the second model, for the same images in the same order.
        labels: names of the classes.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        EvaluationError: the true pixels differ.
    """
    if not np.array_equal(first[..., 2], second[..., 2]):
        raise EvaluationError(
            "images: the true pixels of the two results differ; compare results of one data set"
        )
    return bootstrap(_of_maps(first, labels), _of_maps(second, labels), len(first), resamples, seed)


def compare_tracks(
    first: Sequence[ClipBoxes],
    second: Sequence[ClipBoxes],
    figures: Sequence[str] = TRACKING,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare the tracks of two trackers, drawing clips.

    Args:
        first: clips with the tracks of the first tracker.
        second: the same clips and true tracks, in the same order, with the tracks of the second.
        figures: names of fields of `TrackingFigures`.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        EvaluationError: the clips differ, or an array is wrong.
    """
    for one, two in zip_longest(first, second):
        _check_same(one, two, (), ())
        # After `without_ignored` true boxes do not depend on the found ones either.
        for of_one, of_two in zip_longest(one.frames, two.frames):
            if of_one is None or of_two is None or not _same(of_one, of_two, _TRACKS):
                raise EvaluationError(
                    f"{one.name}: its frames or true tracks differ between the two results; "
                    f"compare results of one data set"
                )
    return bootstrap(
        _of_tracks(first, figures), _of_tracks(second, figures), len(first), resamples, seed
    )


_TRUTH = ("truth_boxes", "truth_classes", "ignored", "areas")
_TRACKS = ("truth_ids", "truth_boxes")


def _of_detections(
    images: Sequence[ImageBoxes],
    labels: Sequence[str],
    figures: Sequence[str],
    confidence: float | None,
) -> Figures:
    """Prepare the figures of a detector."""
    weighted = WeightedDetections(images, labels, figures)
    if confidence is None:
        return weighted.figures
    counts = class_counts(images, match_images(images, labels, confidence), len(labels))
    of_images = counts.sum(axis=1).astype(np.float64)

    def compute(weights: Weights) -> dict[str, float | None]:
        right, missed, false = (weights @ of_images).tolist()
        return {
            **weighted.figures(weights),
            "precision": ratio(right, right + false),
            "recall": ratio(right, right + missed),
            "f1": ratio(2 * right, 2 * right + missed + false),
        }

    return compute


def _of_classes(result: ClassificationResult) -> Figures:
    """Prepare the figures of a classifier."""
    right = np.stack([result.in_top_1, result.in_top_5], axis=1).astype(np.float64)

    def compute(weights: Weights) -> dict[str, float | None]:
        top_1, top_5 = (weights @ right).tolist()
        images = float(weights.sum())
        return {"top_1": ratio(top_1, images), "top_5": ratio(top_5, images)}

    return compute


def _of_maps(counts: NDArray[np.integer], labels: Sequence[str]) -> Figures:
    """Prepare the figures of maps."""

    def compute(weights: Weights) -> dict[str, float | None]:
        found = semantic_figures(counts, labels, weights)
        return {"mean_iou": found.mean_iou, "pixel_accuracy": found.pixel_accuracy}

    return compute


def _of_tracks(clips: Sequence[ClipBoxes], figures: Sequence[str]) -> Figures:
    """Prepare the figures of a tracker."""
    unknown = set(figures) - set(TrackingFigures.__struct_fields__)
    if unknown:
        raise EvaluationError(f"figures: {min(unknown)} is none of tracking; correct the name")
    sums = [clip_sums(clip) for clip in clips]

    def compute(weights: Weights) -> dict[str, float | None]:
        found = tracking_figures(sums, weights)
        return {name: getattr(found, name) for name in figures}

    return compute


def _check_same(
    one: ImageBoxes | ClipBoxes | None,
    two: ImageBoxes | ClipBoxes | None,
    values: Sequence[str],
    arrays: Sequence[str],
) -> None:
    """Refuse two images, or clips, that differ in their name, some values or some arrays."""
    if one is None or two is None or one.name != two.name:
        names = [each.name if each else "none" for each in (one, two)]
        raise EvaluationError(
            f"results: not of the same images or clips (found {names[0]} and {names[1]} at one "
            f"place); give both in the same order"
        )
    equal = all(getattr(one, name) == getattr(two, name) for name in values)
    if not equal or not _same(one, two, arrays):
        raise EvaluationError(
            f"{one.name}: its size or true boxes differ between the two results; "
            f"compare results of one data set"
        )


def _same(one: object, two: object, arrays: Sequence[str]) -> bool:
    """Return whether some arrays are equal."""
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays)


def _minus(a: float | None, b: float | None) -> float | None:
    """Subtract; None: one is undefined."""
    return None if a is None or b is None else a - b


def _difference(
    name: str, first: float | None, second: float | None, drawn: list[float]
) -> Difference:
    """Make the result for one figure."""
    low = high = None
    difference = _minus(second, first)
    if difference is not None and drawn:
        values: NDArray[np.float64] = np.array(drawn, np.float64)
        low, high = (float(value) for value in np.percentile(values, INTERVAL))
    return Difference(name, first, second, difference, low, high)
