"""Raw outputs of a model, of whatever rank and order of axes, as rows of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.output_layout import WIDE


class Rows(NamedTuple):
    """An output as rows."""

    values: NDArray[Any]
    """(N, K): a view of the output where that is possible."""
    grid: tuple[int, int] | None = None
    """Columns and rows of cells, where the output has the axes of a grid."""
    anchors_first: bool | None = None
    """Whether all cells of the first anchor come first; None: the output has no axis of anchors."""


def width_of(columns: Sequence[str], classes: int | None, bins: int | None) -> int | None:
    """Return the numbers in a row; None: unknown, or any number of further ones.

    Args:
        columns: columns of the output, as in a layout.
        classes: numbers that `scores` stands for; None: unknown.
        bins: numbers that `bins` stands for; None: unknown.
    """
    total = 0
    for column in columns:
        wide = {"scores": classes, "bins": bins, "rest": None}.get(column, 1)
        if wide is None:
            return None
        total += wide
    return total


def one_image(output: NDArray[Any], columns: Sequence[str], index: int, images: int) -> Any:
    """Return the part of an output that belongs to one image of a batch.

    Some models give no axis of images: rows of all images, with or without a column `image`.

    Args:
        output: raw output of a run.
        columns: its columns.
        index: number of the image in the batch.
        images: images in the batch.
    """
    if columns == ("count",):
        return output.reshape(-1)[index if output.size == images else 0]
    single = len(columns) == 1 and columns[0] not in WIDE
    has_images = output.ndim >= (2 if single else 3) and len(output) in (1, images)
    if has_images:
        return output[index if len(output) == images else 0]
    if "image" in columns and output.ndim == 2:
        return output[output[:, columns.index("image")].astype(np.intp) == index]
    return output


def to_rows(
    output: NDArray[Any],
    columns: Sequence[str],
    width: int | None,
    anchors: int,
    count: int | None,
    channels_last: bool,
) -> Rows:
    """Bring the output for one image into rows.

    Args:
        output: the output, without the axis of images.
        columns: its columns.
        width: numbers in a row; None: unknown.
        anchors: rows for each cell of a grid.
        count: rows of the output; None: unknown.
        channels_last: whether the model's images have their channels last; decides where the
            lengths of the axes do not.

    Raises:
        ValueError: no axis has the length of the columns; the text says what was found.
    """
    if output.ndim == 1:
        return Rows(output[:, None] if len(columns) == 1 else output[None])
    if output.ndim == 3 and 1 in output.shape[:2] and width not in (None, anchors) and anchors == 1:
        # (N, 1, 4): a class-agnostic box for each row, in an axis of its own.
        squeezed = output.reshape(max(output.shape[:2]), output.shape[2])
        if squeezed.shape[1] == width:
            return Rows(squeezed)
    if output.ndim == 2:
        return Rows(output.T if _is_transposed(output.shape, width, count) else output)
    if output.ndim == 4:  # anchors, rows, columns of cells, numbers
        return Rows(output.reshape(-1, output.shape[-1]), (output.shape[2], output.shape[1]), True)
    if output.ndim == 3:
        return _from_map(output, width, anchors, channels_last)
    raise ValueError(f"expected rows, or a map of rows (found shape {list(output.shape)})")


def _is_transposed(shape: tuple[int, ...], width: int | None, count: int | None) -> bool:
    if width is not None and width in shape and shape[0] != shape[1]:
        return shape[0] == width
    if count is not None and count in shape and shape[0] != shape[1]:
        return shape[1] == count
    return width is None and shape[0] < shape[1]


def _from_map(output: NDArray[Any], width: int | None, anchors: int, channels_last: bool) -> Rows:
    first, last = output.shape[0], output.shape[2]
    if width is not None:
        fits_first, fits_last = first == width * anchors, last == width * anchors
        if not fits_first and not fits_last:
            raise ValueError(
                f"expected an axis of {width * anchors} numbers (found shape {list(output.shape)})"
            )
        channels_last = fits_last and (channels_last or not fits_first)
    elif first != last:
        channels_last = last < first if not channels_last else last <= first
    if channels_last:
        rows, columns, channels = output.shape
        return Rows(output.reshape(-1, channels // anchors), (columns, rows), False)
    channels, rows, columns = output.shape
    if anchors == 1:
        return Rows(output.reshape(channels, -1).T, (columns, rows), False)
    split = output.reshape(anchors, channels // anchors, rows * columns)
    return Rows(split.transpose(0, 2, 1).reshape(-1, channels // anchors), (columns, rows), True)
