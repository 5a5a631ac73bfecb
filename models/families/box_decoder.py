"""From the numbers of a row to a box: corners in pixels of the input."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from models.boxes.anchors import Rounding
from models.boxes.distances import decode_bins, decode_distances
from models.boxes.grids import decode_yolov3, decode_yolov5, decode_yolox
from models.boxes.offsets import OffsetCoding, decode_offsets
from models.families.grid import ROUNDINGS, Extent, Grid, Level, extent_of, grid, levels, rows_of
from models.families.keypoints import Places
from models.families.priors import prior_boxes
from models.families.table import Table
from models.output_layout import BOXES, Coding, OutputLayout, anchors_of, kind_of_boxes

Floats = NDArray[np.float32]
SIDE_COLUMNS = frozenset().union(*BOXES)


class BoxDecoder:
    """Decodes the boxes of one model.

    Args:
        layout: layout of the outputs.
        size: width and height of the input in pixels.
    """

    def __init__(self, layout: OutputLayout, size: tuple[int, int]) -> None:
        self._layout, self._size = layout, size
        kind = kind_of_boxes(layout)
        assert kind is not None, "the layout was checked when it was read"
        self._kind = kind
        self._priors = None if layout.priors is None else prior_boxes(layout, size)
        self._grid = functools.lru_cache(maxsize=64)(self._make_grid)
        box_outputs = [names for names in layout.outputs.values() if set(names) & SIDE_COLUMNS]
        self._several = len(box_outputs) > len(set(box_outputs))
        if self._several:
            # Tables of several grids come the finest first, whatever the order of the strides.
            order = sorted(range(len(layout.strides)), key=lambda at: layout.strides[at])
            self._strides = tuple(layout.strides[at] for at in order)
            anchors = anchors_of(layout)
            self._anchors = tuple(anchors[at] for at in order if anchors)
        else:
            self._strides, self._anchors = layout.strides, anchors_of(layout)

    @property
    def extent(self) -> Extent:
        """Numbers of rows and cells that the outputs can have."""
        if self._priors is not None:
            return Extent(frozenset({len(self._priors)}))
        return extent_of(self._layout, self._size)

    def corners(self, table: Table, number: int, rows: NDArray[np.intp], before: int = 0) -> Floats:
        """Return the boxes (n, 4) of some rows, xyxy in pixels of the input.

        Args:
            table: rows of a level.
            number: number of that level.
            rows: rows whose boxes are wanted.
            before: rows of the levels before it.

        Raises:
            ValueError: the table has other rows than the grid.
        """
        numbers = table.boxes(self._kind, rows)
        if self._priors is not None:
            self._check_priors(table, before)
            return self._from_priors(numbers, self._priors[before + rows])
        boxes = self._decode(numbers, table, number, rows)
        if self._layout.units == "fraction":
            boxes = boxes * np.array(self._size * 2, np.float32)
        return boxes

    def places(self, table: Table, number: int, rows: NDArray[np.intp], before: int = 0) -> Places:
        """Return what the keypoints of some rows are relative to; see `corners`."""
        units = self._layout.keypoints.units
        if units == "cells":
            found = self._grid(number, table.length, table.grid, table.anchors_first)
            strides = found.strides[rows]
            return Places(found.corners[rows] + self._layout.point * strides[:, None], strides)
        if units == "priors" and self._priors is not None:
            self._check_priors(table, before)
            x, y, _, _ = self._layout.variances
            return Places(priors=self._priors[before + rows], variances=(x, y))
        return Places()

    def cells(self, table: Table) -> tuple[int, int]:
        """Return the columns and rows of cells of a table that is a map, or the rows of one grid.

        Raises:
            ValueError: its rows are those of several grids, or of none.
        """
        if table.grid is not None:
            return table.grid
        for cells in self.extent.cells:
            if cells[0] * cells[1] == table.length:
                return cells
        raise ValueError(f"peaks: expected a map of scores (found {table.length} rows)")

    def _check_priors(self, table: Table, before: int) -> None:
        assert self._priors is not None
        rows, expected = before + table.length, len(self._priors)
        if rows > expected or (rows < expected and not self._several):
            raise ValueError(f"the outputs have other rows than priors ({rows}, not {expected})")

    def _decode(self, numbers: Floats, table: Table, number: int, rows: NDArray[np.intp]) -> Floats:
        kind, layout = self._kind, self._layout
        if kind == "corners":
            return numbers
        if kind == "centre":
            return _around(numbers[:, :2], numbers[:, 2:])
        if kind == "corner and size":
            return np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1)
        found = self._grid(number, table.length, table.grid, table.anchors_first)
        corners, strides = found.corners[rows], found.strides[rows]
        if kind == "offsets":
            return _from_cells(numbers, corners, strides, found.anchors[rows], layout.coding)
        points = corners + layout.point * strides[:, None]
        if kind == "bins":
            numbers = np.asarray(decode_bins(numbers, "rows"), np.float32)
        if layout.units == "fraction":
            points = points / np.array(self._size, np.float32)
        scale = strides if layout.units == "strides" or kind == "bins" else 1.0
        return np.asarray(decode_distances(numbers, points, scale), np.float32)

    def _from_priors(self, numbers: Floats, priors: Floats) -> Floats:
        """Decode offsets to priors; linear: sizes are parts of the prior's, without exp."""
        variances = self._layout.variances
        if self._layout.coding == "ssd":
            x, y, w, h = (1 / variance for variance in variances)
            boxes = decode_offsets(numbers, priors, OffsetCoding((x, y, w, h)))
            return np.asarray(boxes, np.float32)
        scaled = numbers * np.array(variances, np.float32)
        return _around(priors[:, :2] + scaled[:, :2] * priors[:, 2:], priors[:, 2:] * scaled[:, 2:])

    def _make_grid(
        self, number: int, rows: int, cells: tuple[int, int] | None, anchors_first: bool | None
    ) -> Grid:
        """Return the grid of a table, which has the rows of one level, or of all."""
        first = self._layout.anchors_first if anchors_first is None else anchors_first
        every = [self._levels(rounding) for rounding in ROUNDINGS]
        if self._several:
            every = [found[number : number + 1] for found in every]
        for found in every:
            # Joined rows may have an axis of length 1 beside theirs, which is not that of a grid.
            own = cells if len(found) == 1 else None
            if rows_of(found) == rows and own in (None, *(level.cells for level in found)):
                return grid(found, first)
        if cells is not None and len(every[0]) == 1:
            return grid([every[0][0]._replace(cells=cells)], first)
        raise ValueError(
            f"the outputs have other rows than the grids of strides {list(self._strides)} "
            f"(found {rows}, expected {rows_of(every[0])})"
        )

    def _levels(self, rounding: Rounding) -> list[Level]:
        return levels(self._size, self._strides, self._anchors, rounding)


def _around(centre: Floats, size: Floats) -> Floats:
    half = size / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _from_cells(
    numbers: Floats, corners: Floats, strides: Floats, anchors: Floats, coding: Coding | None
) -> Floats:
    """Decode offsets to the cells of a grid.

    cells: centre and size in cells (CenterNet; Zhou et al., "Objects as Points", arXiv 1904.07850).
    centerface: centre from that of the cell, logarithm of the size in cells (Xu et al.,
    "CenterFace", arXiv 1911.03599).
    """
    if coding == "yolov3":
        boxes = decode_yolov3(numbers, corners, strides, anchors)
    elif coding == "yolov5":
        boxes = decode_yolov5(numbers, corners, strides, anchors)
    elif coding == "yolox":
        boxes = decode_yolox(numbers, corners, strides)
    elif coding == "centerface":
        boxes = decode_yolox(numbers, corners + strides[:, None] / 2, strides)
    else:
        side = strides[:, None]
        boxes = _around(corners + numbers[:, :2] * side, numbers[:, 2:] * side)
    return np.asarray(boxes, np.float32)
