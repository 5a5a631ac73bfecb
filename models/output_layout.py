"""The layout of a detector's outputs: which numbers are boxes, scores and classes, and how coded.

A layout is the `output` of a card, or comes from `models/families/presets.yaml`, or is recognised
in the file. `models/families/generic.py` decodes by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Column = Annotated[str, Meta(max_length=20)]
Units = Literal["pixels", "fraction", "strides"]
Activation = Literal["none", "sigmoid", "softmax"]
Coding = Literal["ssd", "linear", "yolov3", "yolov5", "yolox", "cells"]
Combine = Literal["product", "geometric_mean"]
Fixed = Literal["size_hw", "size_wh", "ones"]

BOXES: dict[frozenset[str], str] = {
    frozenset({"x1", "y1", "x2", "y2"}): "corners",
    frozenset({"cx", "cy", "w", "h"}): "centre",
    frozenset({"x", "y", "w", "h"}): "corner and size",
    frozenset({"left", "top", "right", "bottom"}): "distances",
    frozenset({"dx", "dy", "dw", "dh"}): "offsets",
    frozenset({"bins"}): "bins",
}
"""Columns of a box -> their kind. An output may have them in any order."""
OTHERS = ("score", "scores", "objectness", "class", "image", "count", "skip", "rest")
"""Columns besides those of boxes."""
COLUMNS = frozenset().union(*BOXES, OTHERS)
WIDE = frozenset({"scores", "bins", "rest"})
"""Columns that stand for several numbers."""
TOGETHER = (["scores", "rest"], ["scores", "bins"], ["bins", "scores"])
"""Wide columns that one output may have."""
UNREAD = frozenset({"skip", "rest", "count", "image"})
"""Columns whose outputs are not those of a grid."""
ON_GRID = ("yolov3", "yolov5", "yolox", "cells")
"""Codings relative to the cells of a grid."""


class LayoutPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a layout: immutable, and strict about unknown keys."""


class Priors(LayoutPart, frozen=True, kw_only=True):
    """Boxes over the input, to which the offsets of a model refer; sides in pixels."""

    kind: Literal["ssd", "levels", "blazeface", "boxes"]
    """ssd: scales and aspect ratios of the TensorFlow API; levels: the same sizes and ratios at
    each cell of a level; blazeface: two of the whole input's size at each cell of each stride;
    boxes: listed one by one."""
    grids: tuple[tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]], ...] = ()
    """ssd: rows and columns of each grid; empty: from `strides`, rounded up."""
    min_scale: Annotated[float, Meta(gt=0)] = 0.2
    """ssd: side of the priors of the first grid, as a part of the input's side."""
    max_scale: Annotated[float, Meta(gt=0)] = 0.95
    """ssd: the same of the last grid."""
    ratios: tuple[Annotated[float, Meta(gt=0)], ...] = (1.0, 2.0, 0.5)
    """Width divided by height of the priors of a cell."""
    reduce_first: bool = True
    """ssd: whether the first grid has three priors for each cell."""
    sizes: tuple[tuple[Annotated[float, Meta(gt=0)], ...], ...] = ()
    """levels: sides in pixels of the square priors of each level."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """boxes: x1, y1, x2, y2 of each prior, as parts of the input's sides."""


class OutputLayout(LayoutPart, frozen=True, kw_only=True):
    """The layout of a detector's outputs. Only `outputs` is required."""

    outputs: Annotated[dict[str, tuple[Column, ...]], Meta(min_length=1, max_length=64)]
    """Name of an output -> its columns: x1 y1 x2 y2 (corners), cx cy w h (centre and size), x y w h
    (top left corner and size), left top right bottom (distances from a point of the grid), dx dy dw
    dh (offsets, see `coding`), bins (distances as distributions), score (of the class that `class`
    gives), scores (one per class), objectness, class, image (number of the image in the batch),
    count (of valid rows), skip (one column that is not used), rest (all that follow). Outputs with
    the same columns are the levels of a grid."""
    units: Units = "pixels"
    """Units of the boxes: pixels of the input, fractions of its sides, or strides of the grid."""
    coding: Coding | None = None
    """Formula for the columns dx dy dw dh."""
    activation: Activation = "none"
    """Function that turns `scores` and `objectness` into 0 to 1; none: they are."""
    combine: Combine = "product"
    """How the scores of a row and its objectness make one score."""
    background: Annotated[int, Meta(ge=-1, le=100_000)] | None = None
    """Column of `scores` that stands for no object; -1: the last. null: there is none."""
    class_offset: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Number in `class` of the first label."""
    classes: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Number of classes, without background, where the file leaves it open."""
    strides: tuple[Annotated[int, Meta(ge=1, le=1024)], ...] = ()
    """Strides of the grids in pixels, in the order of the rows."""
    point: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Position of a cell's point in the cell: 0 its corner, 0.5 its centre. For distances."""
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Width and height in pixels of the anchors of each stride."""
    per_cell: Annotated[int, Meta(ge=1, le=16)] = 1
    """Rows of each cell that have no anchors of their own, such as SCRFD's two."""
    anchors_first: bool = False
    """Whether the rows of a level have all cells of the first anchor first, then those of the
    next; false: all anchors of the first cell first."""
    columns_first: bool = False
    """Whether an output with as many rows as columns has the axis of columns first, as that of
    YOLOv8; the lengths decide for all others."""
    priors: Priors | None = None
    """Boxes to which offsets refer, with `coding: ssd` or `linear`."""
    variances: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)
    """Factors of dx, dy, dw, dh, with `coding: ssd` or `linear`."""
    peaks: bool = False
    """Whether only local maxima of the map of scores are objects (CenterNet)."""
    end_to_end: bool = False
    """Whether the model itself suppresses overlapping boxes."""
    inputs: dict[str, Fixed | tuple[float, ...]] = {}
    """Further inputs of the model -> their value: size_hw or size_wh (height and width of the
    input), ones, or numbers."""


def problem(layout: OutputLayout) -> str | None:
    """Return what contradicts itself in a layout, with the key in front; None: nothing does."""
    return next(_problems(layout), None)


def anchors_of(layout: OutputLayout) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return the anchors of each stride; of sides 0 where cells have several rows without any."""
    if layout.anchors or layout.per_cell == 1:
        return layout.anchors
    return (((0.0, 0.0),) * layout.per_cell,) * len(layout.strides)


def kind_of_boxes(layout: OutputLayout) -> str | None:
    """Return the kind of the columns of boxes, a value of `BOXES`; None: there is not one."""
    found = frozenset(column for columns in layout.outputs.values() for column in columns)
    kinds = [kind for columns, kind in BOXES.items() if columns <= found]
    return kinds[0] if len(kinds) == 1 else None


def _problems(layout: OutputLayout) -> Iterator[str]:
    yield from _in_outputs(layout)
    kind = kind_of_boxes(layout)
    on_grid = kind in ("distances", "bins") or layout.coding in ON_GRID
    yield from _in_boxes(layout, kind, on_grid)
    if layout.priors is not None:
        yield from _in_priors(layout.priors, len(layout.strides))
    for key, value in msgspec.to_builtins(layout).items():
        if not _is_finite(value):
            yield f"{key}: expected finite numbers (found {value}); write others"


def _in_outputs(layout: OutputLayout) -> Iterator[str]:
    for name, columns in layout.outputs.items():
        where = f"outputs.{name}"
        for column in columns:
            if column not in COLUMNS:
                known = ", ".join(sorted(COLUMNS))
                yield f"{where}: unknown column (found {column!r}); use {known}"
        wide = [column for column in columns if column in WIDE]
        if len(wide) > 1 and wide not in TOGETHER:
            yield (
                f"{where}: the lengths of {' and '.join(wide)} do not show beside each other; only "
                "scores may be in front of rest, or beside bins; use skip"
            )
        single = [column for column in columns if column != "skip"]
        if len(set(single)) < len(single):
            yield f"{where}: a column is there twice; name each once, or write skip"
        if "count" in columns and len(columns) > 1:
            yield f"{where}: count has to be the only column of its output"
    groups = set(layout.outputs.values())
    everything = {column for columns in groups for column in columns}
    for column in sorted(everything - {"skip", "rest"}):
        if sum(column in columns for columns in groups) > 1:
            yield f"outputs: column {column} is in outputs with different columns; keep one of them"
    found = [columns for columns in layout.outputs.values() if not set(columns) <= UNREAD]
    levels = sorted({found.count(columns) for columns in found})
    if len(levels) > 1:
        yield f"outputs: expected as many of each kind, one per grid (found {levels})"
    if kind_of_boxes(layout) is None:
        yield (
            "outputs: the columns are not those of one kind of boxes (found "
            f"{', '.join(sorted(everything)) or 'none'}); use, for example, x1 y1 x2 y2"
        )
    if ("scores" in everything) == ("score" in everything):
        yield "outputs: expected either scores (one per class) or score (of the class in `class`)"


def _in_boxes(layout: OutputLayout, kind: str | None, on_grid: bool) -> Iterator[str]:
    if kind == "offsets" and layout.coding is None:
        yield f"coding: missing; the columns dx dy dw dh need one of {_choices(Coding)}"
    if kind != "offsets" and layout.coding is not None:
        yield f"coding: has no use without the columns dx dy dw dh (found {layout.coding})"
    if on_grid and not layout.strides:
        yield "strides: missing; boxes are relative to the points of a grid"
    levels = max(
        list(layout.outputs.values()).count(columns) for columns in layout.outputs.values()
    )
    if on_grid and levels > 1 and levels != len(layout.strides):
        yield (
            f"strides: expected one for each grid (found {len(layout.strides)} strides, {levels} "
            "outputs with the same columns)"
        )
    with_anchors = layout.coding in ("yolov3", "yolov5")
    if with_anchors and len(layout.anchors) != len(layout.strides):
        yield (
            f"anchors: expected a list for each stride (found {len(layout.anchors)} lists, "
            f"{len(layout.strides)} strides)"
        )
    if with_anchors and not all(layout.anchors):
        yield "anchors: a list is empty; state width and height of each anchor"
    if layout.per_cell > 1 and (layout.anchors or layout.priors or not layout.strides):
        yield "per_cell: has a use only for a grid (strides) without anchors and priors; remove it"
    if layout.anchors and not with_anchors:
        yield "anchors: have no use without coding yolov3 or yolov5; remove them"
    if layout.coding in ("ssd", "linear") and layout.priors is None:
        yield f"priors: missing; coding {layout.coding} refers to them"
    if layout.priors is not None and layout.coding not in ("ssd", "linear"):
        yield "priors: have no use without coding ssd or linear; remove them"
    if layout.units == "strides" and not on_grid:
        yield "units: strides are those of a grid, which these columns have none of"
    if layout.units == "fraction" and kind in ("offsets", "bins"):
        yield f"units: have no use for {kind}, which give pixels (found fraction); remove it"


def _in_priors(priors: Priors, strides: int) -> Iterator[str]:
    grids = len(priors.grids) or strides
    if priors.kind == "boxes" and not priors.boxes:
        yield "priors.boxes: missing; kind boxes lists the corners of each"
    if priors.kind != "boxes" and not grids:
        yield "priors.grids: missing; state rows and columns of each grid, or output.strides"
    if priors.kind == "levels" and len(priors.sizes) != grids:
        yield (
            f"priors.sizes: expected a list for each grid (found {len(priors.sizes)} lists, "
            f"{grids} grids)"
        )


def _is_finite(value: object) -> bool:
    """Return whether all numbers in a value are finite; YAML has .nan and .inf."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _choices(kind: object) -> str:
    return ", ".join(getattr(kind, "__args__", ()))
