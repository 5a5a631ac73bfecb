"""Augmentation: several views of an image, each moved, zoomed, turned, mirrored and recoloured.

OpenCV transforms the pixels. A view is drawn from its seed, image and number alone, so that it is
the same in every run, in whatever order views are made.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) BGR."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
PAD = 114
"""Value of pixels outside the image."""


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of the changes; a change is drawn evenly between them."""

    mirror: bool = True
    """Whether half of the views are mirrored, left to right."""
    zoom: tuple[Annotated[float, Meta(gt=0, le=8)], Annotated[float, Meta(gt=0, le=8)]] = (0.8, 1.3)
    """Factors of the size of objects, smallest and largest."""
    aspect: Fraction = 0.15
    """Change of width against height."""
    shift: Fraction = 0.1
    """Shift as a part of the side."""
    rotate_deg: Annotated[float, Meta(ge=0, le=180)] = 5.0
    light: Fraction = 0.25
    """Change of brightness and of contrast."""
    colour: Fraction = 0.1
    """Change of each colour channel."""


class View(NamedTuple):
    """One look at an image: moved, zoomed, turned, mirrored and recoloured."""

    matrix: NDArray[np.float64]
    """(2, 3) from pixels of the image to pixels of the input."""
    size: int
    """Side of the input in pixels."""
    gain: NDArray[np.float64]
    """(3,) factor of each channel, BGR."""
    offset: float
    """Added to each pixel."""
    plain: bool
    """Whether the image is only stretched to the input, as the pipeline does."""

    def pixels(self, image: Image) -> Image:
        """Return the input (size, size, 3)."""
        if self.plain:
            return np.asarray(cv2.resize(image, (self.size, self.size)), np.uint8)
        # Without smoothing, a warp to a smaller size takes single pixels. The pipeline resizes so
        # too, and a model has to be trained on the pixels that it will get.
        seen = cv2.warpAffine(
            image,
            _at_centres(self.matrix),
            (self.size, self.size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(PAD, PAD, PAD),
        )
        levels = np.arange(256)[:, None] * self.gain + self.offset
        table = np.clip(levels, 0, 255).round().astype(np.uint8)
        return np.asarray(cv2.LUT(seen, table[:, None, :]), np.uint8)

    def boxes(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return boxes (N, 4) xyxy in pixels of the input: upright, around the turned corners."""
        corners = boxes.reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        moved = corners @ self.matrix[:, :2].T + self.matrix[:, 2]
        sides = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
        return np.asarray(sides, np.float32)

    def mask(self, mask: NDArray[np.uint8], outside: int = 0) -> NDArray[np.uint8]:
        """Return a mask or map of classes (H, W) as (size, size), without new values."""
        if self.plain:
            size = (self.size, self.size)
            return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        seen = cv2.warpAffine(
            mask,
            _at_centres(self.matrix),
            (self.size, self.size),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(outside, outside, outside),
        )
        return np.asarray(seen, np.uint8)


def plain_view(width: int, height: int, size: int) -> View:
    """Return the view of the pipeline: the image stretched to the input."""
    matrix = np.array([[size / width, 0, 0], [0, size / height, 0]])
    return View(matrix, size, np.ones(3), 0.0, True)


def draw_view(
    limits: Augmentation, width: int, height: int, size: int, seed: tuple[int, ...]
) -> View:
    """Draw a view of an image.

    Args:
        limits: limits of the changes.
        width: width of the image in pixels.
        height: height of the image in pixels.
        size: side of the input in pixels.
        seed: seed of the run, number of the image, number of the view.
    """
    random = np.random.default_rng(seed)
    mirrored = bool(limits.mirror and random.random() < 0.5)
    zoom = math.exp(random.uniform(math.log(limits.zoom[0]), math.log(limits.zoom[1])))
    ratio = math.exp(random.uniform(-limits.aspect, limits.aspect) / 2)
    angle = math.radians(random.uniform(-limits.rotate_deg, limits.rotate_deg))
    shift = random.uniform(-limits.shift, limits.shift, 2) * size
    gain = (1 + random.uniform(-limits.light, limits.light)) * (
        1 + random.uniform(-limits.colour, limits.colour, 3)
    )
    offset = random.uniform(-limits.light, limits.light) * 64
    # Stretch to the input, with its centre at 0; then the changes; then back.
    matrix = np.array([[size / width, 0, -size / 2], [0, size / height, -size / 2], [0, 0, 1.0]])
    scale = np.diag([zoom * ratio * (-1 if mirrored else 1), zoom / ratio, 1.0])
    turn = np.eye(3)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    back = np.eye(3)
    back[:2, 2] = size / 2 + shift
    return View((back @ turn @ scale @ matrix)[:2], size, gain, float(offset), False)


def _at_centres(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a matrix for OpenCV, where a pixel's centre and not its corner is at whole numbers."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return moved
