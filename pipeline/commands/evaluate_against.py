"""The change of the figures of `run.py evaluate` since an earlier evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation.classification import TOP, ClassificationResult, evaluate_ranks
from models.evaluation.compare import (
    Difference,
    compare_classifications,
    compare_detections,
    compare_maps,
    compare_tracks,
)
from models.evaluation.detection import ImageBoxes, Overlaps
from models.evaluation.shapes import MAX_FOUND_KEYPOINTS, best_of_classes
from models.evaluation.tracks import ClipBoxes, FrameBoxes
from pipeline.commands.evaluation import Evaluation, ShapeFigures
from pipeline.errors import ConfigError

OF_SHAPES = ("ap", "ap50", "ap75", "ar_100")
"""Figures of masks, keypoints and rotated boxes that are compared."""


def differences(before: Evaluation, after: Evaluation) -> list[Difference]:
    """Compare two evaluations of the same data set.

    Raises:
        ConfigError: their data sets, classes or tasks differ.
        EvaluationError: their frames differ.
    """
    if (before.task, before.data.sha256) != (after.task, after.data.sha256):
        raise ConfigError(
            f"--against: another data set (found {before.data.path}, expected {after.data.path}); "
            "compare results over the same data"
        )
    if before.labels != after.labels:
        raise ConfigError(
            f"--against: other classes were measured (found {len(before.labels)}, expected "
            f"{len(after.labels)}); evaluate both models with the same labels"
        )
    if after.task == "track":
        return list(compare_tracks(_clips(before), _clips(after)))
    if after.task == "classify":
        _check_names([of.name for of in before.truth], [of.name for of in after.truth])
        return list(compare_classifications(_ranks(before), _ranks(after)))
    if after.task == "semantic":
        _check_names([of.name for of in before.pixels], [of.name for of in after.pixels])
        return list(compare_maps(_pixels(before), _pixels(after), after.labels))
    confidence = None if after.confidence is None else after.confidence.confidence
    first, second, labels = _images(before), _images(after), after.labels
    changes = list(compare_detections(first, second, labels, confidence=confidence))
    earlier = {own.kind: own for own in before.shapes}
    for own in after.shapes:
        if own.kind in earlier:
            pair = _with_overlaps(first, earlier[own.kind]), _with_overlaps(second, own)
            found = compare_detections(*pair, labels, OF_SHAPES, confidence)
            changes += [
                msgspec.structs.replace(change, figure=f"{own.kind} {change.figure}")
                for change in found
            ]
    return changes


def _with_overlaps(images: Sequence[ImageBoxes], shapes: ShapeFigures) -> list[ImageBoxes]:
    """Return the images with the overlaps of their shapes."""
    made = []
    for image, own in zip(images, shapes.images, strict=True):
        rows: NDArray[np.intp] = np.arange(len(image.found_scores))
        if shapes.kind == "keypoints":
            rows = best_of_classes(image, MAX_FOUND_KEYPOINTS)
        values = np.zeros((len(own.areas), len(own.truth_areas)))
        for found, true, value in own.pairs:
            values[found, true] = value
        made.append(
            image._replace(
                areas=np.array(own.truth_areas, np.float64),
                ignored=np.array(own.ignored, np.bool_),
                found_boxes=image.found_boxes[rows],
                found_scores=image.found_scores[rows],
                found_classes=image.found_classes[rows],
                overlaps=Overlaps(
                    values, np.array(own.areas, np.float64), np.array(own.crowd, np.bool_)
                ),
            )
        )
    return made


def _ranks(evaluation: Evaluation) -> ClassificationResult:
    truth = np.array([own.numbers[0] for own in evaluation.truth], np.intp)
    ranked = np.array([own.numbers for own in evaluation.detections], np.intp)
    return evaluate_ranks(truth, ranked.reshape(-1, TOP), evaluation.labels)


def _pixels(evaluation: Evaluation) -> NDArray[np.int64]:
    counts = np.zeros((len(evaluation.pixels), len(evaluation.labels), 3), np.int64)
    for image, own in zip(counts, evaluation.pixels, strict=True):
        for number, *of_class in own.counts:
            image[number] = of_class
    return counts


def _check_names(before: Sequence[str], after: Sequence[str]) -> None:
    if before != after:
        raise ConfigError(
            f"--against: other images were measured (found {len(before)}, expected {len(after)}); "
            "compare results over the same data"
        )


def _images(evaluation: Evaluation) -> list[ImageBoxes]:
    found = []
    for truth, own in zip(evaluation.truth, evaluation.detections, strict=True):
        width, height, *flags = truth.scores or [0.0, 0.0]
        areas, ignored = np.array(flags, np.float64).reshape(-1, 2).T
        found.append(
            ImageBoxes(
                truth.name,
                int(width),
                int(height),
                np.array(truth.boxes, np.float64).reshape(-1, 4),
                np.array(truth.numbers, np.intp),
                ignored.astype(np.bool_),
                areas,
                np.array(own.boxes, np.float64).reshape(-1, 4),
                np.array(own.scores or (), np.float64),
                np.array(own.numbers, np.intp),
            )
        )
    return found


def _clips(evaluation: Evaluation) -> list[ClipBoxes]:
    frames: dict[str, list[FrameBoxes]] = {}
    for truth, own in zip(evaluation.truth, evaluation.detections, strict=True):
        frames.setdefault(truth.name, []).append(
            FrameBoxes(
                np.array(truth.numbers, np.int64),
                np.array(truth.boxes, np.float64).reshape(-1, 4),
                np.array(own.numbers, np.int64),
                np.array(own.boxes, np.float64).reshape(-1, 4),
            )
        )
    return [ClipBoxes(name, own) for name, own in frames.items()]
