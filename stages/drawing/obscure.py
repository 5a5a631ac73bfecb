"""Ways to make a part of an image unrecognisable, in place.

What is left of a part does not depend on its size in pixels: a face is as hard to recognise in a
close-up as far away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Method = Literal["pixelate", "gauss", "fill"]
Pixels = NDArray[np.uint8]

CELLS = 6
"""Cells along the longer side of a part. Of a face 36 colours are left, of a licence plate 12, in
which a person recognises no one and reads nothing. A network that was trained on images hidden in
the same way may still tell apart the people it was trained on (McPherson et al., "Defeating Image
Obfuscation with Deep Learning", 2016); only `fill` leaves nothing."""
MIN_CELL_PX = 8
"""Smallest side of a cell: what is a few pixels wide becomes one colour."""
SAMPLES = 8
"""Pixels along the side of a cell that are looked at: enough for its mean, and much faster."""
SIGMA = 4
"""Standard deviation of the Gaussian in pixels of the reduced part, in which a cell has as many."""
GREY = 48


def pixelate(part: Pixels) -> None:
    """Replace each cell by its mean colour."""
    height, width = part.shape[:2]
    cell_px = _cell_px(part)
    cells = max(1, width // cell_px), max(1, height // cell_px)
    means = cv2.resize(_samples(part, cell_px), cells, interpolation=cv2.INTER_AREA)
    part[...] = cv2.resize(means, (width, height), interpolation=cv2.INTER_NEAREST)


def gauss(part: Pixels) -> None:
    """Blur with a Gaussian whose standard deviation is one cell; nothing from outside comes in."""
    height, width = part.shape[:2]
    cell_px = _cell_px(part)
    size = max(1, width * SIGMA // cell_px), max(1, height * SIGMA // cell_px)
    small = cv2.resize(_samples(part, cell_px), size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), SIGMA, borderType=cv2.BORDER_REPLICATE)
    part[...] = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def fill(part: Pixels) -> None:
    """Fill with one grey."""
    part[...] = GREY


METHODS: Mapping[Method, Callable[[Pixels], None]] = {
    "pixelate": pixelate,
    "gauss": gauss,
    "fill": fill,
}
"""Value of the setting `method` -> function that changes (H, W, 3) uint8 pixels in place; they may
be a view of an image, and have at least one pixel."""


class Patch:
    """A polygon in images of one size.

    Args:
        corners: (N, 2) x and y as fractions of the width and height.
        width: of the images in px.
        height: of the images in px.
    """

    def __init__(self, corners: NDArray[np.float64], width: int, height: int) -> None:
        size = np.array((width, height))
        points = np.clip(np.rint(corners * size), 0, size - 1).astype(np.int32)
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [points], 1)
        # One pixel wider, as a side may cut its pixels.
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.uint8, copy=False)
        x, y, wide, high = cv2.boundingRect(mask)
        self._place = np.s_[y : y + high, x : x + wide]
        self._mask = mask[self._place].astype(np.bool_)[..., None]
        self._is_rectangle = bool(self._mask.all())

    def hide(self, image: Pixels, method: Method) -> None:
        """Make the polygon in an image unrecognisable."""
        part = image[self._place]
        if self._is_rectangle:
            METHODS[method](part)
            return
        changed = part.copy()
        METHODS[method](changed)
        np.copyto(part, changed, where=self._mask)


def _cell_px(part: Pixels) -> int:
    return max(MIN_CELL_PX, -(-max(part.shape[:2]) // CELLS))


def _samples(part: Pixels, cell_px: int) -> Pixels:
    """Return every few pixels of a part."""
    step = max(1, cell_px // SAMPLES)
    return np.ascontiguousarray(part[::step, ::step])
