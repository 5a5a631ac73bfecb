"""The outputs of a model for one image as tables of named columns, one table per level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.families.raw_rows import Rows, to_rows, width_of
from models.output_layout import OutputLayout

SIDES = {
    "corners": ("x1", "y1", "x2", "y2"),
    "centre": ("cx", "cy", "w", "h"),
    "corner and size": ("x", "y", "w", "h"),
    "distances": ("left", "top", "right", "bottom"),
    "offsets": ("dx", "dy", "dw", "dh"),
    "bins": ("bins",),
}
"""Kind of boxes (`models.output_layout.BOXES`) -> its columns, in the order of the formulas."""


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
        rows: rows of an output that has those of all grids; None: unknown.
        channels_last: whether the model's images have their channels last.
    """

    def __init__(
        self, layout: OutputLayout, scores: int | None, rows: int | None, channels_last: bool
    ) -> None:
        self._layout, self._scores, self._count = layout, scores, rows
        self._channels_last = channels_last
        self._anchors = len(layout.anchors[0]) if layout.anchors else 1
        self._groups: dict[tuple[str, ...], list[int]] = {}
        for place, columns in enumerate(layout.outputs.values()):
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
        for columns, places in self._groups.items():
            if columns == ("count",):
                count = int(raw[places[0]])
                continue
            group = [(columns, self._rows(raw[at], columns, len(places))) for at in places]
            parts.append(sorted(group, key=lambda part: -len(part[1].values)))
        numbers = sorted({len(group) for group in parts})
        if len(numbers) > 1:
            raise ValueError(f"the outputs have different numbers of levels (found {numbers})")
        return [self._table(level, count) for level in zip(*parts, strict=True)]

    def _rows(self, output: NDArray[Any], columns: Sequence[str], outputs: int) -> Rows:
        bins = _bins(output.shape, columns, self._scores) if "bins" in columns else None
        return to_rows(
            output,
            columns,
            width_of(columns, self._scores, bins),
            self._anchors if output.ndim >= 3 else 1,
            self._count if outputs == 1 else None,
            self._channels_last,
        )

    def _table(self, parts: Sequence[tuple[Sequence[str], Rows]], count: int | None) -> Table:
        columns: dict[str, Columns] = {}
        for names, found in parts:
            rows = found.values if count is None else found.values[: max(0, count)]
            columns |= _columns(rows, names, self._scores)
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


def _columns(rows: NDArray[Any], names: Sequence[str], scores: int | None) -> dict[str, Columns]:
    """Find the named columns of rows."""
    wide = [name for name in names if name in ("scores", "bins", "rest")]
    free = rows.shape[1] - (len(names) - len(wide))
    widths = dict.fromkeys(names, 1) | {"rest": 0}
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


def _bins(shape: Sequence[int], columns: Sequence[str], scores: int | None) -> int | None:
    """Return the numbers of the distributions of the four sides; None: the shape does not show."""
    others = width_of([name for name in columns if name != "bins"], scores, 0)
    if others is None:
        return None
    fitting = [n - others for n in shape if n > others + 4 and (n - others) % 4 == 0]
    return min(fitting) if fitting else None
