"""Masks, keypoints and rotated boxes of true objects, as files of annotations hold them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from models.boxes.masks import Rle, counts_of, read_rle, text_of
from models.boxes.polygons import MAX_COORDINATE_PX, rle_of_polygons
from models.boxes.rotated import from_corners
from models.datasets.base import KeyPoint, Polygons, Rotated, TrueObject
from models.datasets.collect import Finding
from models.datasets.image_size import Size
from models.errors import DataError

BAD_MASK = Finding(
    "mask is wrong, and is left out",
    "masks are wrong, and are left out",
    "a mask is wrong",
    "draw it again, or remove it",
)
BAD_KEYPOINTS = Finding(
    "list of keypoints is wrong, and is left out",
    "lists of keypoints are wrong, and are left out",
    "a list of keypoints is wrong",
    "correct or remove it",
)
_masks = msgspec.json.Decoder(list[list[float]] | dict[str, Any] | None)
_keypoints = msgspec.json.Decoder(list[float] | None)


def read_coco_mask(text: bytes, size: tuple[int | None, int | None]) -> Polygons | str | None:
    """Read the `segmentation` of a file of COCO: polygons, or runs as numbers or text.

    Args:
        text: JSON; empty: there is none. Polygons with fewer than 3 corners are left out.
        size: width and height of the image in px; None: not stated.

    Raises:
        DataError: it is no mask, has no polygon, or is of an image of another size.
    """
    try:
        found = _masks.decode(text) if text else None
    except msgspec.DecodeError as error:
        raise DataError(f"segmentation: not a mask: {error}") from None
    if not found:
        return None
    if isinstance(found, dict):
        rle = read_rle(found, "segmentation")
        if None not in size and size != (rle.width, rle.height):
            raise DataError(
                f"segmentation: the mask is of another size (found {rle.width}x{rle.height})"
            )
        return text_of(rle.counts)
    polygons = tuple(tuple(polygon) for polygon in found if is_polygon(polygon))
    if not polygons:
        raise DataError("segmentation: no polygon has 3 corners")
    return polygons


def is_polygon(values: list[float] | tuple[float, ...]) -> bool:
    """Return whether numbers are the corners x1, y1, x2, y2, x3, y3, ... of a polygon."""
    inside = all(-MAX_COORDINATE_PX <= value <= MAX_COORDINATE_PX for value in values)
    return inside and len(values) >= 6 and len(values) % 2 == 0


def read_keypoints(text: bytes) -> tuple[KeyPoint, ...] | None:
    """Read the `keypoints` of a file of COCO: x, y and whether it is labelled, of each.

    Raises:
        DataError: they are not three finite numbers a point.
    """
    try:
        found = _keypoints.decode(text) if text else None
    except msgspec.DecodeError as error:
        raise DataError(f"keypoints: not a list of numbers: {error}") from None
    return points_of(found, 3) if found else None


def points_of(values: list[float], columns: int) -> tuple[KeyPoint, ...]:
    """Return keypoints of a list of numbers.

    Args:
        values: x, y and, for 3 columns, whether the point is labelled; of 2 columns, a point with a
            negative number is not.
        columns: numbers of a point, 2 or 3.

    Raises:
        DataError: they are not so many finite numbers a point.
    """
    if len(values) % columns or not all(map(math.isfinite, values)):
        raise DataError(
            f"keypoints: not {columns} finite numbers a point (found {len(values)} numbers)"
        )
    rows = (values[at : at + columns] for at in range(0, len(values), columns))
    if columns == 3:
        return tuple((row[0], row[1], row[2]) for row in rows)
    return tuple((x, y, 2.0 if x >= 0 and y >= 0 else 0.0) for x, y in rows)


def rotated_of(polygon: tuple[float, ...]) -> Rotated:
    """Return the rotated box of four corners, in order around it."""
    corners = np.array(polygon, np.float64).reshape(1, 4, 2)
    cx, cy, width, height, angle = from_corners(corners)[0].tolist()
    return cx, cy, width, height, angle


def rle_of_object(item: TrueObject, size: Size) -> Rle:
    """Return the mask of an object; that of its box where it has none.

    Args:
        item: the object.
        size: width and height of the image in px.

    Raises:
        DataError: the outline of a polygon is too long.
    """
    width, height = size
    if isinstance(item.mask, str):
        return Rle(height, width, counts_of(item.mask))
    x1, y1, x2, y2 = item.box
    return rle_of_polygons(item.mask or ((x1, y1, x2, y1, x2, y2, x1, y2),), height, width)
