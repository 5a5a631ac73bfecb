"""Detections of a run beside the true objects of a data set, as arrays for `models/evaluation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import Clip, DataSet, LabelledImage, TrueObject
from models.evaluation.arrays import areas_of
from models.evaluation.detection import ImageBoxes
from models.evaluation.tracks import ClipBoxes, FrameBoxes, without_ignored
from pipeline.config import did_you_mean
from pipeline.errors import ConfigError
from pipeline.messages import display_value
from stages.sinks.score import Scored

MAX_NAMED = 6
"""Labels that a note names one by one."""


class Classes(NamedTuple):
    """The classes that are measured: those of the data set that the model has."""

    labels: tuple[str, ...]
    of_model: NDArray[np.int64]
    """(C,) class of the model -> index into `labels`; -1: the data set has no such class."""
    of_data: NDArray[np.int64]
    """(L,) class of the data set -> index into `labels`; -1: the model has no such class."""
    notes: tuple[str, ...]


def match_classes(model: Sequence[str], data: Sequence[str], renames: Mapping[str, str]) -> Classes:
    """Find the classes of a model in the labels of a data set.

    Args:
        model: labels of the model; empty: it has none, and its numbers are those of the data set.
        data: labels of the data set.
        renames: label of the model -> that of the data set.

    Raises:
        ConfigError: they share no label, or a rename names an unknown one.
    """
    for own, other in renames.items():
        for name, known, whose in ((own, model, "model"), (other, data, "data set")):
            if name not in known:
                raise ConfigError(
                    f"--rename {own}={other}: the {whose} has no label {display_value(name)}"
                    f"{did_you_mean(name, list(known))}"
                )
    if not model:
        everything = np.arange(len(data))
        note = "the model has no labels; its class numbers are taken as those of the data set"
        return Classes(tuple(data), everything, everything, (note,))
    names = [renames.get(label, label) for label in model]
    shared = [label for label in data if label in names]
    if not shared:
        raise ConfigError(
            f"evaluate: the model and the data set share no label (model: {few(model)}; data set: "
            f"{few(data)}); use --rename MODEL_LABEL=DATA_LABEL"
        )
    missing = [label for label in data if label not in names]
    notes: tuple[str, ...] = ()
    if missing:
        notes = (
            f"{len(missing)} of {len(data)} classes of the data set are left out, because the "
            f"model has no such label: {few(missing)}; --rename MODEL=DATA joins two names",
        )
    place = {label: i for i, label in enumerate(shared)}
    return Classes(
        tuple(shared),
        np.array([place.get(name, -1) for name in names]),
        np.array([place.get(label, -1) for label in data]),
        notes,
    )


class ImagePair(NamedTuple):
    """An image of the data set, and what was found there, of the measured classes."""

    boxes: ImageBoxes
    objects: tuple[TrueObject, ...]
    """Of each true box, in their order."""
    frame: Scored
    rows: NDArray[np.intp]
    """Of each found box, its row in the frame."""


def image_pairs(
    data: DataSet, frames: Sequence[Scored], classes: Classes
) -> tuple[list[ImagePair], list[str]]:
    """Return the boxes of each image that was processed, and notes about the others."""
    found = []
    processed, notes = processed_images(data, frames)
    for image, frame in processed:
        objects = tuple(item for item in image.objects if classes.of_data[item.number] >= 0)
        boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
        areas = [item.area_px for item in objects]
        given = np.array([np.nan if area is None else area for area in areas], np.float64)
        rows, numbers = _of_classes(frame, classes)
        own = ImageBoxes(
            image.name,
            *image.size,
            boxes,
            np.array([classes.of_data[item.number] for item in objects], np.intp),
            np.array([item.ignored for item in objects], np.bool_),
            np.where(np.isnan(given), areas_of(boxes), given),
            np.array(frame.boxes, np.float64).reshape(-1, 4)[rows],
            np.array(frame.scores, np.float64)[rows],
            numbers,
        )
        found.append(ImagePair(own, objects, frame, rows))
    return found, notes


def processed_images(
    data: DataSet, frames: Sequence[Scored]
) -> tuple[list[tuple[LabelledImage, Scored]], list[str]]:
    """Return each image that was processed with its frame, and a note about the others."""
    by_name = {frame.file: frame for frame in frames}
    found = [(image, by_name[image.name]) for image in data.images if image.name in by_name]
    missing = [image.name for image in data.images if image.name not in by_name]
    notes = []
    if missing:
        notes.append(
            f"{len(missing)} of {len(data.images)} images were not processed and do not count: "
            f"{few(missing)}"
        )
    return found, notes


def clip_boxes(
    clips: Mapping[str, Clip], detections: Mapping[str, Sequence[Scored]], classes: Classes
) -> tuple[list[ClipBoxes], list[str]]:
    """Return the tracks of each clip and class, and notes about frames without a counterpart.

    Args:
        clips: name of the stream -> its clip.
        detections: name of the stream -> its frames.
        classes: classes that are measured.
    """
    found, notes = [], []
    for stream, clip in clips.items():
        frames = detections[stream]
        length = len(frames)
        beyond = sum(len(objects) for number, objects in clip.objects.items() if number >= length)
        if beyond:
            notes.append(
                f"clip {clip.name}: {beyond} true boxes do not count, because they are in frames "
                f"that were not processed (found {length} frames)"
            )
        for number, label in enumerate(classes.labels):
            of_class = [_frame_boxes(clip, frame, classes, number) for frame in frames]
            if any(len(frame.truth_ids) for frame in of_class):
                name = clip.name if len(classes.labels) == 1 else f"{clip.name} {label}"
                found.append(ClipBoxes(name, of_class))
    return found, notes


def _frame_boxes(clip: Clip, frame: Scored, classes: Classes, number: int) -> FrameBoxes:
    """Return the tracks of a class in a frame, without ignored objects and their matches."""
    objects: list[TrueObject] = [
        item
        for item in clip.objects.get(frame.frame, ())
        if item.id is not None and classes.of_data[item.number] == number
    ]
    rows, numbers = _of_classes(frame, classes)
    ids = np.full(len(frame.boxes), -1) if frame.ids is None else np.array(frame.ids, np.int64)
    rows = rows[(numbers == number) & (ids[rows] >= 0)]
    boxes = FrameBoxes(
        np.array([item.id for item in objects], np.int64),
        np.array([item.box for item in objects], np.float64).reshape(-1, 4),
        ids[rows],
        np.array(frame.boxes, np.float64).reshape(-1, 4)[rows],
    )
    return without_ignored(boxes, np.array([item.ignored for item in objects], np.bool_))


def _of_classes(frame: Scored, classes: Classes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the measured classes, and their numbers among these."""
    numbers = np.array(frame.classes, np.intp)
    known = (numbers >= 0) & (numbers < len(classes.of_model))
    mapped = np.full(len(numbers), -1, np.intp)
    mapped[known] = classes.of_model[numbers[known]]
    rows = np.flatnonzero(mapped >= 0)
    return rows, mapped[rows]


def few(names: Sequence[str]) -> str:
    """Return the first names of a list, for a note."""
    more = len(names) - MAX_NAMED
    shown = ", ".join(display_value(name) for name in names[:MAX_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown
