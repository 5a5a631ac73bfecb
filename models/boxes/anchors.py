"""Anchors: the boxes, or points, of a detector's output rows, before it moves and scales them.

Anchors are (N, 4) float32 `cx, cy, w, h`, since decoding needs centre and size. Their order is the
usual one of exported models: level by level, row by row of cells from the top, from left to right,
and all shapes of a cell together. A ratio is width / height; some sources state height / width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[float, float]
"""Width and height of an anchor."""
Anchors = NDArray[np.float32]
"""(N, 4) cx, cy, w, h."""
Rounding = Literal["floor", "ceil"]
"""How many cells a stride has where it does not divide the image: with or without a last part."""


class AnchorLevel(NamedTuple):
    """The anchors of one feature map."""

    cells: tuple[int, int]
    """Number of cells across and down."""
    shapes: Sequence[Shape]
    """The shapes in each cell, in the unit of the anchors: pixels, or parts of the image."""
    pitch: tuple[float, float] | None = None
    """Distance of centres along x and y, in the same unit; None: cells divide the image, of side
    1."""


class Grid(NamedTuple):
    """Points of grids of several strides, one for each row of an output."""

    points: NDArray[np.float32]
    """(N, 2) x and y in px."""
    strides: NDArray[np.float32]
    """(N,) in px."""


class AnchorGrid(NamedTuple):
    """Cells of grids of several strides with the anchors of each, one for each row of an output."""

    points: NDArray[np.float32]
    """(N, 2) top left corner of the cell in px."""
    strides: NDArray[np.float32]
    """(N,) in px."""
    sizes: NDArray[np.float32]
    """(N, 2) width and height of the anchor in px."""


def tile(levels: Sequence[AnchorLevel], offset: float = 0.5) -> Anchors:
    """Place the shapes of each level in each of its cells.

    Args:
        levels: feature maps, in the order of the model's output.
        offset: place of the centre in a cell, 0 at its top left corner, 0.5 in its middle.

    Returns:
        (N, 4) cx, cy, w, h.
    """
    parts = [np.zeros((0, 4))]
    for (across, down), shapes, pitch in levels:
        step_x, step_y = pitch or (1 / across, 1 / down)
        y, x = np.mgrid[:down, :across]
        level = np.empty((down, across, len(shapes), 4))
        level[..., 0] = ((x + offset) * step_x)[..., None]
        level[..., 1] = ((y + offset) * step_y)[..., None]
        level[..., 2:] = np.reshape(shapes, (-1, 2))
        parts.append(level.reshape(-1, 4))
    return np.concatenate(parts).astype(np.float32)


def shape_of(scale: float, ratio: float) -> Shape:
    """Return width and height of the area scale² and the ratio width / height."""
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)


def ssd_scales(levels: int, low: float = 0.2, high: float = 0.9) -> list[float]:
    """Compute the scales of SSD's levels as parts of the image.

    Args:
        levels: number of feature maps.
        low: scale of the first one.
        high: scale of the last one.

    Returns:
        A scale per level, at equal distances (Liu et al., "SSD: Single Shot MultiBox Detector",
        ECCV 2016, equation 4), and the next one, for the extra prior of the last level.
    """
    step = (high - low) / (levels - 1) if levels > 1 else 0.0
    return [low + step * level for level in range(levels + 1)]


def ssd_shapes(scales: Sequence[float], ratios: Sequence[Sequence[float]]) -> list[list[Shape]]:
    """Make the shapes of SSD's priors (Liu et al., ECCV 2016, section 2.2).

    A level has a square of its scale, a square of the geometric mean of its scale and the next
    one, and for each ratio a box of it and one of its inverse, as in the authors' models.

    Args:
        scales: one per level, and the next one, such as `ssd_scales`, or sizes in px.
        ratios: per level, those that are above 1: [[2], [2, 3], ...].

    Returns:
        The shapes of each level.
    """
    levels = []
    for (scale, above), own in zip(itertools.pairwise(scales), ratios, strict=True):
        shapes = [shape_of(scale, 1), shape_of(math.sqrt(scale * above), 1)]
        shapes += [shape_of(scale, r) for ratio in own for r in (ratio, 1 / ratio)]
        levels.append(shapes)
    return levels


def tf_ssd_shapes(
    levels: int = 6,
    low: float = 0.2,
    high: float = 0.95,
    ratios: Sequence[float] = (1, 2, 0.5, 3, 0.3333),
    extra_ratio: float | None = 1.0,
    reduce_lowest: bool = True,
) -> list[list[Shape]]:
    """Make the shapes of SSD in the TensorFlow Object Detection API (`ssd_anchor_generator`).

    Args:
        levels: number of feature maps.
        low: scale of the first one.
        high: scale of the last one.
        ratios: of each level; the published settings state 0.3333 in place of 1/3.
        extra_ratio: ratio of the extra prior, of the geometric mean of two scales; None: no extra.
        reduce_lowest: whether the first level has three shapes only
            (`reduce_boxes_in_lowest_layer`): a square of scale 0.1, and the ratios 2 and 1/2.

    Returns:
        The shapes of each level.
    """
    scales = [*ssd_scales(levels, low, high)[:-1], 1.0]
    found = []
    for level, (scale, above) in enumerate(itertools.pairwise(scales)):
        if level == 0 and reduce_lowest:
            found.append([shape_of(0.1, 1), shape_of(scale, 2), shape_of(scale, 1 / 2)])
            continue
        shapes = [shape_of(scale, ratio) for ratio in ratios]
        if extra_ratio is not None:
            shapes.append(shape_of(math.sqrt(scale * above), extra_ratio))
        found.append(shapes)
    return found


def octave_shapes(
    size: float,
    octaves: int = 3,
    ratios: Sequence[float | Shape] = (1, 2, 1 / 2),
    order: Literal["scales", "ratios"] = "scales",
) -> list[Shape]:
    """Make the shapes of a level of RetinaNet or EfficientDet.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4: scales
    2^(i / octaves) of a size, 4 strides for both models.

    Args:
        size: of the smallest square in px.
        octaves: number of scales.
        ratios: width / height, or factors of width and height, as EfficientDet's (1.4, 0.7).
        order: "scales": all ratios of the first scale come first, as in EfficientDet; "ratios": all
            scales of the first ratio, as in torchvision's RetinaNet.
    """
    factors = [ratio if isinstance(ratio, tuple) else shape_of(1, ratio) for ratio in ratios]
    scales = [size * 2 ** (i / octaves) for i in range(octaves)]
    if order == "scales":
        return [(scale * w, scale * h) for scale in scales for w, h in factors]
    return [(scale * w, scale * h) for w, h in factors for scale in scales]


def rpn_shapes(sizes: Sequence[float], ratios: Sequence[float] = (2, 1, 1 / 2)) -> list[Shape]:
    """Make the shapes of a region proposal network, with sides rounded as torchvision does.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.1. torchvision rounds half of each
    side, to the even number in the middle, so sides are even numbers of pixels; it states height /
    width, so that its (0.5, 1, 2) is the default here, and its centres have an offset of 0.

    Args:
        sizes: square roots of the areas in px.
        ratios: width / height; all sizes of the first ratio come first.
    """
    shapes = [shape_of(size, ratio) for ratio in ratios for size in sizes]
    return [(2.0 * round(width / 2), 2.0 * round(height / 2)) for width, height in shapes]


def pyramid_levels(
    size: tuple[int, int],
    strides: Sequence[int],
    shapes: Sequence[Sequence[Shape]],
    rounding: Rounding = "ceil",
) -> list[AnchorLevel]:
    """Make the levels of a pyramid of strides, for `tile`.

    Args:
        size: width and height of the model's input in px.
        strides: of the levels in px.
        shapes: of each level in px.
        rounding: see `Rounding`.
    """
    return [
        AnchorLevel(cells_of(size, stride, rounding), own, (stride, stride))
        for stride, own in zip(strides, shapes, strict=True)
    ]


def blazeface_anchors(
    size: tuple[int, int] = (128, 128),
    strides: Sequence[int] = (8, 16, 16, 16),
    per_layer: int = 2,
) -> Anchors:
    """Make the anchors of BlazeFace and its relatives in MediaPipe, all of one size.

    Source: Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs",
    2019, section 3.2. Layers of equal strides in a row share one grid, as in MediaPipe.

    Args:
        size: width and height of the model's input in px.
        strides: of the layers in px; (8, 16, 16, 16) is the model for short range.
        per_layer: number of anchors per cell of a layer.

    Returns:
        (N, 4) cx, cy, w, h as parts of the image; w and h are 1.
    """
    levels: list[AnchorLevel] = []
    for layer, stride in enumerate(strides):
        cells = cells_of(size, stride, "ceil")
        before = levels.pop().shapes if layer and strides[layer - 1] == stride else []
        levels.append(AnchorLevel(cells, [*before, *[(1.0, 1.0)] * per_layer]))
    return tile(levels)


def grid_points(
    size: tuple[int, int],
    strides: Sequence[int],
    offset: float = 0.5,
    rounding: Rounding = "floor",
) -> Grid:
    """Make the points of grids that cover an image.

    Args:
        size: width and height of the model's input in px.
        strides: of the grids in px.
        offset: place of the point in a cell: 0.5 for FCOS and YOLOv8, 0 for YOLOX.
        rounding: see `Rounding`.
    """
    levels = [
        AnchorLevel(cells_of(size, stride, rounding), [(stride, stride)], (stride, stride))
        for stride in strides
    ]
    table = tile(levels, offset)
    return Grid(table[:, :2], table[:, 2])


def anchor_grid(
    size: tuple[int, int],
    strides: Sequence[int],
    shapes: Sequence[Sequence[Shape]],
    order: Literal["anchors", "cells"] = "anchors",
) -> AnchorGrid:
    """Make the cells and anchors of YOLOv3, YOLOv4, YOLOv5 and YOLOv7.

    Args:
        size: width and height of the model's input in px.
        strides: of the grids in px.
        shapes: the anchors of each grid in px.
        order: "anchors": all cells of a grid with its first anchor come first, as in outputs
            [A, H, W, 5+C]; "cells": all anchors of a cell together, as in [H, W, A, 5+C].
    """
    parts = [np.zeros((0, 5))]
    for stride, own in zip(strides, shapes, strict=True):
        across, down = cells_of(size, stride, "floor")
        y, x = np.mgrid[:down, :across] * stride
        level = np.empty((down, across, len(own), 5))
        level[..., 0], level[..., 1], level[..., 2] = x[..., None], y[..., None], stride
        level[..., 3:] = np.reshape(own, (-1, 2))
        if order == "anchors":
            level = level.transpose(2, 0, 1, 3)
        parts.append(level.reshape(-1, 5))
    table = np.concatenate(parts).astype(np.float32)
    return AnchorGrid(table[:, :2], table[:, 2], table[:, 3:])


def cells_of(size: tuple[int, int], stride: int, rounding: Rounding) -> tuple[int, int]:
    """Return the number of cells across and down an image of `size` in px."""
    part = stride - 1 if rounding == "ceil" else 0
    return (size[0] + part) // stride, (size[1] + part) // stride
