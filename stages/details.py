"""Answers of models besides boxes: masks, keypoints, rotated boxes, classes of objects and frames.

The arrays, as stages exchange them, and the JSON that sinks make of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from pipeline.stage import Array, ArrayOffer, StageOffer

DETAILS = (
    Array("rows", "int32", (None,), optional=True),
    Array("weak_rows", "int32", (None,), optional=True),
    Array("keypoints", "float32", (None, None, 3), optional=True),
    Array("rotated", "float32", (None, 5), optional=True),
    Array("masks", "uint8", (None,), optional=True),
    Array("mask_offsets", "int64", (None,), optional=True),
)
"""Answers of a model about its boxes besides. `rows` (N,) is the row of each box in the others, and
`weak_rows` that of each weak box, so a stage that drops boxes drops rows of these two alone:
`keypoints` (M, K, 3) x and y in pixels of the captured frame and a score; `rotated` (M, 5) cx, cy,
w, h in pixels and the angle in radians, clockwise; `masks`, one after the other, each COCO's text
of the runs in the whole frame, where mask m is the part from `mask_offsets[m]` to
`mask_offsets[m + 1]`. Read them with `ObjectDetails.of`."""

ATTRIBUTES = Array("attributes", "uint8", (None,), optional=True)
"""JSON list with one table per box: name of a stage -> `Attribute`; see `put_attributes`."""

FRAME_LABELS = Array("frame_labels", "uint8", (None,), optional=True)
"""JSON list of `FrameLabel`, best first: the classes of the whole frame."""

SEMANTIC = (
    Array("semantic_map", "uint8", (None, None), optional=True),
    Array("semantic", "uint8", (None,), optional=True),
)
"""Class of each cell of a grid over the whole frame, and JSON of `SemanticCounts`."""


class FrameLabels(ArrayOffer, frozen=True):
    """Offer of a stage that gives `frame_labels`: the name of each class."""

    array = "frame_labels"

    names: tuple[str, ...]


class AttributeLabels(StageOffer, frozen=True, kw_only=True):
    """Offer of a stage that gives `attributes`: the name of each class. It is not `Labels`, which
    name the classes of the boxes."""

    names: tuple[str, ...]


class SemanticLabels(ArrayOffer, frozen=True):
    """Offer of a stage that gives `semantic_map`: the name of each class."""

    array = "semantic_map"

    names: tuple[str, ...]


class Skeleton(ArrayOffer, frozen=True):
    """Offer of a stage that gives `keypoints`: names, and the lines between them."""

    array = "keypoints"

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    """Pairs of points by number."""


class Attribute(msgspec.Struct, rename={"number": "class"}, frozen=True):
    """The class that a second model gives an object."""

    label: str
    number: int
    score: float
    """Mean of the votes for the class, from 0 to 1."""
    votes: int
    """Votes for the class."""


class FrameLabel(msgspec.Struct, rename={"number": "class"}, frozen=True):
    """A class of the whole frame."""

    label: str
    number: int
    score: float


class Mask(msgspec.Struct, frozen=True):
    """A mask as COCO writes it."""

    size: tuple[int, int]
    """Height and width of the frame in pixels."""
    counts: str
    """Runs of the whole frame, compressed."""


class SemanticCounts(msgspec.Struct, frozen=True):
    """The pixels of each class in a frame."""

    size: tuple[int, int]
    """Height and width of the frame in pixels."""
    counts: dict[str, int]
    """Label -> pixels of the captured frame; no label without any."""


class ObjectDetails(NamedTuple):
    """Answers about the detections of a frame besides boxes; None: no model gives them."""

    keypoints: NDArray[np.float32] | None = None
    """(N, K, 3) see `DETAILS`."""
    rotated: NDArray[np.float32] | None = None
    """(N, 5)"""
    masks: list[bytes] | None = None
    """N texts of runs."""
    attributes: list[dict[str, Attribute]] | None = None
    """N tables: name of a stage -> class."""

    @classmethod
    def of(cls, frame: Frame) -> ObjectDetails:
        """Read the details of the detections of a frame.

        Raises:
            ValueError: they are not as many as the boxes: a stage has dropped boxes alone.
        """
        if "boxes" not in frame:
            return cls()
        count = len(frame["boxes"])
        keypoints = rotated = masks = attributes = None
        if "rows" in frame:
            rows = frame["rows"]
            _check_count("rows", len(rows), count)
            if "keypoints" in frame:
                keypoints = frame["keypoints"][rows]
            if "rotated" in frame:
                rotated = frame["rotated"][rows]
            if "masks" in frame:
                every = masks_in(frame["masks"], frame["mask_offsets"])
                masks = [every[row] for row in rows.tolist()]
        if ATTRIBUTES.name in frame:
            attributes = attributes_of(frame)
            _check_count(ATTRIBUTES.name, len(attributes), count)
        return cls(keypoints, rotated, masks, attributes)


def attributes_of(frame: Frame) -> list[dict[str, Attribute]]:
    """Return the array `attributes` of a frame: one table per box."""
    return _attributes.decode(frame[ATTRIBUTES.name].tobytes())


_attributes = msgspec.json.Decoder(list[dict[str, Attribute]])


def _check_count(name: str, found: int, boxes: int) -> None:
    if found != boxes:
        raise ValueError(
            f"array {name!r}: expected {boxes} rows, one per box (found {found}); drop boxes with "
            "keep_rows of stages/detections.py"
        )


def put_masks(
    frame: Frame, texts: Sequence[bytes], name: str = "masks", offsets: str = "mask_offsets"
) -> None:
    """Add the masks of all rows of `DETAILS` to a frame.

    Args:
        frame: gets two arrays.
        texts: COCO's text of the runs of each, in the whole frame.
        name: name of the array of the texts.
        offsets: name of the array of their places.
    """
    frame.put(name, np.frombuffer(b"".join(texts), np.uint8))
    frame.put(offsets, np.cumsum([0, *map(len, texts)], dtype=np.int64))


def masks_in(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[bytes]:
    """Return the texts of masks; the inverse of `put_masks`."""
    places = offsets.tolist()
    return [data[a:b].tobytes() for a, b in itertools.pairwise(places)]


def put_attributes(frame: Frame, stage: str, attributes: Sequence[Attribute | None]) -> None:
    """Add the classes that a stage gives the objects, beside those of other stages.

    Args:
        frame: with the arrays of `DETECTIONS`.
        stage: name of the stage.
        attributes: of each box; None: not known.
    """
    given = ObjectDetails.of(frame).attributes or [{} for _ in attributes]
    joined = [
        own if new is None else own | {stage: new}
        for own, new in zip(given, attributes, strict=True)
    ]
    frame.put(ATTRIBUTES.name, np.frombuffer(msgspec.json.encode(joined), np.uint8))


def put_frame_labels(frame: Frame, labels: Sequence[FrameLabel]) -> None:
    """Add the classes of the whole frame, best first."""
    frame.put(FRAME_LABELS.name, np.frombuffer(msgspec.json.encode(labels), np.uint8))


def frame_labels_of(frame: Frame) -> list[FrameLabel]:
    """Return the classes of the whole frame, best first; empty where no stage gives any."""
    if FRAME_LABELS.name not in frame:
        return []
    return msgspec.json.decode(frame[FRAME_LABELS.name].tobytes(), type=list[FrameLabel])


def semantic_of(frame: Frame) -> SemanticCounts | None:
    """Return the pixels of each class of the frame; None where no stage counts them."""
    if "semantic" not in frame:
        return None
    return msgspec.json.decode(frame["semantic"].tobytes(), type=SemanticCounts)
