"""Prior boxes over the input, to which the offsets of SSD and its kind refer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.output_layout import OutputLayout, Priors


def prior_boxes(layout: OutputLayout, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the priors (N, 4): centre, width and height in pixels of the input.

    Args:
        layout: layout with `priors`.
        size: width and height of the input in pixels.
    """
    priors = layout.priors
    assert priors is not None, "only layouts with priors have prior boxes"
    if priors.kind == "boxes":
        corners = np.array(priors.boxes, np.float64) * (size * 2)
        sides = corners[:, 2:] - corners[:, :2]
        boxes = np.concatenate([corners[:, :2] + sides / 2, sides], axis=1)
        return np.asarray(boxes, np.float32)
    grids = priors.grids or tuple(
        (math.ceil(size[1] / stride), math.ceil(size[0] / stride)) for stride in layout.strides
    )
    of_grid = _ssd_sides if priors.kind == "ssd" else _level_sides
    found = []
    for number, (rows, columns) in enumerate(grids):
        sides = of_grid(priors, number, len(grids), size)
        y, x = np.mgrid[:rows, :columns]
        centres = np.stack([(x + 0.5) / columns * size[0], (y + 0.5) / rows * size[1]], axis=-1)
        centres = np.repeat(centres.reshape(-1, 2), len(sides), axis=0)
        found.append(np.concatenate([centres, np.tile(sides, (rows * columns, 1))], axis=1))
    return np.asarray(np.concatenate(found), np.float32)


def _ssd_sides(
    priors: Priors, number: int, grids: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return width and height of the priors of a cell, as the TensorFlow API has them.

    Liu et al., section 2.2: scales at equal steps, and one more square prior at the geometric mean
    of a scale and the next. The first grid may have three priors only.
    """
    step = (priors.max_scale - priors.min_scale) / max(1, grids - 1)
    scale = priors.min_scale + step * number
    following = 1.0 if number == grids - 1 else scale + step
    if number == 0 and priors.reduce_first:
        pairs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
    else:
        pairs = [(scale, ratio) for ratio in priors.ratios]
        pairs.append((math.sqrt(scale * following), 1.0))
    return np.array([[s * math.sqrt(r) * size[0], s / math.sqrt(r) * size[1]] for s, r in pairs])


def _level_sides(
    priors: Priors, number: int, grids: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return width and height of the priors of a cell: each size with each ratio."""
    return np.array(
        [
            [side * math.sqrt(ratio), side / math.sqrt(ratio)]
            for side in priors.sizes[number]
            for ratio in priors.ratios
        ]
    )
