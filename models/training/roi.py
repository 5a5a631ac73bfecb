"""Features of regions: a grid of cells for each box, read from the map of its picture.

RoI pooling (Girshick, "Fast R-CNN", ICCV 2015, section 2.1) takes the largest value of each cell,
with the box rounded to cells of the map. RoIAlign (He et al., "Mask R-CNN", ICCV 2017, section 3)
rounds nothing: a cell is the mean of points, each interpolated between its four neighbours.

Both give what onnxruntime gives for the operators MaxRoiPool and RoiAlign, and an exported model
(`torch.onnx`, dynamo) has these operators in their place, as its other computations would be slow
there. No gradient reaches the boxes: as in Fast R-CNN, they are where features are read, not what
is learned there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from models.training.export_operator import operator

OPSET = 16
"""Version of the operators: the first RoiAlign whose boxes are in pixels with centres at 0.5."""


class RoiGrid(NamedTuple):
    """Cells of a region, and the map that they are read from."""

    height: int
    """Number of cells down."""
    width: int
    """Number of cells across."""
    stride: float
    """Pixels of the picture per value of the map."""
    points: int = 2
    """Points per cell along each side, of `roi_align` only."""


def roi_align(maps: Tensor, boxes: Tensor, image_of: Tensor, grid: RoiGrid) -> Tensor:
    """Read the features of regions without rounding their boxes.

    A point more than one value of the map outside it counts as 0.

    Args:
        maps: (N, C, H, W) features, a map for each picture.
        boxes: (K, 4) float32 xyxy in px of the pictures, of any size and place.
        image_of: (K,) int64, the picture of each box.
        grid: the cells.

    Returns:
        (K, C, grid.height, grid.width) of the dtype of the maps.
    """
    if torch.onnx.is_in_onnx_export():
        attributes = {
            "mode": "avg",
            "output_height": grid.height,
            "output_width": grid.width,
            "sampling_ratio": grid.points,
            "spatial_scale": 1 / grid.stride,
            "coordinate_transformation_mode": "half_pixel",
        }
        return _operator("RoiAlign", (maps, boxes, image_of), attributes, grid)
    _, channels, height, width = maps.shape
    left, top, right, bottom = (boxes.detach().float() * (1 / grid.stride) - 0.5).unbind(1)
    rows, row_weights = _neighbours(top, bottom - top, grid.height, grid.points, height)
    columns, column_weights = _neighbours(left, right - left, grid.width, grid.points, width)
    # The values that a cell is a weighted sum of: (K, cells down, cells across, rows, columns).
    first = (image_of * height)[:, None, None]
    places = ((first + rows) * width)[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    taps = (2 * grid.points) ** 2
    values = F.embedding_bag(
        places.reshape(-1, taps),
        _rows_of(maps),
        mode="sum",
        per_sample_weights=weights.reshape(-1, taps).to(maps.dtype),
    )
    return _cells_of(values, grid, channels)


def roi_max_pool(maps: Tensor, boxes: Tensor, image_of: Tensor, grid: RoiGrid) -> Tensor:
    """Read the largest feature of each cell of regions.

    A box is rounded to whole values of the map and has one at least; of a region smaller than the
    grid, several cells share values. A cell outside the map is 0.

    Args:
        maps: (N, C, H, W) features, a map for each picture.
        boxes: (K, 4) float32 xyxy in px of the pictures, of any size and place.
        image_of: (K,) int64, the picture of each box.
        grid: the cells.

    Returns:
        (K, C, grid.height, grid.width) of the dtype of the maps. Of equal values of a cell, one has
        its gradient.
    """
    if torch.onnx.is_in_onnx_export():
        rois = torch.cat([image_of[:, None].to(boxes.dtype), boxes], dim=1)
        attributes = {
            "pooled_shape": [grid.height, grid.width],
            "spatial_scale": 1 / grid.stride,
        }
        return _operator("MaxRoiPool", (maps, rois), attributes, grid)
    number, channels, height, width = maps.shape
    # Half away from 0, as C rounds; torch rounds it to the even number.
    scaled = boxes.detach().float() * (1 / grid.stride)
    left, top, right, bottom = (scaled.sign() * (scaled.abs() + 0.5).floor()).unbind(1)
    rows, row_levels, has_rows = _windows(top, bottom, grid.height, height)
    columns, column_levels, has_columns = _windows(left, right, grid.width, width)
    across = 1 + int(column_levels.max()) if len(boxes) else 1
    down = 1 + int(row_levels.max()) if len(boxes) else 1
    table = _rows_of(_maxima(maps, down, across))
    # A cell is covered by four windows, which may overlap.
    levels = row_levels[:, :, None] * across + column_levels[:, None, :]
    first = (levels * number + image_of[:, None, None]) * height
    places = [(first + y[:, :, None]) * width + x[:, None, :] for y in rows for x in columns]
    largest = F.embedding_bag(torch.stack(places, dim=-1).reshape(-1, 4), table, mode="max")
    filled = (has_rows[:, :, None] & has_columns[:, None, :]).reshape(-1, 1)
    return _cells_of(torch.where(filled, largest, 0), grid, channels)


def _neighbours(
    start: Tensor, length: Tensor, cells: int, points: int, side: int
) -> tuple[Tensor, Tensor]:
    """Find the values of a map that each cell of regions reads, along one side.

    Args:
        start: (K,) first edge of the regions, in values of the map.
        length: (K,) of the regions, in values of the map.
        cells: number of cells.
        points: number of points per cell.
        side: number of values of the map.

    Returns:
        places (K, cells, 2 * points) int64, and the weight of each.
    """
    size = (length / cells)[:, None, None]
    cell = torch.arange(cells, device=start.device)[:, None]
    point = torch.arange(points, device=start.device) + 0.5
    # In the order of onnxruntime's sum, so that its rounding is the same.
    at = start[:, None, None] + cell * size + point * size / points
    inside = (at >= -1) & (at <= side)
    at = at.clamp(0, side - 1)
    low = at.floor()
    part = at - low
    places = torch.stack([low, (low + 1).clamp(max=side - 1)], dim=-1).long()
    weights = torch.stack([1 - part, part], dim=-1) * inside[..., None] / points
    shape = (len(start), cells, 2 * points)
    return places.reshape(shape), weights.reshape(shape)


def _windows(
    first: Tensor, last: Tensor, cells: int, side: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Find two windows that together cover each cell of regions, along one side.

    Args:
        first: (K,) first value of the map in the regions, a whole number.
        last: (K,) last value of the map in the regions.
        cells: number of cells.
        side: number of values of the map.

    Returns:
        first values of the two windows, (K, cells) int64 each; the level of both, of length
        2 ** level; and whether the cell has any value of the map.
    """
    steps = torch.arange(cells, device=first.device)
    size = ((last - first + 1).clamp(min=1) / cells)[:, None]
    start = (first[:, None] + (steps * size).floor()).clamp(0, side).long()
    end = (first[:, None] + ((steps + 1) * size).ceil()).clamp(0, side).long()
    length = end - start
    levels = torch.frexp(length.clamp(min=1).float()).exponent.long() - 1
    start = start.clamp(max=side - 1)
    return (start, torch.maximum(end - 2**levels, start)), levels, length > 0


def _maxima(maps: Tensor, down: int, across: int) -> Tensor:
    """Compute the largest value of each window whose sides are powers of 2.

    The maximum of any rectangle is then that of four windows (a sparse table: Bender &
    Farach-Colton, "The LCA Problem Revisited", LATIN 2000, section 3), so a region costs the same
    whatever its size. Windows that leave the map hold values of its other side, and are not used.

    Args:
        maps: (N, C, H, W).
        down: number of levels of heights 1, 2, 4, ...
        across: number of levels of widths.

    Returns:
        (down * across * N, C, H, W): at each place, the window that begins there.
    """
    table = []
    for row_level in range(down):
        if row_level:
            maps = torch.maximum(maps, maps.roll(-(2 ** (row_level - 1)), dims=2))
        wide = maps
        for level in range(across):
            if level:
                wide = torch.maximum(wide, wide.roll(-(2 ** (level - 1)), dims=3))
            table.append(wide)
    return torch.cat(table)


def _rows_of(maps: Tensor) -> Tensor:
    """Return maps (N, C, H, W) as rows of features, (N * H * W, C)."""
    # Rows that are not contiguous in memory are read ten times more slowly.
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()


def _cells_of(values: Tensor, grid: RoiGrid, channels: int) -> Tensor:
    """Return rows of features, one per cell, as grids (K, C, height, width)."""
    return values.reshape(-1, grid.height, grid.width, channels).permute(0, 3, 1, 2)


def _operator(
    name: str, inputs: Sequence[Tensor], attributes: Mapping[str, Any], grid: RoiGrid
) -> Tensor:
    """Return an operator of ONNX for the graph that is exported, with an output of K grids."""
    maps, boxes = inputs[:2]
    shape = (boxes.shape[0], maps.shape[1], grid.height, grid.width)
    return operator(name, inputs, attributes, maps.new_zeros(shape), OPSET)
