"""Classes of whole images, and of their pixels, beside the truth of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.datasets.base import DataSet
from models.datasets.semantic import IGNORED, read_class_map
from models.errors import DataError, EvaluationError
from models.evaluation.classification import NONE, TOP
from models.evaluation.semantic import count_pixels
from pipeline.commands.evaluate_boxes import Classes, few, processed_images
from stages.sinks.score import Scored


class Ranks(NamedTuple):
    """The best classes of images."""

    names: list[str]
    """Names of the images."""
    truth: NDArray[np.intp]
    """(N,) true class of each: an index into the measured labels."""
    ranked: NDArray[np.intp]
    """(N, 5) the best classes, best first; `NONE`: one that is not measured, or none."""


class Pixels(NamedTuple):
    """The pixels of images."""

    names: list[str]
    """Names of the images."""
    counts: NDArray[np.int64]
    """(N, C, 3) of each measured class: right, found, and true."""


def ranks_of(data: DataSet, frames: Sequence[Scored], classes: Classes) -> tuple[Ranks, list[str]]:
    """Return the best classes of each image that was processed, and notes about the others."""
    processed, notes = processed_images(data, frames)
    names, truth, left_out = [], [], []
    ranked: list[list[int]] = []
    for image, frame in processed:
        own = [int(classes.of_data[number]) for number in image.classes]
        if len(own) != 1 or own[0] < 0:
            left_out.append(image.name)
            continue
        found = [] if isinstance(frame.labels, msgspec.UnsetType) else frame.labels[:TOP]
        best = _mapped(np.array([label.number for label in found], np.intp), classes).tolist()
        names.append(image.name)
        truth.append(own[0])
        ranked.append(best + [NONE] * (TOP - len(best)))
    if left_out:
        notes.append(
            f"{len(left_out)} of {len(processed)} images do not count, because they have no class "
            f"that is measured, or several: {few(left_out)}"
        )
    return Ranks(names, np.array(truth, np.intp), np.array(ranked, np.intp).reshape(-1, TOP)), notes


def pixels_of(
    data: DataSet, frames: Sequence[Scored], classes: Classes
) -> tuple[Pixels, list[str]]:
    """Count the pixels of each image that was processed; notes are about the others.

    Raises:
        EvaluationError: a true map cannot be read, or has a class without a name.
    """
    processed, notes = processed_images(data, frames)
    names, counts = [], []
    for image, frame in processed:
        if isinstance(frame.semantic, msgspec.UnsetType) or image.class_map is None:
            continue
        try:
            true = read_class_map(image.class_map).astype(np.intp)
        except DataError as error:
            raise EvaluationError(str(error)) from None
        highest = int(true.max(initial=-1, where=true != IGNORED))
        if highest >= len(data.labels):
            raise EvaluationError(
                f"{image.class_map}: class {highest} has no name (found {len(data.labels)} names); "
                "correct the list of labels"
            )
        truth = np.append(classes.of_data, np.full(max(0, 256 - len(data.labels)), -1))[true]
        found = _mapped(frame.semantic.classes().astype(np.intp), classes)
        names.append(image.name)
        counts.append(count_pixels(found, truth, len(classes.labels)))
    shape = (-1, len(classes.labels), 3)
    return Pixels(names, np.array(counts, np.int64).reshape(shape)), notes


def _mapped(numbers: NDArray[np.intp], classes: Classes) -> NDArray[np.intp]:
    """Return the measured classes of classes of the model; -1: it is not measured."""
    known = (numbers >= 0) & (numbers < len(classes.of_model))
    mapped = np.full(numbers.shape, -1, np.intp)
    mapped[known] = classes.of_model[numbers[known]]
    return mapped
