"""Contradictions in the layout of a model's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from models.output_layout import (
    BOXES,
    COLUMNS,
    DETAILS,
    OF_IMAGE,
    ON_GRID,
    TOGETHER,
    UNREAD,
    WHOLE,
    WIDE,
    Coding,
    Keypoints,
    OutputLayout,
    Priors,
    kind_of_boxes,
    widths_of,
)

SIDES = frozenset().union(*BOXES)
"""Columns of boxes."""


def problem(layout: OutputLayout) -> str | None:
    """Return what contradicts itself in a layout, with the key in front; None: nothing does."""
    return next(_problems(layout), None)


def _problems(layout: OutputLayout) -> Iterator[str]:
    yield from _in_columns(layout)
    yield from _in_outputs(layout)
    kind = kind_of_boxes(layout)
    on_grid = kind in ("distances", "bins") or layout.coding in ON_GRID
    yield from _in_boxes(layout, kind, on_grid)
    yield from _in_details(layout, kind)
    yield from _in_keypoints(layout)
    if layout.priors is not None:
        yield from _in_priors(layout.priors, len(layout.strides))
    for key, value in msgspec.to_builtins(layout).items():
        if not _is_finite(value):
            yield f"{key}: expected finite numbers (found {value}); write others"


def _in_columns(layout: OutputLayout) -> Iterator[str]:
    widths = widths_of(layout)
    for name, columns in layout.outputs.items():
        where = f"outputs.{name}"
        for column in columns:
            if column not in COLUMNS:
                known = ", ".join(sorted(COLUMNS))
                yield f"{where}: unknown column (found {column!r}); use {known}"
            if column in WHOLE and len(columns) > 1:
                yield f"{where}: {column} has to be the only column of its output"
        wide = [column for column in columns if column in WIDE and column not in widths]
        if "keypoints" in wide and len(wide) > 1:
            yield f"keypoints.count: missing; {name} has keypoints beside {wide[0]}"
        elif len(wide) > 1 and wide not in TOGETHER:
            yield (
                f"{where}: the lengths of {' and '.join(wide)} do not show beside each other; only "
                "scores may be in front of rest, or beside bins; use skip"
            )
        single = [column for column in columns if column != "skip"]
        if len(set(single)) < len(single):
            yield f"{where}: a column is there twice; name each once, or write skip"


def _in_outputs(layout: OutputLayout) -> Iterator[str]:
    groups = set(layout.outputs.values())
    everything = {column for columns in groups for column in columns}
    for column in sorted(everything - {"skip", "rest"}):
        if sum(column in columns for columns in groups) > 1:
            yield f"outputs: column {column} is in outputs with different columns; keep one of them"
    found = [columns for columns in layout.outputs.values() if not set(columns) <= UNREAD]
    levels = sorted({found.count(columns) for columns in found})
    if len(levels) > 1:
        yield f"outputs: expected as many of each kind, one per grid (found {levels})"
    of_image = sorted(everything & set(OF_IMAGE))
    if of_image:
        if len(of_image) > 1 or everything - {"skip", "rest", *of_image}:
            shown = ", ".join(sorted(everything))
            yield f"outputs: {of_image[0]} has to be alone (found {shown}); write rest for others"
        return
    if everything <= {"scores", "skip", "rest"} and "scores" in everything:
        return
    only_points = "keypoints" in everything and not everything & SIDES
    if kind_of_boxes(layout) is None and not only_points:
        yield (
            "outputs: the columns are not those of one kind of boxes (found "
            f"{', '.join(sorted(everything)) or 'none'}); use, for example, x1 y1 x2 y2"
        )
    number = len({"scores", "score"} & everything)
    if number != 1 and not (only_points and number == 0):
        yield "outputs: expected either scores (one per class) or score (of the class in `class`)"


def _in_details(layout: OutputLayout, kind: str | None) -> Iterator[str]:
    everything = {column for columns in layout.outputs.values() for column in columns}
    if "angle" in everything and kind != "centre":
        yield "outputs: angle needs the columns cx cy w h; add them"
    pair = {"coefficients", "prototypes"} & everything
    if len(pair) == 1:
        missing = "prototypes" if "coefficients" in pair else "coefficients"
        yield f"outputs: {pair.pop()} has no use without {missing}; name its output"
    if "masks" in everything and pair:
        yield "outputs: masks and coefficients are both there; keep one of them"
    tasks = {DETAILS[column] for column in everything & set(DETAILS)}
    if "oriented" in tasks and len(tasks) > 1:
        yield "outputs: angle cannot be beside keypoints or masks; write skip, or rest, for them"


def _in_keypoints(layout: OutputLayout) -> Iterator[str]:
    points = layout.keypoints
    everything = {column for columns in layout.outputs.values() for column in columns}
    if points != Keypoints() and "keypoints" not in everything:
        yield "keypoints: has no use without the column keypoints; remove it"
        return
    if points.count is not None and points.names and len(points.names) != points.count:
        yield (
            f"keypoints.names: expected {points.count} names, as `count` says (found "
            f"{len(points.names)}); correct one of the two"
        )
    for name in ("x", "y", "score"):
        if points.values.count(name) > 1 or (name != "score" and name not in points.values):
            yield (
                f"keypoints.values: expected x and y, and at most one score (found "
                f"{' '.join(points.values)}); correct it"
            )
    count = points.count or len(points.names) or None
    for edge in points.edges:
        if edge[0] == edge[1] or min(edge) < 0 or (count is not None and max(edge) >= count):
            yield (
                f"keypoints.edges: expected two different points from 0 to "
                f"{'their number' if count is None else count - 1} (found {list(edge)}); correct it"
            )
    if points.units == "priors" and layout.priors is None:
        yield "keypoints.units: priors have no use without `priors`; choose another"
    if points.units == "box" and kind_of_boxes(layout) is None:
        yield "keypoints.units: box has no use without the columns of a box; choose another"
    if points.units == "cells" and not layout.strides:
        yield "keypoints.units: cells need `strides`; add them"


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
