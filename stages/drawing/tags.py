"""Tags: pieces of text on a ground of their own, on an image."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.drawing.palette import Colour


def draw_tag(canvas: NDArray[np.uint8], x: int, y: int, *parts: NDArray[np.uint8]) -> None:
    """Put pieces of text side by side above (x, y), or as near to it as they fit.

    Args:
        canvas: (H, W, 3) uint8.
        x: left edge, moved where the text would leave the image.
        y: lower edge.
        parts: (h, w, 3) uint8 each, of one height; cut where they do not fit.
    """
    height, width, _ = canvas.shape
    tall, wide = parts[0].shape[0], sum([part.shape[1] for part in parts])
    top = max(0, y - tall)
    left = max(0, min(x, width - wide))
    fits = top + tall <= height and left + wide <= width
    for part in parts:
        right = left + part.shape[1]
        if fits:
            canvas[top : top + tall, left:right] = part
        else:
            place = canvas[top : top + tall, left:right]
            place[...] = part[: place.shape[0], : place.shape[1]]
        left = right


@lru_cache(maxsize=4096)
def text_image(text: str, ink: Colour, ground: Colour, scale: float) -> NDArray[np.uint8]:
    """Return a line of text on a background, (H, W, 3) uint8 BGR; cached, as it is slow."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    _, below = cv2.getTextSize("g", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    edge = max(1, round(4 * scale))
    image = np.empty((height + below + edge, width + 2 * edge, 3), np.uint8)
    image[...] = ground
    cv2.putText(
        image,
        text,
        (edge, height + edge // 2),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        ink,
        1,
        cv2.LINE_AA,
    )
    return image
