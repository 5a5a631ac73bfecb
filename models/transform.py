"""The one place where captured pixels become model pixels, and boxes come back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.card import Anchor, Resize


class Rect(NamedTuple):
    """Where the resized picture lies in the model's input, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Transform(NamedTuple):
    """model pixel = captured pixel * scale + pad, for each axis.

    Pixels are areas: a captured picture reaches from 0 to its width, and so does the box around
    all of it.
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float
    width: int
    """Width of the captured picture in pixels."""
    height: int
    """Height of the captured picture in pixels."""

    @classmethod
    def of(cls, array: NDArray[np.float64], width: int, height: int) -> Transform:
        """From what `array` gave, and the size of the captured picture."""
        scale_x, scale_y, pad_x, pad_y = array.tolist()
        return cls(scale_x, scale_y, pad_x, pad_y, width, height)

    @property
    def array(self) -> NDArray[np.float64]:
        """(4,) scale_x, scale_y, pad_x, pad_y."""
        return np.array(self[:4])

    def apply(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4) xyxy from captured pixels to model pixels."""
        return (boxes * self._scale + self._pad).astype(np.float32)

    def invert(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4) xyxy from model pixels to captured pixels, clipped to the picture."""
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
    """How a picture is fitted into the model's input.

    Letterboxing rounds as the reference of each convention does, so that the model sees the very
    picture it was trained on: YOLOX (`anchor: top_left`) cuts the resized sides off to whole
    pixels, Ultralytics (`centre`) rounds them, and puts the odd pixel of padding behind. Both
    then take boxes back by the exact ratio, not by that of the rounded sides.

    Args:
        width: of the captured picture in pixels.
        height: likewise.
        size: width and height of the input in pixels.
        resize: letterbox, stretch, or none.
        anchor: where a letterboxed picture lies.

    Raises:
        ValueError: `resize` is none and the picture is not of the input's size.
    """
    across, down = size
    if resize == "none":
        if (width, height) != size:
            raise ValueError(
                f"the model takes pictures of {across}x{down} as they are (resize: none), "
                f"and this one is {width}x{height}"
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
