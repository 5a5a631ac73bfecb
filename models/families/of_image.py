"""The part of a model's outputs that belongs to one image of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.output_layout import BOXES, WIDE

Columns = Sequence[tuple[str, ...]]
COUNT = ("count",)
MASKS = ("masks",)
SIDES = frozenset().union(*BOXES)
"""Columns of boxes."""


def outputs_of_image(
    outputs: Sequence[NDArray[Any]], columns: Columns, index: int, images: int
) -> list[NDArray[Any]]:
    """Return the part of each output that belongs to one image of a batch.

    Most outputs have an axis of images. Others have the rows of all images, with a column `image`,
    or one image after the other with their `count`; a model of one image may have neither.

    Args:
        outputs: raw outputs of a run.
        columns: columns of each.
        index: number of the image in the batch.
        images: images in the batch.
    """
    batched = images > 1 and any(o.ndim >= 3 and len(o) == images for o in outputs)
    has_axis = [
        _has_axis(output, names, images, batched)
        for output, names in zip(outputs, columns, strict=True)
    ]
    if MASKS in columns:
        # A mask has two axes more than a row, whose output shows whether there is one of images.
        place = columns.index(MASKS)
        has_axis[place] = any(
            axis for axis, names in zip(has_axis, columns, strict=True) if set(names) & SIDES
        )
    ids = _image_numbers(outputs, columns, images)
    chosen = (
        _rows_by_count(outputs, columns, has_axis, index, images)
        if ids is None
        else _rows_of_image(ids, index, images)
    )
    found = []
    for output, names, axis in zip(outputs, columns, has_axis, strict=True):
        if names == COUNT:
            found.append(_own_count(output, index, images))
            continue
        if "image" in names and ids is not None:
            output, axis = output.reshape(-1 if len(names) == 1 else output.shape[-2:]), False
        if axis:
            output = output[index if len(output) == images else 0]
        elif chosen is not None and output.ndim and len(output) == len(chosen):
            output = output[chosen]
        found.append(output)
    return found


def number_of_rows(count: NDArray[Any]) -> int:
    """Return a count as a whole number from 0; 0 for what is not a number."""
    value = float(count.reshape(-1)[0]) if count.size else 0.0
    if value == math.inf:
        return 1 << 62
    return max(0, round(value)) if math.isfinite(value) else 0


def _own_count(output: NDArray[Any], index: int, images: int) -> NDArray[Any]:
    flat = output.reshape(-1)
    at = index if output.size == images else 0
    return flat[at : at + 1]


def _has_axis(output: NDArray[Any], names: tuple[str, ...], images: int, batched: bool) -> bool:
    is_single = len(names) == 1 and names[0] not in WIDE
    if names == ("prototypes",):
        return output.ndim == 4
    if names == ("keypoints",):
        return output.ndim >= 2 and len(output) in (1, images)
    if batched and names == ("scores",) and len(output) == images:
        is_single = True  # (images, N): of one class, beside boxes (images, N, 4)
    return output.ndim >= (2 if is_single else 3) and len(output) in (1, images)


def _image_numbers(
    outputs: Sequence[NDArray[Any]], columns: Columns, images: int
) -> NDArray[np.float64] | None:
    """Return the number of the image of each row; None: the axis of images shows it."""
    for output, names in zip(outputs, columns, strict=True):
        if "image" not in names:
            continue
        if names == ("image",):
            return output.reshape(-1).astype(np.float64)
        if output.ndim == 2 or math.prod(output.shape[:-2]) == 1:
            rows = output.reshape(output.shape[-2:])
            return rows[:, names.index("image")].astype(np.float64)
    return None


def _rows_of_image(ids: NDArray[np.float64], index: int, images: int) -> NDArray[np.bool_]:
    """Return which rows are those of an image; a negative number is the end of all rows."""
    with np.errstate(invalid="ignore"):
        own = ids > -0.5 if images == 1 else np.abs(ids - index) < 0.5
        ended: NDArray[np.bool_] = np.logical_or.accumulate(ids <= -0.5)
    return own & ~ended


def _rows_by_count(
    outputs: Sequence[NDArray[Any]],
    columns: Columns,
    has_axis: Sequence[bool],
    index: int,
    images: int,
) -> NDArray[np.bool_] | None:
    """Return which rows are those of an image, where each image has as many as its count."""
    counts = [output for output, names in zip(outputs, columns, strict=True) if names == COUNT]
    if images == 1 or not counts or counts[0].size != images:
        return None
    numbers = [number_of_rows(one) for one in counts[0].reshape(-1)]
    lengths = {
        len(output)
        for output, names, axis in zip(outputs, columns, has_axis, strict=True)
        if names != COUNT and not axis and output.ndim
    }
    if len(lengths) != 1:
        return None
    rows = np.arange(lengths.pop())
    start = sum(numbers[:index])
    return (rows >= start) & (rows < start + numbers[index])
