"""The detections of a frame: the arrays, as stages exchange them and as sinks read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.config import did_you_mean, is_number
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.messages import display_value
from pipeline.stage import Array, ArrayOffer, Context
from stages.details import (
    ATTRIBUTES,
    DETAILS,
    FRAME_LABELS,
    SEMANTIC,
    Attribute,
    Mask,
    ObjectDetails,
    attributes_of,
)

NO_TRACK_ID = -1
"""Value in `ids` of a detection that belongs to no track."""

CANDIDATES = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
)
"""Boxes xyxy in pixels of the captured frame, scores from 0 to 1, indices into the model's labels;
one row per box."""

DETECTIONS = (
    *CANDIDATES,
    Array("ids", "int64", (None,), optional=True),
    *DETAILS,
    ATTRIBUTES,
    FRAME_LABELS,
    *SEMANTIC,
)
"""The arrays that a stage takes which works with objects: those of `CANDIDATES`, track ids where a
tracker ran, and all that models give besides."""

RESULTS = (
    *(
        msgspec.structs.replace(array, unless=(FRAME_LABELS.name, "semantic"))
        for array in CANDIDATES
    ),
    *DETECTIONS[len(CANDIDATES) :],
)
"""The same for a sink that shows or sends whatever there is: a graph whose models answer about the
whole frame alone has no boxes."""

WEAK_DETECTIONS = (
    Array("weak_boxes", "float32", (None, 4), optional=True),
    Array("weak_scores", "float32", (None,), optional=True),
    Array("weak_classes", "int32", (None,), optional=True),
)
"""Boxes below the confidence, separate from the others because only a tracker uses them: to
continue tracks."""

UNFILTERED = (
    Array("unfiltered_boxes", "float32", (None, 4), optional=True),
    Array("unfiltered_scores", "float32", (None,), optional=True),
    Array("unfiltered_classes", "int32", (None,), optional=True),
)
"""All boxes that are left after suppression: weak ones too, those of classes and places that are
not wanted, and those that a tracker then drops. Given where a stage behind offers `WantsAllBoxes`.
"""


class WantsAllBoxes(msgspec.Struct, frozen=True):
    """Offer of a stage that must also know the objects that others drop, because it hides them."""


class Labels(ArrayOffer, frozen=True):
    """Offer of a stage that gives `classes`: the name of each class."""

    array = "classes"

    names: tuple[str, ...]


class Detections(NamedTuple):
    """Parallel arrays, one row per detection."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the captured frame."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.int32]
    """(N,) indices into the model's labels."""
    ids: NDArray[np.int64]
    """(N,) track ids, unique within a stream; `NO_TRACK_ID` for a detection without a track."""

    @classmethod
    def of(cls, frame: Frame) -> Detections:
        """Read the detections of a frame; the arrays are views, valid as long as the frame is.

        There are none where no stage gives boxes.
        """
        if "boxes" not in frame:
            return NO_DETECTIONS
        boxes = frame["boxes"]
        ids = frame["ids"] if "ids" in frame else np.full(len(boxes), NO_TRACK_ID, np.int64)
        return cls(boxes, frame["scores"], frame["classes"], ids)


NO_DETECTIONS = Detections(
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
)


class Object(msgspec.Struct, rename={"number": "class"}):
    """One detection, as JSON. Keys without a value are left out."""

    id: int | None
    """Track id within the stream; null without a track."""
    label: str
    number: int
    score: float
    box: tuple[float, ...]
    """x1, y1, x2, y2 in pixels of the captured frame."""
    attributes: dict[str, Attribute] | msgspec.UnsetType = msgspec.UNSET
    """Name of a stage -> the class that its model gives the object."""
    mask: Mask | msgspec.UnsetType = msgspec.UNSET
    keypoints: list[tuple[float, float, float]] | msgspec.UnsetType = msgspec.UNSET
    """x, y in pixels and score of each point."""
    rotated: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    """cx, cy, w, h in pixels, angle in radians; `box` is the upright box around it."""


def put_detections(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    min_score: float | None,
    with_rows: bool = False,
) -> None:
    """Add detections to a frame, those below the confidence as `WEAK_DETECTIONS`.

    Args:
        frame: gets the arrays.
        boxes: (N, 4) xyxy in pixels of the captured frame.
        scores: (N,) from 0 to 1.
        classes: (N,) indices into the model's labels.
        min_score: lowest score of an object, the confidence; None: no detection is weak.
        with_rows: whether to add `rows` and `weak_rows`: row n of `DETAILS` is that of detection n.
    """
    good = np.full(len(scores), True) if min_score is None else scores >= np.float32(min_score)
    for prefix, rows in (("", good), ("weak_", ~good)):
        frame.put(f"{prefix}boxes", boxes[rows])
        frame.put(f"{prefix}scores", scores[rows])
        frame.put(f"{prefix}classes", classes[rows])
        if with_rows:
            frame.put(f"{prefix}rows", np.flatnonzero(rows).astype(np.int32))


def keep_rows(frame: Frame, rows: NDArray[np.bool_] | NDArray[np.integer]) -> None:
    """Keep some of the detections of a frame, with their ids, details and attributes.

    Args:
        frame: with the arrays of `DETECTIONS`.
        rows: (K,) rows to keep, or (N,) whether to keep each.
    """
    for name in ("boxes", "scores", "classes", "ids", "rows"):
        if name in frame:
            frame.put(name, frame[name][rows])
    if ATTRIBUTES.name in frame:
        own = attributes_of(frame)
        kept = np.arange(len(own))[rows].tolist()
        data = msgspec.json.encode([own[row] for row in kept])
        frame.put(ATTRIBUTES.name, np.frombuffer(data, np.uint8))


def put_unfiltered(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
) -> None:
    """Add the arrays of `UNFILTERED` to a frame.

    Args:
        frame: gets the arrays.
        boxes: (N, 4) xyxy in pixels of the captured frame.
        scores: (N,) from 0 to 1.
        classes: (N,) indices into the model's labels.
    """
    frame.put("unfiltered_boxes", boxes)
    frame.put("unfiltered_scores", scores.astype(np.float32, copy=False))
    frame.put("unfiltered_classes", classes.astype(np.int32, copy=False))


def labels_of(context: Context) -> tuple[str, ...]:
    """Return the names of the classes of the boxes that arrive; empty where they are unknown."""
    labels = context.get(Labels)
    return () if labels is None else labels.names


def class_numbers(names: Sequence[str], labels: Sequence[str], key: str) -> NDArray[np.int32]:
    """Return the classes that have one of the names; several may share a label.

    Args:
        names: labels; class numbers as text where the model has no labels.
        labels: labels of the model, by class; empty where it has none.
        key: setting that holds the names, for messages.

    Raises:
        SetupError: the model has no such label; the message names a similar one.
    """
    numbers: list[int] = []
    for name in names:
        if labels:
            found = [number for number, label in enumerate(labels) if label == name]
            if not found:
                raise SetupError(
                    f"{key}: the model has no label {display_value(name)}"
                    f"{did_you_mean(name, tuple(labels))}"
                )
            numbers += found
        elif is_number(name):
            numbers.append(int(name))
        else:
            raise SetupError(
                f"{key}: the model has no labels (found {display_value(name)}); "
                "use class numbers instead"
            )
    return np.array(numbers, np.int32)


def check_streams(names: Iterable[str], context: Context) -> None:
    """Check the names of streams in the setting `streams` of a stage.

    For `Stage.effective`, which is called before the run only: a stream that a reload adds is not
    in the context of a worker.

    Raises:
        SetupError: there is no stream of a name.
    """
    for name in names:
        if name not in context.streams:
            raise SetupError(
                f"streams: no stream is named {display_value(name)}"
                f"{did_you_mean(name, context.streams)}"
            )


def check_labels(wanted: Sequence[str], labels: Sequence[str]) -> None:
    """Check that the model has the labels of the setting `labels`; see `class_numbers`.

    Raises:
        SetupError: it has not.
    """
    class_numbers(wanted, labels, "labels")


def label(labels: Sequence[str], number: int) -> str:
    """Return the name of a class; its number as text where it has no name."""
    return labels[number] if 0 <= number < len(labels) else str(number)


def objects_of(frame: Frame, labels: Sequence[str], with_masks: bool = True) -> list[Object]:
    """Return the detections of a frame one by one, with all that models give about them.

    Args:
        frame: with the arrays of `DETECTIONS`.
        labels: names of the classes.
        with_masks: False leaves out the masks, which are most of the text.
    """
    if "boxes" not in frame:
        return []
    objects = to_objects(Detections.of(frame), labels)
    keypoints, rotated, masks, attributes = ObjectDetails.of(frame)
    for row, found in enumerate(objects):
        if attributes is not None and attributes[row]:
            found.attributes = attributes[row]
        if masks is not None and with_masks:
            found.mask = Mask((frame.height, frame.width), masks[row].decode("ascii"))
        if keypoints is not None:
            found.keypoints = [
                (round(x, 2), round(y, 2), round(score, 4))
                for x, y, score in keypoints[row].tolist()
            ]
        if rotated is not None:
            *box, angle = rotated[row].tolist()
            found.rotated = (*(round(side, 2) for side in box), round(angle, 5))
    return objects


def add_attributes(objects: Sequence[Object], frame: Frame) -> None:
    """Add the classes that other models give the objects of a frame.

    Args:
        objects: one per box of the frame.
        frame: with or without the array `attributes`.
    """
    if ATTRIBUTES.name in frame:
        for found, attributes in zip(objects, attributes_of(frame), strict=True):
            if attributes:
                found.attributes = attributes


def to_objects(detections: Detections, labels: Sequence[str]) -> list[Object]:
    """Return the detections one by one, with scores and boxes rounded as in events.

    Args:
        detections: detections of a frame.
        labels: names of the classes.
    """
    return [
        Object(
            None if id == NO_TRACK_ID else id,
            label(labels, number),
            number,
            round(score, 4),
            tuple(round(side, 2) for side in box),
        )
        for box, score, number, id in zip(
            detections.boxes.tolist(),
            detections.scores.tolist(),
            detections.classes.tolist(),
            detections.ids.tolist(),
            strict=True,
        )
    ]
