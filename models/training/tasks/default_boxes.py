"""Default boxes for a data set: what k-means makes of the boxes of the training views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.anchors import Shape, ssd_scales, ssd_shapes
from models.boxes.kmeans import kmeans_anchors, per_level
from models.training.features import Views
from models.training.tasks.detect import truth_of_view

MAX_BOXES = 4000
"""Boxes that are grouped, at most."""


class DefaultBoxes(NamedTuple):
    """Default boxes of some maps."""

    shapes: Sequence[Sequence[Shape]]
    """Width and height in pixels of the input, of each map."""
    note: str
    """Finding for the report."""
    chart: tuple[Sequence[float], Sequence[float]]
    """Numbers of default boxes, and the mean IoU with the best of them."""


def sizes_of(views: Views) -> NDArray[np.float64]:
    """Return the sizes (N, 2) of the boxes of views, in pixels of the input."""
    step = max(1, sum(len(image.objects) for image in views.images) * views.count // MAX_BOXES)
    found = [np.zeros((0, 2))]
    for row in range(0, len(views), step):
        boxes = truth_of_view(views.images[row // views.count], views.view(row))["boxes"]
        found.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(found)


def default_boxes(sizes: NDArray[np.float64], levels: int, count: int, size: int) -> DefaultBoxes:
    """Make default boxes for maps, the smallest for the first.

    Args:
        sizes: (N, 2) of the boxes of the data set, in pixels of the input.
        levels: number of maps, finest first.
        count: number of default boxes on all maps together.
        size: side of the input in pixels.
    """
    counts = sorted({max(1, count // 2), count, 2 * count})
    different = len(np.unique(sizes, axis=0))
    count = max(count, levels)
    if different < count:
        scales = [scale * size for scale in ssd_scales(levels)]
        shapes = ssd_shapes(scales, [[2.0]] * levels)
        note = (
            f"default boxes are those of the paper: the training images have {different} sizes of "
            f"boxes, too few for {count}"
        )
        return DefaultBoxes(shapes, note, ([], []))
    clusters = {k: kmeans_anchors(sizes, k) for k in sorted({*counts, count}) if k <= different}
    shapes = per_level(clusters[count].sizes, levels)
    shown = "; ".join(", ".join(f"{w:.0f} x {h:.0f}" for w, h in own) for own in shapes)
    note = (
        f"default boxes in pixels, of each map: {shown}; by k-means on the boxes of the training "
        f"images, mean IoU with the best {clusters[count].mean_iou:.2f}"
    )
    chart = list(clusters), [found.mean_iou for found in clusters.values()]
    return DefaultBoxes(shapes, note, chart)
