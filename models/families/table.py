"""The outputs of a model for one image as tables of named columns, one table per level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.families.grid import Extent
from models.families.of_image import COUNT, number_of_rows
from models.families.raw_rows import Habits, Rows, to_rows, width_of
from models.output_layout import UNREAD, WIDE, OutputLayout, widths_of

SIDES = {
    "corners": ("x1", "y1", "x2", "y2"),
    "centre": ("cx", "cy", "w", "h"),
    "corner and size": ("x", "y", "w", "h"),
    "distances": ("left", "top", "right", "bottom"),
    "offsets": ("dx", "dy", "dw", "dh"),
    "bins": ("bins",),
}
"""Kind of boxes (`models.output_layout.BOXES`) -> its columns, in the order of the formulas."""


NO_TABLE = UNREAD - {"count", "image"}
"""Columns of outputs that are not rows of a table."""


class Columns(NamedTuple):
    """Neighbouring columns of an output."""

    rows: NDArray[Any]
    """(N, K) rows of the output."""
    start: int
    width: int

    @property
    def values(self) -> NDArray[Any]:
        """The columns (N, W), a view; (N,) if there is one."""
        if self.width == 1:
            return self.rows[:, self.start]
        return self.rows[:, self.start : self.start + self.width]


class Table(NamedTuple):
    """The rows of one level, whose columns may come from several outputs."""

    columns: Mapping[str, Columns]
    length: int
    grid: tuple[int, int] | None
    """Columns and rows of cells, where an output has the axes of a grid."""
    anchors_first: bool | None
    """See `raw_rows.Rows`."""

    def get(self, name: str) -> NDArray[Any] | None:
        """Return the values of a column; None: there is none of this name."""
        found = self.columns.get(name)
        return None if found is None else found.values

    def rows_of(self, name: str, rows: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the numbers (n, W) of a wide column in some rows; None: there is none."""
        found = self.columns.get(name)
        if found is None:
            return None
        part = found.rows[rows, found.start : found.start + found.width]
        return part.astype(np.float32, copy=False)

    def boxes(self, kind: str, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the columns of the boxes of some rows, float32 (n, 4), or (n, 4 B) for bins."""
        sides = [self.columns[name] for name in SIDES[kind]]
        first = sides[0]
        together = all(
            side.rows is first.rows and side.start == first.start + i
            for i, side in enumerate(sides)
        )
        if together:
            width = sum(side.width for side in sides)
            found = first.rows[rows, first.start : first.start + width]
        else:
            found = np.stack([side.values[rows] for side in sides], axis=1)
        return found.astype(np.float32, copy=False)


class TableReader:
    """Makes tables of the outputs of one model.

    Args:
        layout: layout of the outputs.
        scores: numbers that `scores` stands for, with the background; None: unknown.
        extent: numbers of rows and cells that are expected.
        channels_last: whether the model's images have their channels last.
    """

    def __init__(
        self, layout: OutputLayout, scores: int | None, extent: Extent, channels_last: bool
    ) -> None:
        self._scores, self._extent = scores, extent
        self._habits = Habits(
            channels_last, layout.columns_first, layout.end_to_end, bool(layout.strides)
        )
        self._anchors = len(layout.anchors[0]) if layout.anchors else layout.per_cell
        self._widths = widths_of(layout)
        self._groups: dict[tuple[str, ...], list[int]] = {}
        for place, columns in enumerate(layout.outputs.values()):
            if not set(columns) <= NO_TABLE:
                self._groups.setdefault(columns, []).append(place)

    def read(self, raw: Sequence[NDArray[Any]]) -> list[Table]:
        """Return the tables, the finest grid first where there are several.

        Args:
            raw: outputs in the order of the layout, without the axis of images.

        Raises:
            ValueError: the outputs are not as the layout says.
        """
        count: int | None = None
        parts: list[list[tuple[Sequence[str], Rows]]] = []
        extent = self._extent
        # Outputs of a known number of columns come first: they show the rows of the others.
        for columns, places in sorted(self._groups.items(), key=self._is_open):
            if columns == COUNT:
                count = number_of_rows(raw[places[0]])
                continue
            outputs = [raw[at] for at in places]
            bins = self._bins(outputs, columns, extent) if "bins" in columns else None
            width = width_of(columns, self._scores, bins, self._widths)
            group = [(columns, self._rows(output, columns, width, extent)) for output in outputs]
            parts.append(sorted(group, key=lambda part: -len(part[1].values)))
            lengths = frozenset(len(found.values) for _, found in group)
            extent = extent._replace(rows=lengths)
        numbers = sorted({len(group) for group in parts})
        if len(numbers) > 1:
            raise ValueError(f"the outputs have different numbers of levels (found {numbers})")
        return [self._table(level, count) for level in zip(*parts, strict=True)]

    def _is_open(self, group: tuple[Sequence[str], object]) -> bool:
        return width_of(group[0], self._scores, None, self._widths) is None

    def _rows(
        self, output: NDArray[Any], columns: Sequence[str], width: int | None, extent: Extent
    ) -> Rows:
        if columns == ("keypoints",) and width is not None and not self._habits.is_grid:
            # One axis for the points and one for their numbers, whatever comes before.
            if output.size % width:
                raise ValueError(f"expected {width} numbers in a row (found {list(output.shape)})")
            return Rows(output.reshape(-1, width))
        anchors = self._anchors if output.ndim >= 3 else 1
        return to_rows(output, columns, width, anchors, extent, self._habits)

    def _bins(
        self, outputs: Sequence[NDArray[Any]], columns: Sequence[str], extent: Extent
    ) -> int | None:
        """Return the numbers of the distributions of the four sides; None: unknown."""
        found: set[int] = set()
        for output in outputs:
            others = [name for name in columns if name != "bins"]
            width = width_of(others, self._scores, 0, self._widths)
            own = set() if width is None else _bins(output.shape, width, extent)
            # All levels have as many, and other lengths of theirs differ.
            found = (found & own) or found or own
        return min(found, default=None)

    def _table(self, parts: Sequence[tuple[Sequence[str], Rows]], count: int | None) -> Table:
        columns: dict[str, Columns] = {}
        for names, found in parts:
            rows = found.values if count is None else found.values[:count]
            columns |= _columns(rows, names, self._scores, self._widths)
        lengths = {name: len(part.rows) for name, part in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the outputs have different numbers of rows (found {lengths})")
        maps = [found for _, found in parts if found.grid is not None]
        return Table(
            columns,
            next(iter(lengths.values())),
            maps[0].grid if maps else None,
            maps[0].anchors_first if maps else None,
        )


def _columns(
    rows: NDArray[Any], names: Sequence[str], scores: int | None, known: Mapping[str, int]
) -> dict[str, Columns]:
    """Find the named columns of rows."""
    wide = [name for name in names if name in WIDE and name not in known]
    widths = dict.fromkeys(names, 1) | {"rest": 0}
    widths |= {name: known[name] for name in names if name in known}
    free = rows.shape[1] - sum(widths[name] for name in names if name not in wide)
    if len(wide) == 1:
        widths[wide[0]] = free
    elif wide:
        widths["scores"] = scores or 0
        widths[next(name for name in wide if name != "scores")] = free - (scores or 0)
    found, at = {}, 0
    for name in names:
        found[name] = Columns(rows, at, widths[name])
        at += widths[name]
    if free < len(wide) - ("rest" in wide) or min(widths.values()) < 0:
        raise ValueError(f"too few columns for {' '.join(names)} (found {rows.shape[1]})")
    found.pop("skip", None)
    found.pop("rest", None)
    return found


def _bins(shape: Sequence[int], others: int, extent: Extent) -> set[int]:
    """Return the numbers that `bins` may stand for, by the lengths of the first and last axes.

    Args:
        shape: shape of the output.
        others: numbers of the other columns.
        extent: numbers of rows that are expected.
    """
    if len(shape) < 2:
        return set()
    fitting = {}
    for at in (0, len(shape) - 1):
        numbers = shape[at] - others
        if numbers > 4 and numbers % 4 == 0:
            fitting[at] = numbers
    known = {at for at in fitting if math.prod(shape) // shape[at] in extent.rows}
    return {numbers for at, numbers in fitting.items() if at in known or not known}
