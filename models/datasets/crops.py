"""The labelled boxes of a data set as pictures of their own, for the training of a classifier."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import DataSet, LabelledImage
from models.datasets.collect import Box


class Crop(NamedTuple):
    """A labelled box of an image."""

    image: LabelledImage
    box: Box
    """x1, y1, x2, y2 in pixels, inside the image."""
    number: int
    """Class: index into the labels of the data set."""


def crops(data: DataSet, min_side_px: float = 0.0) -> list[Crop]:
    """Return the labelled boxes of a data set, in its order, without ignored ones.

    Args:
        data: the data set.
        min_side_px: boxes with a shorter side are left out.
    """
    found = []
    for image in data.images:
        for item in image.objects:
            x1, y1, x2, y2 = item.box
            if not item.ignored and min(x2 - x1, y2 - y1) >= min_side_px:
                found.append(Crop(image, item.box, item.number))
    return found


def cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the pixels of a box, of at least one row and column; a view.

    Args:
        pixels: image, (H, W, C).
        box: x1, y1, x2, y2 in pixels; sides that are no whole numbers are rounded outwards.
    """
    height, width = pixels.shape[:2]
    x1, y1 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
