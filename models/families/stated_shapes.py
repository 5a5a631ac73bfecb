"""The shapes of a file's outputs, compared with their layout: number of classes, widths of rows."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence

from models.card import Card, label_set
from models.errors import ContractError
from models.families.grid import Extent, extent_of
from models.families.raw_rows import width_of
from models.image_input import image_tensor
from models.metadata import names_in
from models.onnx_header import OnnxFile, Tensor
from models.output_layout import OutputLayout, widths_of

Lengths = Sequence[int | None]


def classes_in(file: OnnxFile, layout: OutputLayout, card: Card | None = None) -> int | None:
    """Return the number of classes, without background: as stated, else by the shapes.

    Raises:
        ContractError: `classes` or `background` contradicts the file.
    """
    extra = int(layout.background is not None)
    options = _scores_in_file(file, layout, card)
    labels = labels_of(file, card)
    if layout.classes is not None:
        found = layout.classes + extra
        if options and found not in options:
            raise ContractError(
                f"{file.path}: output.classes of its card contradicts the file (found "
                f"{layout.classes}, the file has {options[0] - extra}); remove it from the card"
            )
    elif labels is not None and labels + extra in options:
        found = labels + extra
    elif options:
        found = options[0]
    elif labels is not None and any("scores" in names for names in layout.outputs.values()):
        found = labels + extra
    else:
        return None
    if extra and layout.background is not None and layout.background >= found:
        raise ContractError(
            f"{file.path}: output.background of its card is no column of scores (found "
            f"{layout.background}, the file has {found} columns from 0); correct it"
        )
    if found <= extra:
        raise ContractError(
            f"{file.path}: output.background of its card leaves no class (found "
            f"{layout.background}, the file has {found} columns of scores); remove it"
        )
    return found - extra


def check_shapes(file: OnnxFile, layout: OutputLayout, classes: int | None) -> None:
    """Check that each output of a file can have rows of its columns.

    Args:
        file: the model file.
        layout: layout of its outputs.
        classes: number of classes, without background; None: unknown.

    Raises:
        ContractError: an output has other numbers in a row, or the number of classes is missing.
    """
    scores = None if classes is None else classes + (layout.background is not None)
    tensors = {tensor.name: tensor for tensor in file.outputs}
    for name, columns in layout.outputs.items():
        if {"scores", "bins"} <= set(columns) and classes is None:
            raise ContractError(
                f"{file.path}: output.classes is missing in its card; the rows of {name} have "
                f"scores beside bins (found {tensors[name]}); write the number of classes"
            )
        width = width_of(columns, scores, None, widths_of(layout))
        anchors = len(layout.anchors[0]) if layout.anchors else 1
        shape = tensors[name].shape
        if width in (None, 1) or shape is None or None in shape or len(shape) < 2:
            continue
        if columns == ("keypoints",) and math.prod(filter(None, shape)) % (width or 1) == 0:
            continue  # the points may have an axis of their own
        if 0 not in shape and not {width, (width or 0) * anchors} & set(shape):
            raise ContractError(
                f"{file.path}: output.outputs of its card does not match the file (found {width} "
                f"columns for {name}, the file has {tensors[name]}); correct the columns"
            )


def labels_of(file: OnnxFile, card: Card | None) -> int | None:
    """Return the number of labels of the card, else of the file; None: there are none."""
    labels = None if card is None else card.labels
    if isinstance(labels, str):
        return len(label_set(labels))
    names = labels or names_in(file.metadata)
    return len(names) if names else None


def _scores_in_file(file: OnnxFile, layout: OutputLayout, card: Card | None) -> list[int]:
    """Return the numbers that `scores` may stand for, the most likely first; empty: unknown."""
    usual = Extent()
    image = image_tensor(file)
    if image is not None:
        width, height = (card and card.input.size) or image.size
        if width is not None and height is not None:
            usual = extent_of(layout, (width, height))
    tensors = {tensor.name: tensor for tensor in file.outputs}
    rows = _rows_of_boxes(layout, tensors)
    if rows is not None:
        usual = usual._replace(rows=frozenset({rows}))
    images = {t.shape[0] for t in tensors.values() if t.shape is not None and len(t.shape) > 2}
    certain = usual if layout.strides or rows is not None else Extent()
    batched = image is None or image.batched
    likely, possible = (
        _common(
            [1]
            if _is_vector(tensors[name], columns, images)
            else _scores_in(tensors[name], columns, layout, extent, batched)
            for name, columns in layout.outputs.items()
            if "scores" in columns
        )
        for extent in (usual, certain)
    )
    if layout.end_to_end and len(likely) > 1:
        # Rows of queries come before their columns.
        last = _last_axis(layout, tensors)
        likely.sort(key=lambda length: length != last)
    return likely + [length for length in possible if length not in likely]


def _is_vector(tensor: Tensor, columns: tuple[str, ...], images: Container[int | None]) -> bool:
    """Return whether scores are (images, N): of one class, without an axis of classes."""
    shape = tensor.shape or ()
    return len(shape) == 2 and columns == ("scores",) and shape[0] in images


def _common(levels: Iterable[Sequence[int]]) -> list[int]:
    """Return the numbers of all levels, which have as many classes; other lengths differ."""
    found: set[int] = set()
    for level in levels:
        found = (found & set(level)) or found or set(level)
    return sorted(found)


def _last_axis(layout: OutputLayout, tensors: dict[str, Tensor]) -> int | None:
    name, columns = next((n, c) for n, c in layout.outputs.items() if "scores" in c)
    shape = tensors[name].shape
    if not shape or shape[-1] is None:
        return None
    others = [column for column in columns if column != "scores"]
    return shape[-1] - (width_of(others, None, None, widths_of(layout)) or 0)


def _rows_of_boxes(layout: OutputLayout, tensors: dict[str, Tensor]) -> int | None:
    """Return the number of rows of an output of boxes alone; None: it does not show."""
    levels = len(layout.outputs) > len(set(layout.outputs.values()))
    for name, columns in layout.outputs.items():
        shape = tensors[name].shape
        width = width_of(columns, None, None, widths_of(layout))
        if levels or not width or width == 1 or shape is None or shape[-1:] != (width,):
            continue
        if len(shape) in (2, 3):
            return shape[-2]
        if len(shape) == 4 and shape[2] == 1:
            return shape[1]
    return None


def _scores_in(
    tensor: Tensor, columns: tuple[str, ...], layout: OutputLayout, extent: Extent, batched: bool
) -> list[int]:
    """Return the numbers that `scores` may stand for in an output; empty: it does not show.

    Args:
        tensor: the output.
        columns: its columns.
        layout: layout of all outputs.
        extent: numbers of rows and cells that are expected.
        batched: whether the input has an axis of images.
    """
    shape = tensor.shape
    rest = [name for name in columns if name != "scores"]
    others = width_of(rest, None, None, widths_of(layout))
    if not shape or others is None:
        return []
    if not batched and len(shape) > 1 and shape[0] != 1:
        shape = (1, *shape)
    anchors = len(layout.anchors[0]) if layout.anchors else 1
    lengths = _widths(shape, anchors, extent)
    return [length - others for length in lengths if length > others]


def _widths(shape: Lengths, anchors: int, extent: Extent) -> list[int]:
    """Return the lengths of the axes that may be those of the columns."""
    if len(shape) == 1:
        return [1]
    if len(shape) in (2, 3):
        first, last = shape[-2:]
        by_rows = first in extent.rows, last in extent.rows
        if first == last or by_rows == (True, False):
            return _known(last)
        return _known(first) if by_rows == (False, True) else _known(first, last)
    if len(shape) == 4:
        _, first, middle, last = shape
        if middle == 1 and anchors == 1 and not extent.cells:
            return _known(last)
        channels_first = [first // anchors] if first and first % anchors == 0 else []
        channels_last = [last // anchors] if last and last % anchors == 0 else []
        by_cells = (last, middle) in extent.cells, (middle, first) in extent.cells
        if by_cells[0] != by_cells[1]:
            return channels_first if by_cells[0] else channels_last
        if middle is not None and (middle == last) != (middle == first):
            return channels_first if middle == last else channels_last
        return channels_first + channels_last
    a, b, c, d = shape[1:5] if len(shape) == 5 else (None, None, None, shape[-1])
    last_is_side = (d, c) in extent.cells and not {(c, b), (b, a)} & extent.cells
    return _known(b if last_is_side and a == anchors else d)


def _known(*lengths: int | None) -> list[int]:
    return [length for length in lengths if length is not None]
