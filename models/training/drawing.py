"""Pictures for reports: results drawn on images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.text import shown
from models.training.augment import Image

CORRECT = (115, 158, 0)
"""BGR of a result that is right, and of the truth that is found."""
WRONG = (0, 0, 220)
"""BGR of a result that is wrong."""
MISSED = (0, 159, 230)
"""BGR of the truth that is not found."""
MAX_SIDE_PX = 420
"""Longer side of a picture in a report."""
MIN_SIDE_PX = 240
"""Longer side below which a picture is made larger."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def small(pixels: Image, side: int = MAX_SIDE_PX) -> tuple[Image, float]:
    """Return a copy of an image that is small enough for a report, and the scale."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def fitted(pixels: Image, side: int = MAX_SIDE_PX) -> Image:
    """Return a copy of an image for a report: made smaller, or larger where one sees little."""
    height, width = pixels.shape[:2]
    if max(height, width) >= MIN_SIDE_PX:
        return small(pixels, side)[0]
    scale = MIN_SIDE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def caption(pixels: Image, text: str, colour: tuple[int, int, int]) -> Image:
    """Return an image with a line of text above it; a narrow one gets margins for the text."""
    text = shown(text, 60).encode("ascii", "replace").decode()
    height, width = pixels.shape[:2]
    scale = 0.5
    while scale > 0.4 and cv2.getTextSize(text, _FONT, scale, 1)[0][0] > width - 8:
        scale -= 0.05
    wide = max(width, cv2.getTextSize(text, _FONT, scale, 1)[0][0] + 8)
    left = (wide - width) // 2
    out = np.full((height + 22, wide, 3), 255, np.uint8)
    out[22:, left : left + width] = pixels
    cv2.putText(out, text, (4, 16), _FONT, scale, colour, 1, cv2.LINE_AA)
    return out


def boxes(
    pixels: Image,
    corners: NDArray[np.floating],
    colour: tuple[int, int, int],
    texts: Sequence[str] = (),
) -> None:
    """Draw boxes (N, 4) xyxy into an image."""
    for row, (x1, y1, x2, y2) in enumerate(np.round(corners).astype(int).tolist()):
        cv2.rectangle(pixels, (x1, y1), (x2, y2), colour, 2)
        if row < len(texts):
            text = shown(texts[row], 40).encode("ascii", "replace").decode()
            cv2.putText(pixels, text, (x1 + 3, max(12, y1 - 4)), _FONT, 0.4, colour, 1, cv2.LINE_AA)


def tint(pixels: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Mix a colour into the pixels of a mask (H, W)."""
    pixels[mask] = (pixels[mask] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
