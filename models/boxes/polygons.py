"""Polygons as masks, by the rule of COCO's mask API: equal to `pycocotools.mask.frPyObjects`.

A pixel is inside if its centre is, where corners, and the points of sides between them, are
rounded to fifths of a pixel. `cv2.fillPoly` also fills the pixels that a side touches: the area of
a round shape is then 27 % larger at a radius of 5 px, and 1 % at 100 px.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, merge_rles, rle_of_changes
from models.errors import DataError
from models.text import shown

FINE = 5
"""Parts of a pixel that coordinates are rounded to; its centre is the third of them."""
MAX_COORDINATE_PX = 1e6
MAX_POINTS = 2**22
"""Limit of the length of an outline, in parts of a pixel."""


def rle_of_polygons(polygons: object, height: int, width: int, where: str = "segmentation") -> Rle:
    """Compute the mask of an object that is given as polygons; it is their union.

    Args:
        polygons: list of lists x1, y1, x2, y2, ... in px, as parsed; untrusted.
        height: of the image in px.
        width: of the image in px.
        where: place of the polygons, for messages.

    Raises:
        DataError: they are not polygons of 3 corners or more, or too large.
    """
    if not isinstance(polygons, list | tuple) or not polygons:
        raise DataError(f"{where}: not a list of polygons (found {shown(polygons, 60)})")
    parts = [_rle(_corners(polygon, where), height, width, where) for polygon in polygons]
    return parts[0] if len(parts) == 1 else merge_rles(parts)


def _corners(polygon: object, where: str) -> NDArray[np.float64]:
    """Check a polygon of a file, and return its corners, (K, 2)."""
    if (
        not isinstance(polygon, Sequence)
        or len(polygon) < 6
        or len(polygon) % 2
        or any(isinstance(n, bool) or not isinstance(n, int | float) for n in polygon)
    ):
        raise DataError(
            f"{where}: not a polygon x1, y1, x2, y2, x3, y3, ... (found {shown(polygon, 60)})"
        )
    # Python's comparison: a number in a file may be too large for numpy.
    if not all(-MAX_COORDINATE_PX <= n <= MAX_COORDINATE_PX for n in polygon):
        raise DataError(f"{where}: a corner of the polygon is out of range")
    return np.array(polygon, np.float64).reshape(-1, 2)


def _rle(corners: NDArray[np.float64], height: int, width: int, where: str) -> Rle:
    """Compute the mask of one polygon."""
    start = np.trunc(FINE * corners + 0.5).astype(np.int64)
    if np.abs(np.roll(start, -1, axis=0) - start).max(axis=1).sum() > MAX_POINTS:
        raise DataError(f"{where}: the outline of the polygon is too long")
    x, y = _outline(start)
    # The outline crosses the middle of a column between two of its points.
    crossed = np.flatnonzero(x[1:] != x[:-1]) + 1
    left = np.where(x[crossed] < x[crossed - 1], x[crossed], x[crossed] - 1)
    upper = np.minimum(y[crossed], y[crossed - 1])
    centre = FINE // 2
    column = (left - centre) // FINE
    middle = ((left - centre) % FINE == 0) & (column >= 0) & (column < width)
    row = np.clip(-((centre - upper[middle]) // FINE), 0, height)  # rounded up
    # Each crossing changes outside to inside, or back, for the rest of the column; two at one
    # place cancel out.
    places, times = np.unique(column[middle] * height + row, return_counts=True)
    return rle_of_changes(height, width, places[times % 2 == 1])


def _outline(start: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return points all along a closed outline, at most 1 apart along x and y."""
    end = np.roll(start, -1, axis=0)
    steps = np.abs(end - start).max(axis=1)
    wide = np.abs(end - start)[:, 0] >= np.abs(end - start)[:, 1]
    side = np.arange(len(start)), np.where(wide, 0, 1)
    other = np.arange(len(start)), np.where(wide, 1, 0)
    # Points are computed from the lower end of the longer axis, whatever the direction.
    flip = start[side] > end[side]
    low = np.where(flip[:, None], end, start)
    high = np.where(flip[:, None], start, end)
    slope = (high[other] - low[other]) / np.maximum(steps, 1)
    edge = np.repeat(np.arange(len(start)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    step = np.where(flip[edge], steps[edge] - step, step)
    along = low[side][edge] + step
    across = np.trunc(low[other][edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(wide[edge], along, across), np.where(wide[edge], across, along)
