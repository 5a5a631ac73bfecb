"""The objects of a frame, as every sink reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.config import hint, is_number
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.messages import display_value
from pipeline.stage import Array, Context

NO_ID = -1
"""In `ids`: this object belongs to no track (yet)."""

OBJECTS = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
    Array("ids", "int64", (None,), optional=True),
)
"""What a sink takes."""

WEAK = (
    Array("weak_boxes", "float32", (None, 4), optional=True),
    Array("weak_scores", "float32", (None,), optional=True),
    Array("weak_classes", "int32", (None,), optional=True),
)
"""The boxes that do not reach the confidence: a tracker may continue a track with them, and no
other stage takes them for objects."""


class Labels(msgspec.Struct, frozen=True):
    """An offer of the stage that gives `classes`: the name of each class."""

    names: tuple[str, ...]


class Objects(NamedTuple):
    """Parallel arrays, one row per object."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the captured frame."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.int32]
    """(N,) indices into the model's labels."""
    ids: NDArray[np.int64]
    """(N,) track ids, unique within a stream; `NO_ID` for none."""

    @classmethod
    def of(cls, frame: Frame) -> Objects:
        """The objects of a frame: views, valid as long as the frame is."""
        boxes = frame["boxes"]
        ids = frame["ids"] if "ids" in frame else np.full(len(boxes), NO_ID, np.int64)
        return cls(boxes, frame["scores"], frame["classes"], ids)


def put_detections(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    least: float | None,
) -> None:
    """Add detections to a frame, the weak ones apart, so that no sink shows them.

    Args:
        frame: to add to.
        boxes: (N, 4) xyxy in px.
        scores: (N,) from 0 to 1.
        classes: (N,) indices into the model's labels.
        least: score from which on a box counts as an object; None: every box does.
    """
    good = np.full(len(scores), True) if least is None else scores >= np.float32(least)
    for prefix, rows in (("", good), ("weak_", ~good)):
        frame.put(f"{prefix}boxes", boxes[rows])
        frame.put(f"{prefix}scores", scores[rows])
        frame.put(f"{prefix}classes", classes[rows])


def labels_of(context: Context) -> tuple[str, ...]:
    """Return the names of the classes of the boxes that arrive; empty where they are unknown."""
    labels = context.get(Labels)
    return () if labels is None else labels.names


def check_labels(wanted: Sequence[str], labels: Sequence[str]) -> None:
    """See that the model can find what is wanted.

    Args:
        wanted: labels; numbers as text where the model has no labels.
        labels: of the model; empty where it has none.

    Raises:
        SetupError: it cannot.
    """
    for name in wanted:
        if labels and name not in labels:
            raise SetupError(
                f"labels: the model finds no {display_value(name)}{hint(name, tuple(labels))}"
            )
        if not labels and not is_number(name):
            raise SetupError(
                "labels: expected numbers, as the model tells no labels; found "
                f"{display_value(name)}"
            )


def label(labels: Sequence[str], number: int) -> str:
    """The name of a class; its number as text where it has no name."""
    return labels[number] if 0 <= number < len(labels) else str(number)
