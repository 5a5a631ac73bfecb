"""Raw outputs of a model, of whatever rank and order of axes, as rows of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.families.grid import Extent
from models.output_layout import WIDE

NO_EXTENT = Extent()
NO_WIDTHS: Mapping[str, int] = MappingProxyType({})


class Rows(NamedTuple):
    """An output as rows."""

    values: NDArray[Any]
    """(N, K): a view of the output where that is possible."""
    grid: tuple[int, int] | None = None
    """Columns and rows of cells, where the output has the axes of a grid."""
    anchors_first: bool | None = None
    """Whether all cells of the first anchor come first; None: the output has no axis of anchors."""


class Habits(NamedTuple):
    """Order of the axes where the lengths of an output do not decide."""

    channels_last: bool = False
    """Whether the model's images have their channels last, and so its maps."""
    columns_first: bool = False
    """Whether an output with as many rows as columns has the columns first."""
    rows_first: bool = False
    """Whether rows of an unknown number of columns come first, as those of queries do."""
    is_grid: bool = False
    """Whether the rows are those of a grid, so that an output may be a map."""


def width_of(
    columns: Sequence[str],
    classes: int | None,
    bins: int | None,
    fixed: Mapping[str, int] = NO_WIDTHS,
) -> int | None:
    """Return the numbers in a row; None: unknown, or any number of further ones.

    Args:
        columns: columns of the output, as in a layout.
        classes: numbers that `scores` stands for; None: unknown.
        bins: numbers that `bins` stands for; None: unknown.
        fixed: numbers that other wide columns stand for, see `models.output_layout.widths_of`.
    """
    known = dict.fromkeys(WIDE) | {"scores": classes, "bins": bins} | dict(fixed)
    total = 0
    for column in columns:
        wide = known.get(column, 1)
        if wide is None:
            return None
        total += wide
    return total


def to_rows(
    output: NDArray[Any],
    columns: Sequence[str],
    width: int | None,
    anchors: int = 1,
    extent: Extent = NO_EXTENT,
    habits: Habits = Habits(),  # noqa: B008 - immutable
) -> Rows:
    """Bring the output for one image into rows.

    Args:
        output: the output, without the axis of images.
        columns: its columns.
        width: numbers in a row; None: unknown.
        anchors: rows for each cell of a grid.
        extent: numbers of rows and cells that are expected.
        habits: decide where the lengths of the axes do not.

    Raises:
        ValueError: no axis has the length of the columns; the text says what was found.
    """
    shape = output.shape
    if output.size == 0:
        return Rows(np.zeros((0, width or len(columns)), output.dtype))
    if output.ndim < 2:
        is_column = len(columns) == 1 and width in (None, 1)
        return Rows(_checked(output.reshape((-1, 1) if is_column else (1, -1)), width))
    if output.ndim == 2:
        sides = (shape[0], shape[1])
        is_transposed = _is_transposed(sides, width, len(columns), extent, habits)
        return Rows(_checked(output.T if is_transposed else output, width))
    if output.ndim == 3 and _has_an_axis_of_one(shape, width, anchors, habits):
        return Rows(output.reshape(shape[0] * shape[1], shape[2]))
    if output.ndim == 3:
        return _from_map(output, width, anchors, extent, habits)
    if output.ndim == 4:
        return _from_anchor_map(output, width, anchors, extent, habits)
    raise ValueError(f"expected rows, or a map of rows (found shape {list(shape)})")


def _checked(rows: NDArray[Any], width: int | None) -> NDArray[Any]:
    if width is not None and rows.size and rows.shape[1] != width:
        raise ValueError(f"expected {width} numbers in a row (found shape {list(rows.shape)})")
    return rows


def _is_transposed(
    shape: tuple[int, int], width: int | None, least: int, extent: Extent, habits: Habits
) -> bool:
    """Return whether the first axis is that of the columns, `least` at least."""
    if shape[0] == shape[1]:
        return habits.columns_first
    if width is not None:
        return shape[0] == width
    counted = [length in extent.rows for length in shape]
    if counted[0] != counted[1]:
        return counted[1]
    if min(shape) < least:
        return shape[1] < least
    return not habits.rows_first and shape[0] < shape[1]


def _has_an_axis_of_one(
    shape: tuple[int, ...], width: int | None, anchors: int, habits: Habits
) -> bool:
    """Return whether rows have one axis more, as class-agnostic boxes (N, 1, 4) do."""
    if anchors != 1 or width in (None, 1) or shape[2] != width or 1 not in shape[:2]:
        return False
    is_map = habits.is_grid and shape[:2] == (width, 1) and not habits.channels_last
    return not is_map


def _from_map(
    output: NDArray[Any], width: int | None, anchors: int, extent: Extent, habits: Habits
) -> Rows:
    is_last = _has_channels_last(output.shape, width, anchors, extent, habits)
    if is_last:
        rows, columns, channels = output.shape
    else:
        channels, rows, columns = output.shape
    if channels % anchors:
        raise ValueError(
            f"expected a multiple of {anchors} channels (found shape {list(output.shape)})"
        )
    numbers = channels // anchors
    if is_last:
        return Rows(output.reshape(rows * columns * anchors, numbers), (columns, rows), False)
    if anchors == 1:
        return Rows(output.reshape(channels, rows * columns).T, (columns, rows), False)
    split = output.reshape(anchors, numbers, rows * columns).transpose(0, 2, 1)
    return Rows(split.reshape(anchors * rows * columns, numbers), (columns, rows), True)


def _has_channels_last(
    shape: tuple[int, ...], width: int | None, anchors: int, extent: Extent, habits: Habits
) -> bool:
    first, middle, last = shape
    if width is not None:
        fits = first == width * anchors, last == width * anchors
        if not any(fits):
            raise ValueError(
                f"expected an axis of {width * anchors} numbers (found shape {list(shape)})"
            )
        if fits[0] != fits[1]:
            return fits[1]
    known = (last, middle) in extent.cells, (middle, first) in extent.cells
    if known[0] != known[1]:
        return known[1]
    square = middle == last, first == middle
    if width is None and square[0] != square[1]:
        return square[1]
    if width is None and first != last:
        return last < first
    return habits.channels_last


def _from_anchor_map(
    output: NDArray[Any], width: int | None, anchors: int, extent: Extent, habits: Habits
) -> Rows:
    """Bring a map with an axis of anchors into rows: first or third axis, numbers last or next."""
    a, b, c, d = output.shape
    # Place of the axis of anchors -> whether the lengths fit, and the columns and rows of cells.
    fitting = {
        "first": (a == anchors and width in (None, d), (c, b)),
        "third": (c == anchors and width in (None, d), (b, a)),
        "before channels": (a == anchors and width in (None, b), (d, c)),
    }
    found = {name: cells for name, (fits, cells) in fitting.items() if fits}
    known = {name: cells for name, cells in found.items() if cells in extent.cells}
    if not found and width not in (None, d):
        raise ValueError(f"expected an axis of {width} numbers (found shape {[a, b, c, d]})")
    left = known or found or {"first": (c, b)}
    name = "third" if "third" in left and habits.channels_last else next(iter(left))
    cells = left[name]
    if name == "before channels":
        return Rows(output.transpose(0, 2, 3, 1).reshape(a * c * d, b), cells, True)
    return Rows(output.reshape(a * b * c, d), cells, name == "first")
