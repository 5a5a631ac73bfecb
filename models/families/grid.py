"""Grids over the input: the point, the stride and the anchor of each row of a model's outputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Anchors = tuple[tuple[float, float], ...]


class Grid(NamedTuple):
    """Rows of one or several grids, in the order of the outputs; parallel arrays."""

    cells: NDArray[np.float32]
    """(N, 2) column and row of the cell."""
    strides: NDArray[np.float32]
    """(N, 1) in pixels of the input."""
    anchors: NDArray[np.float32]
    """(N, 2) width and height in pixels of the input; zero without anchors."""


class Level(NamedTuple):
    """A grid of one stride."""

    stride: int
    columns: int
    rows: int
    anchors: Anchors = ()


def levels(
    size: tuple[int, int], strides: tuple[int, ...], anchors: tuple[Anchors, ...], rounded_up: bool
) -> list[Level]:
    """Return the grids over an input.

    Args:
        size: width and height of the input in pixels.
        strides: strides of the grids.
        anchors: anchors of each; empty: there are none.
        rounded_up: whether a part of a cell at the right and bottom has a cell of its own.
    """
    count = math.ceil if rounded_up else math.floor
    return [
        Level(
            stride,
            count(size[0] / stride),
            count(size[1] / stride),
            anchors[i] if anchors else (),
        )
        for i, stride in enumerate(strides)
    ]


def rows_of(grids: list[Level]) -> int:
    """Count the rows of some grids."""
    return sum(level.rows * level.columns * max(1, len(level.anchors)) for level in grids)


def grid(grids: list[Level], anchors_first: bool) -> Grid:
    """Lay out the rows of some grids one after the other.

    Args:
        grids: grids in the order of the outputs.
        anchors_first: whether all cells of the first anchor come first; else all anchors of the
            first cell.
    """
    parts = [_of_level(level, anchors_first) for level in grids]
    return Grid(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _of_level(level: Level, anchors_first: bool) -> Grid:
    y, x = np.mgrid[: level.rows, : level.columns]
    cells: NDArray[np.float32] = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    sizes: NDArray[np.float32] = np.array(level.anchors or ((0, 0),), np.float32)
    if anchors_first:
        cells, anchors = np.tile(cells, (len(sizes), 1)), np.repeat(sizes, len(cells), axis=0)
    else:
        cells, anchors = np.repeat(cells, len(sizes), axis=0), np.tile(sizes, (len(cells), 1))
    return Grid(cells, np.full((len(cells), 1), level.stride, np.float32), anchors)
