"""The one place where captured pixels become model pixels, and model boxes captured boxes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Resize = Literal["letterbox", "stretch", "none"]
"""letterbox: keep the aspect ratio and pad; stretch: fill the input; none: no resizing."""
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


def fit(
    width: int, height: int, size: tuple[int, int], resize: Resize, anchor: Anchor
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
        resize: letterbox, stretch, or none.
        anchor: position of a letterboxed image.

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
    ratio = min(across / width, down / height)
    if anchor == "top_left":
        rect = Rect(0, 0, max(1, int(width * ratio)), max(1, int(height * ratio)))
    else:
        inner_w = max(1, round(width * ratio))
        inner_h = max(1, round(height * ratio))
        rect = Rect((across - inner_w) // 2, (down - inner_h) // 2, inner_w, inner_h)
    return Transform(ratio, ratio, float(rect.left), float(rect.top), width, height), rect
