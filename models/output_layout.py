"""The layout of a model's outputs: which numbers are boxes, scores and classes, and how coded.

A layout is the `output` of a card, or comes from `models/families/presets.yaml`, or is recognised
in the file. Its columns show the task of the model; the families of `models/families` decode by it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from models.proposals.selective_search import SearchSettings

Positive = Annotated[float, Meta(gt=0)]
Column = Annotated[str, Meta(max_length=20)]
Units = Literal["pixels", "fraction", "strides"]
Activation = Literal["none", "sigmoid", "softmax"]
Coding = Literal["ssd", "linear", "yolov3", "yolov5", "yolox", "cells", "centerface"]
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
DETAILS = {
    "angle": "oriented",
    "keypoints": "keypoints",
    "coefficients": "segment",
    "prototypes": "segment",
    "masks": "segment",
}
"""Columns of what a box may have besides -> task of a model that gives it."""
OF_IMAGE = {"embedding": "embed", "score_map": "semantic", "class_map": "semantic"}
"""Columns of outputs about the whole image -> task of the model."""
COLUMNS = frozenset().union(*BOXES, OTHERS, DETAILS, OF_IMAGE)
WHOLE = frozenset({"count", "prototypes", "masks", *OF_IMAGE})
"""Columns that are the only one of their output."""
WIDE = frozenset({"scores", "bins", "rest", "keypoints", "coefficients"})
"""Columns that stand for several numbers."""
TOGETHER = (["scores", "rest"], ["scores", "bins"], ["bins", "scores"])
"""Wide columns of unknown lengths that one output may have."""
UNREAD = frozenset({"skip", "rest", "count", "image", "prototypes", "masks"})
"""Columns whose outputs are not those of a grid."""
BOX_TASKS = ("detect", "localize", "segment", "keypoints", "oriented")
"""Tasks whose answers have boxes."""
ON_GRID = ("yolov3", "yolov5", "yolox", "cells", "centerface")
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


class Keypoints(LayoutPart, frozen=True, kw_only=True):
    """The points of an object: a pose, or the landmarks of a face."""

    count: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """Number of points; null: from `names`, else from the file."""
    values: Annotated[tuple[Literal["x", "y", "score", "skip"], ...], Meta(min_length=2)] = (
        "x",
        "y",
        "score",
    )
    """Numbers of each point, in order."""
    units: Literal["pixels", "fraction", "cells", "priors", "box"] = "pixels"
    """Units of x and y: pixels of the input, fractions of its sides, strides from the point of the
    cell, as the offsets of a box from its prior, or fractions of the box from its corner."""
    activation: Literal["none", "sigmoid"] = "none"
    """Function that turns the scores of points into 0 to 1; none: they are."""
    names: tuple[Annotated[str, Meta(max_length=100)], ...] = ()
    """Name of each point; empty: unknown."""
    edges: Annotated[tuple[tuple[int, int], ...], Meta(max_length=1000)] = ()
    """Pairs of points, by number from 0, between which a line is drawn."""


class Masks(LayoutPart, frozen=True, kw_only=True):
    """The masks of objects."""

    coefficients: Annotated[int, Meta(ge=1, le=4096)] = 32
    """Numbers of the column `coefficients`: the channels of `prototypes`."""
    activation: Literal["none", "sigmoid"] = "none"
    """Function that turns the numbers of `masks` into 0 to 1; none: they are. That of prototypes
    is always the sigmoid."""
    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    """Value above which a pixel is inside."""
    over: Literal["auto", "box", "image"] = "auto"
    """Place of each of the `masks`: over the box of its object, or over the input; auto: over the
    input if a mask has its size."""


class OutputLayout(LayoutPart, frozen=True, kw_only=True):
    """The layout of a model's outputs. Only `outputs` is required."""

    outputs: Annotated[dict[str, tuple[Column, ...]], Meta(min_length=1, max_length=64)]
    """Name of an output -> its columns: x1 y1 x2 y2 (corners), cx cy w h (centre and size), x y w h
    (top left corner and size), left top right bottom (distances from a point of the grid), dx dy dw
    dh (offsets, see `coding`), bins (distances as distributions), score (of the class that `class`
    gives), scores (one per class), objectness, class, image (number of the image in the batch),
    count (of valid rows), skip (one column that is not used), rest (all that follow). Besides a
    box: angle, keypoints (see `keypoints`), coefficients of its mask (with an output of
    prototypes), or an output of masks. Without boxes: scores alone (a classifier), embedding, and
    score_map or class_map (a class for each pixel). Outputs with the same columns are the levels of
    a grid."""
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
    angle: Literal["radians", "degrees"] = "radians"
    """Unit of the column `angle`, which grows clockwise on the screen."""
    keypoints: Keypoints = Keypoints()
    """The points of an object, where there is a column `keypoints`."""
    masks: Masks = Masks()
    """The masks of objects, where there is an output of them."""
    inputs: dict[str, Fixed | tuple[float, ...]] = {}
    """Further inputs of the model -> their value: size_hw or size_wh (height and width of the
    input), ones, or numbers."""
    proposals: SearchSettings = SearchSettings()
    """Selective search that makes the input `proposals` of a model of the family rcnn."""


def task_of(layout: OutputLayout) -> str:
    """Return the task of a model by the columns of its outputs."""
    found = {column for columns in layout.outputs.values() for column in columns}
    for column, task in (*OF_IMAGE.items(), *DETAILS.items()):
        if column in found:
            return task
    return "detect" if kind_of_boxes(layout) is not None else "classify"


def widths_of(layout: OutputLayout) -> dict[str, int]:
    """Return the columns that stand for a known number of numbers -> that number."""
    found = {"coefficients": layout.masks.coefficients}
    points = layout.keypoints
    count = points.count or len(points.names)
    if count:
        found["keypoints"] = count * len(points.values)
    return found


def without_details(layout: OutputLayout) -> OutputLayout:
    """Return the layout of the boxes alone: further columns are skipped, as far as they show."""
    widths = widths_of(layout)
    outputs: dict[str, tuple[str, ...]] = {}
    for name, columns in layout.outputs.items():
        if columns[0] in WHOLE and columns[0] in DETAILS:
            outputs[name] = ("rest",)
        elif columns[-1] in DETAILS and columns[-1] != "angle":
            outputs[name] = (*columns[:-1], "rest")
        else:
            outputs[name] = tuple(
                part
                for column in columns
                for part in (("skip",) * widths.get(column, 1) if column in DETAILS else (column,))
            )
    return msgspec.structs.replace(layout, outputs=outputs)


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
