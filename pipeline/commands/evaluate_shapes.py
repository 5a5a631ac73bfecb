"""Masks, keypoints and rotated boxes of a run beside those of a data set, for the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, counts_of, rle_area
from models.boxes.rotated import from_upright
from models.datasets.shapes import rle_of_object
from models.errors import DataError, EvaluationError
from models.evaluation.arrays import areas_of
from models.evaluation.detection import ImageBoxes
from models.evaluation.shapes import (
    AREA_OF_BOX,
    COCO_SIGMAS,
    sigmas_of,
    with_keypoints,
    with_masks,
    with_rotated,
)
from pipeline.commands.evaluate_boxes import ImagePair

Kind = Literal["masks", "keypoints", "rotated"]
Floats = NDArray[np.float64]


class Shapes(NamedTuple):
    """Images the masks, keypoints or rotated boxes of which are measured."""

    kind: Kind
    images: list[ImageBoxes]
    sigmas: tuple[float, ...] = ()
    """Of each keypoint."""


def shapes_of(pairs: Sequence[ImagePair]) -> tuple[list[Shapes], list[str]]:
    """Return what both the model and the data set have besides boxes, and notes about it.

    Raises:
        EvaluationError: shapes do not fit their image.
    """
    found: list[Shapes] = []
    notes: list[str] = []
    for shape in _SHAPES:
        if not any(_given(getattr(pair.frame, shape.kind)) for pair in pairs):
            continue
        objects = [item for pair in pairs for item in pair.objects]
        without = sum(getattr(item, shape.field) is None for item in objects)
        if without == len(objects):
            notes.append(f"the {shape.many} are not measured: the data set has none")
            continue
        made = shape.make(pairs, notes)
        if made is not None:
            found.append(made)
            if without:
                share = f"{without} of {len(objects)} objects have no {shape.one}"
                notes.append(f"{share}: {shape.without}")
    return found, notes


def _masks(pairs: Sequence[ImagePair], notes: list[str]) -> Shapes:
    images = []
    for pair in pairs:
        boxes, given = pair.boxes, pair.frame.masks
        size = (boxes.width, boxes.height)
        own: list[Rle] = []
        if not isinstance(given, msgspec.UnsetType):
            own = [Rle(*given.size, counts_of(given.counts[row])) for row in pair.rows.tolist()]
        try:
            truth = [rle_of_object(item, size) for item in pair.objects]
        except DataError as error:
            raise EvaluationError(f"{boxes.name}: {error}; correct the polygon") from None
        areas = [
            float(rle_area(rle)) if item.area_px is None else item.area_px
            for item, rle in zip(pair.objects, truth, strict=True)
        ]
        without = np.array([item.mask is None for item in pair.objects], np.bool_)
        ignored = boxes.ignored | without
        images.append(with_masks(boxes, own, truth, np.array(areas, np.float64), ignored))
    return Shapes("masks", images)


def _keypoints(pairs: Sequence[ImagePair], notes: list[str]) -> Shapes | None:
    given = [_array(pair.frame.keypoints, (0, 0, 3)) for pair in pairs]
    counts = {points.shape[1] for points in given if len(points)}
    true = {len(item.keypoints) for pair in pairs for item in pair.objects if item.keypoints}
    if not counts:
        counts = true
    if len(counts | true) > 1:
        notes.append(
            f"keypoints are not measured: the model gives {_numbers(counts)} for an object, and "
            f"the data set has {_numbers(true)}"
        )
        return None
    [count] = counts
    sigmas = sigmas_of(count)
    published = "those of COCO" if count == len(COCO_SIGMAS) else f"1/{count} each"
    notes.append(f"keypoints: the sigmas are {published}")
    if any(item.area_px is None for pair in pairs for item in pair.objects):
        notes.append(
            f"keypoints: the area of an object is {AREA_OF_BOX:g} of that of its box where the "
            "data set states none"
        )
    images = []
    for pair, points in zip(pairs, given, strict=True):
        truth = np.zeros((len(pair.objects), count, 3))
        areas = areas_of(pair.boxes.truth_boxes) * AREA_OF_BOX
        for row, item in enumerate(pair.objects):
            if item.keypoints:
                truth[row] = item.keypoints
            if item.area_px is not None:
                areas[row] = item.area_px
        own = points[pair.rows] if len(points) else np.zeros((0, count, 3))
        images.append(with_keypoints(pair.boxes, own, truth, areas, sigmas))
    return Shapes("keypoints", images, tuple(sigmas.tolist()))


def _rotated(pairs: Sequence[ImagePair], notes: list[str]) -> Shapes:
    images = []
    for pair in pairs:
        truth = from_upright(pair.boxes.truth_boxes).astype(np.float64)
        for row, item in enumerate(pair.objects):
            if item.rotated is not None:
                truth[row] = item.rotated
        own = _array(pair.frame.rotated, (0, 5))[pair.rows]
        images.append(with_rotated(pair.boxes, own, truth))
    return Shapes("rotated", images)


class _Shape(NamedTuple):
    kind: Kind
    """Field of `Scored`."""
    field: str
    """Field of `TrueObject`."""
    one: str
    many: str
    without: str
    """What an object without it means."""
    make: Callable[[Sequence[ImagePair], list[str]], Shapes | None]


_SHAPES = (
    _Shape("masks", "mask", "mask", "masks", "what is found in their box does not count", _masks),
    _Shape(
        "keypoints",
        "keypoints",
        "keypoints",
        "keypoints",
        "what is found there does not count",
        _keypoints,
    ),
    _Shape(
        "rotated", "rotated", "rotated box", "rotated boxes", "their upright box counts", _rotated
    ),
)


def _given(value: Any) -> bool:
    return not isinstance(value, msgspec.UnsetType)


def _array(value: Any, shape: tuple[int, ...]) -> Floats:
    """Return lists of numbers as an array; of the shape, which is empty, where there are none."""
    return np.array(value, np.float64) if _given(value) and value else np.zeros(shape)


def _numbers(counts: set[int]) -> str:
    return " or ".join(map(str, sorted(counts)))
