"""Prior boxes over the input, to which the offsets of SSD and its kind refer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.boxes.anchors import (
    AnchorLevel,
    blazeface_anchors,
    cells_of,
    shape_of,
    tf_ssd_shapes,
    tile,
)
from models.boxes.forms import from_xyxy
from models.output_layout import OutputLayout


def prior_boxes(layout: OutputLayout, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the priors (N, 4): centre, width and height in pixels of the input.

    Args:
        layout: layout with `priors`.
        size: width and height of the input in pixels.
    """
    priors = layout.priors
    assert priors is not None, "only layouts with priors have prior boxes"
    sides = np.array(size * 2, np.float32)
    if priors.kind == "boxes":
        corners = np.array(priors.boxes, np.float32).reshape(-1, 4) * sides
        return np.asarray(from_xyxy(corners, "cxcywh"), np.float32)
    if priors.kind == "blazeface":
        return blazeface_anchors(size, layout.strides) * sides
    cells = [(columns, rows) for rows, columns in priors.grids] or [
        cells_of(size, stride, "ceil") for stride in layout.strides
    ]
    if priors.kind == "ssd":
        square = tf_ssd_shapes(
            len(cells),
            priors.min_scale,
            priors.max_scale,
            priors.ratios,
            reduce_lowest=priors.reduce_first,
        )
        # Scales are parts of the shorter side (multiple_grid_anchor_generator.py of the API).
        across, down = (min(size) / side for side in size)
        shapes = [[(w * across, h * down) for w, h in own] for own in square]
    else:
        shapes = [
            [
                (w / size[0], h / size[1])
                for side in own
                for w, h in _with_ratios(side, priors.ratios)
            ]
            for own in priors.sizes
        ]
    levels = [AnchorLevel(own, of, None) for own, of in zip(cells, shapes, strict=True)]
    return tile(levels) * sides


def _with_ratios(side: float, ratios: tuple[float, ...]) -> list[tuple[float, float]]:
    return [shape_of(side, ratio) for ratio in ratios]
