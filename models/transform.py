"""The one place where captured pixels become model pixels, and model boxes captured boxes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Resize = Literal["letterbox", "stretch", "crop", "none"]
"""letterbox: keep the aspect ratio and pad; stretch: fill the input; crop: keep the aspect ratio
and cut the longer sides; none: no resizing."""
Anchor = Literal["centre", "top_left"]
"""Position of a letterboxed image in the input."""


class Rect(NamedTuple):
    """Position of the resized image in the model's input, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Transform(NamedTuple):
    """Affine map per axis: model pixel = captured pixel * scale + pad.

    Pixels are areas: a captured image reaches from 0 to its width, and so does a box around all
    of it.
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float
    width: int
    """Width of the captured image in pixels."""
    height: int
    """Height of the captured image in pixels."""

    @classmethod
    def of(cls, array: NDArray[np.float64], width: int, height: int) -> Transform:
        """Make the transform again from its `array` and the size of the captured image."""
        scale_x, scale_y, pad_x, pad_y = array.tolist()
        return cls(scale_x, scale_y, pad_x, pad_y, width, height)

    @property
    def array(self) -> NDArray[np.float64]:
        """The array (4,) of scale_x, scale_y, pad_x, pad_y, which travels with the frame."""
        return np.array(self[:4])

    def apply(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes (N, 4) xyxy from captured pixels to model pixels."""
        return (boxes * self._scale + self._pad).astype(np.float32)

    def invert(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert boxes (N, 4) xyxy from model pixels to captured pixels, clipped to the image."""
        out = (boxes - self._pad) / self._scale
        np.clip(out[:, 0::2], 0, self.width, out=out[:, 0::2])
        np.clip(out[:, 1::2], 0, self.height, out=out[:, 1::2])
        return out.astype(np.float32)

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    @property
    def _pad(self) -> NDArray[np.float64]:
        return np.array([self.pad_x, self.pad_y, self.pad_x, self.pad_y])


def part_of(width: int, height: int, size: tuple[int, int], crop: float) -> Rect:
    """Return the part of an image that `resize: crop` keeps: of the input's shape, in the middle.

    Args:
        width: width of the image in pixels.
        height: height of the image in pixels.
        size: width and height of the input in pixels.
        crop: part of the shorter side that is kept.
    """
    ratio = max(size[0] / width, size[1] / height) / crop
    across = min(width, max(1, round(size[0] / ratio)))
    down = min(height, max(1, round(size[1] / ratio)))
    return Rect((width - across) // 2, (height - down) // 2, across, down)


def fit(
    width: int,
    height: int,
    size: tuple[int, int],
    resize: Resize,
    anchor: Anchor,
    crop: float = 1.0,
) -> tuple[Transform, Rect]:
    """Fit an image into the model's input.

    Letterboxing rounds as the reference of each convention does, so that the model gets the same
    image as in training: YOLOX (`anchor: top_left`) truncates the resized sides to whole pixels,
    Ultralytics (`centre`) rounds them, and puts the odd pixel of padding at the right or bottom.
    Both convert boxes back by the exact ratio, not by that of the rounded sides.

    Args:
        width: width of the captured image in pixels.
        height: height of the captured image in pixels.
        size: width and height of the input in pixels.
        resize: letterbox, stretch, crop, or none.
        anchor: position of a letterboxed image.
        crop: part of the shorter side that is kept, with `resize: crop`; the part is `part_of`.

    Raises:
        ValueError: `resize` is none and the image does not have the size of the input.
    """
    across, down = size
    if resize == "none":
        if (width, height) != size:
            raise ValueError(
                f"the model takes images of {across}x{down} only (found {width}x{height}); set "
                "another `resize` in its card"
            )
        return Transform(1.0, 1.0, 0.0, 0.0, width, height), Rect(0, 0, width, height)
    if resize == "stretch":
        stretch = Transform(across / width, down / height, 0.0, 0.0, width, height)
        return stretch, Rect(0, 0, across, down)
    if resize == "crop":
        left, top, wide, high = part_of(width, height, size, crop)
        scale_x, scale_y = across / wide, down / high
        return (
            Transform(scale_x, scale_y, -left * scale_x, -top * scale_y, width, height),
            Rect(0, 0, across, down),
        )
    ratio = min(across / width, down / height)
    if anchor == "top_left":
        rect = Rect(0, 0, max(1, int(width * ratio)), max(1, int(height * ratio)))
    else:
        inner_w = max(1, round(width * ratio))
        inner_h = max(1, round(height * ratio))
        rect = Rect((across - inner_w) // 2, (down - inner_h) // 2, inner_w, inner_h)
    return Transform(ratio, ratio, float(rect.left), float(rect.top), width, height), rect
