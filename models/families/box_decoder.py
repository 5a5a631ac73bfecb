"""From the numbers of a row to a box: corners in pixels of the input."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from models.families.grid import Grid, Level, grid, levels, rows_of
from models.families.priors import prior_boxes
from models.families.table import Table
from models.output_layout import OutputLayout, kind_of_boxes

Floats = NDArray[np.float32]


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

    @property
    def rows(self) -> int | None:
        """Rows of an output that has those of all grids, or priors; None: unknown."""
        if self._priors is not None:
            return len(self._priors)
        return rows_of(self._levels(rounded_up=False)) if self._layout.strides else None

    def corners(self, table: Table, number: int, rows: NDArray[np.intp]) -> Floats:
        """Return the boxes (n, 4) of some rows, xyxy in pixels of the input.

        Args:
            table: rows of a level.
            number: number of that level.
            rows: rows whose boxes are wanted.

        Raises:
            ValueError: the table has other rows than the grid.
        """
        numbers = table.boxes(self._kind, rows)
        with np.errstate(over="ignore", invalid="ignore"):  # wrong numbers show in the results
            boxes = self._decode(numbers, table, number, rows)
            if self._layout.units == "fraction":
                boxes = boxes * np.array(self._size * 2, np.float32)
        return boxes

    def _decode(self, numbers: Floats, table: Table, number: int, rows: NDArray[np.intp]) -> Floats:
        kind, layout = self._kind, self._layout
        if kind == "corners":
            return numbers
        if kind == "centre":
            return _around(numbers[:, :2], numbers[:, 2:])
        if kind == "corner and size":
            return np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1)
        if self._priors is not None:
            return _from_priors(numbers, self._priors[rows], layout)
        found = self._grid(number, table.length, table.grid, table.anchors_first)
        cells, strides = found.cells[rows], found.strides[rows]
        if kind == "offsets":
            return _from_cells(numbers, cells, strides, found.anchors[rows], layout)
        points = (cells + layout.point) * strides
        if kind == "bins":
            numbers = _expectation(numbers)
        if layout.units == "strides":
            numbers = numbers * strides
        elif layout.units == "fraction":
            points = points / np.array(self._size, np.float32)
        return np.concatenate([points - numbers[:, :2], points + numbers[:, 2:]], axis=1)

    def _make_grid(
        self, number: int, rows: int, cells: tuple[int, int] | None, anchors_first: bool | None
    ) -> Grid:
        """Return the grid of a table, which has the rows of one level, or of all."""
        layout = self._layout
        first = layout.anchors_first if anchors_first is None else anchors_first
        rounded = [self._levels(rounded_up) for rounded_up in (False, True)]
        if cells is not None and number < len(layout.strides):
            level = rounded[0][number]
            return grid([Level(level.stride, *cells, level.anchors)], first)
        for found in rounded:
            if rows_of(found) == rows:
                return grid(found, first)
            if number < len(found) and rows_of(found[number : number + 1]) == rows:
                return grid(found[number : number + 1], first)
        raise ValueError(
            f"the outputs have other rows than the grids of strides {list(layout.strides)} "
            f"(found {rows}, expected {rows_of(rounded[0])})"
        )

    def _levels(self, rounded_up: bool) -> list[Level]:
        return levels(self._size, self._layout.strides, self._layout.anchors, rounded_up)


def _around(centre: Floats, size: Floats) -> Floats:
    half = size / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _expectation(bins: Floats) -> Floats:
    """Return the expected values (n, 4) of distributions (n, 4 B) over 0, 1, 2 ...

    Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 5.
    """
    logits = bins.reshape(len(bins), 4, -1)
    values = np.exp(logits - logits.max(axis=2, keepdims=True))
    values /= values.sum(axis=2, keepdims=True)
    return np.asarray(values @ np.arange(logits.shape[2], dtype=np.float32), np.float32)


def _from_priors(offsets: Floats, priors: Floats, layout: OutputLayout) -> Floats:
    """Decode offsets to priors, cx cy w h in pixels.

    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2; linear: sizes are
    parts of the prior's, without exp.
    """
    scaled = offsets * np.array(layout.variances, np.float32)
    centre = priors[:, :2] + scaled[:, :2] * priors[:, 2:]
    factor = np.exp(scaled[:, 2:]) if layout.coding == "ssd" else scaled[:, 2:]
    return _around(centre, priors[:, 2:] * factor)


def _from_cells(
    offsets: Floats, cells: Floats, strides: Floats, anchors: Floats, layout: OutputLayout
) -> Floats:
    """Decode offsets to the cells of a grid.

    yolov3: Redmon and Farhadi, "YOLOv3", arXiv 1804.02767, section 2.1. yolov5: Ultralytics, whose
    centre may leave its cell and whose size is bounded. yolox: Ge et al., arXiv 2107.08430. cells:
    centre and size in cells (CenterNet, Zhou et al., arXiv 1904.07850).
    """
    centre, size = offsets[:, :2], offsets[:, 2:]
    if layout.coding == "yolov3":
        return _around((cells + _sigmoid(centre)) * strides, np.exp(size) * anchors)
    if layout.coding == "yolov5":
        return _around(
            (cells - 0.5 + 2 * _sigmoid(centre)) * strides, (2 * _sigmoid(size)) ** 2 * anchors
        )
    if layout.coding == "yolox":
        return _around((cells + centre) * strides, np.exp(size) * strides)
    return _around((cells + centre) * strides, size * strides)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)
