"""Grids over the input: the cell, the stride and the anchor of each row of a model's outputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.anchors import AnchorLevel, Rounding, cells_of, tile
from models.image_input import STRIDES
from models.output_layout import OutputLayout, anchors_of

Anchors = tuple[tuple[float, float], ...]
ROUNDINGS: tuple[Rounding, ...] = ("floor", "ceil")


class Grid(NamedTuple):
    """Rows of one or several grids, in the order of the outputs; parallel arrays."""

    corners: NDArray[np.float32]
    """(N, 2) top left corner of the cell in pixels of the input."""
    strides: NDArray[np.float32]
    """(N,) in pixels of the input."""
    anchors: NDArray[np.float32]
    """(N, 2) width and height in pixels of the input; zero without anchors."""


class Extent(NamedTuple):
    """Numbers of rows and of cells that the outputs of a model can have."""

    rows: frozenset[int] = frozenset()
    """Rows of each grid, and of all together."""
    cells: frozenset[tuple[int, int]] = frozenset()
    """Columns and rows of cells of each grid."""


class Level(NamedTuple):
    """A grid of one stride."""

    stride: int
    cells: tuple[int, int]
    """Number of cells across and down."""
    anchors: Anchors = ()


def levels(
    size: tuple[int, int],
    strides: tuple[int, ...],
    anchors: tuple[Anchors, ...],
    rounding: Rounding,
) -> list[Level]:
    """Return the grids over an input.

    Args:
        size: width and height of the input in pixels.
        strides: strides of the grids.
        anchors: anchors of each; empty: there are none.
        rounding: number of cells where a stride does not divide the input.
    """
    return [
        Level(stride, cells_of(size, stride, rounding), anchors[i] if anchors else ())
        for i, stride in enumerate(strides)
    ]


def extent_of(layout: OutputLayout, size: tuple[int, int]) -> Extent:
    """Return the numbers of rows and cells that outputs of a layout can have.

    Rows of boxes that the model has worked out have no strides in their layout, but mostly come
    from the usual grids.

    Args:
        layout: layout of the outputs.
        size: width and height of the input in pixels.
    """
    rows: set[int] = set()
    cells: set[tuple[int, int]] = set()
    for rounding in ROUNDINGS:
        found = levels(size, layout.strides, anchors_of(layout), rounding)
        rows |= {rows_of(found), *(rows_of([level]) for level in found)} if found else set()
        cells |= {level.cells for level in found}
        if not layout.strides and not layout.end_to_end:
            usual = rows_of(levels(size, STRIDES, (), rounding))
            rows |= {usual, 3 * usual}
    return Extent(frozenset(rows), frozenset(cells))


def rows_of(grids: list[Level]) -> int:
    """Count the rows of some grids."""
    return sum(level.cells[0] * level.cells[1] * max(1, len(level.anchors)) for level in grids)


def grid(grids: list[Level], anchors_first: bool) -> Grid:
    """Lay out the rows of some grids one after the other.

    Args:
        grids: grids in the order of the outputs.
        anchors_first: whether all cells of the first anchor come first; else all anchors of the
            first cell.
    """
    parts = []
    for level in grids:
        shapes = level.anchors or ((0.0, 0.0),)
        rows = tile([AnchorLevel(level.cells, shapes, (level.stride, level.stride))], offset=0)
        if anchors_first:
            rows = rows.reshape(-1, len(shapes), 4).transpose(1, 0, 2).reshape(-1, 4)
        parts.append(rows)
    rows = np.concatenate(parts)
    strides = [np.full(len(part), level.stride) for part, level in zip(parts, grids, strict=True)]
    return Grid(rows[:, :2], np.concatenate(strides).astype(np.float32), rows[:, 2:])
