"""The class of each part of an image as a tint over it, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.detections import label
from stages.drawing.palette import BLACK, COLOURS, GREY, WHITE
from stages.drawing.shapes import TINT
from stages.drawing.tags import draw_tag, text_image

UNTINTED = frozenset({"background", "unlabelled", "unlabeled", "void", "none"})
"""Labels, in small letters, of what is no class of its own."""
MAX_LEGEND_LINES = 8
MAX_LEGEND_CHARACTERS = 24
MIN_SHARE = 0.002
"""Part of the image that a class of the legend covers at least."""


class SemanticLayer:
    """Tints an image by its classes; background is not tinted.

    Args:
        names: names of the classes; empty: unknown, and class 0 is background.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        colours = np.array(COLOURS, np.uint8)
        self._colours = colours[np.arange(256) % len(colours)]
        tinted = np.ones(256, np.uint8)
        tinted[0] = len(names) > 2
        tinted[len(names) or 256 :] = 0
        for number, name in enumerate(names[:256]):
            if name.lower() in UNTINTED:
                tinted[number] = 0
        self._tinted = tinted

    def draw(self, canvas: NDArray[np.uint8], classes: NDArray[np.uint8], scale: float) -> None:
        """Tint the canvas, and write the legend into its lower left corner.

        Args:
            canvas: (H, W, 3) uint8 BGR.
            classes: (h, w) class of each cell of a grid over the whole canvas.
            scale: size of the text.
        """
        if not classes.size:
            return
        height, width = canvas.shape[:2]
        nearest = cv2.INTER_NEAREST
        # Blended in the whole, then copied: three passes of OpenCV instead of one of NumPy.
        colours = cv2.resize(self._colours[classes], (width, height), interpolation=nearest)
        mask = cv2.resize(self._tinted[classes], (width, height), interpolation=nearest)
        cv2.copyTo(cv2.addWeighted(canvas, 1 - TINT, colours, TINT, 0), mask, canvas)
        self._draw_legend(canvas, classes, scale)

    def _draw_legend(
        self, canvas: NDArray[np.uint8], classes: NDArray[np.uint8], scale: float
    ) -> None:
        """Name the classes of the image, the largest on top, with their parts of it."""
        shares = np.bincount(classes.ravel(), minlength=256) / classes.size * self._tinted
        numbers = np.argsort(-shares, kind="stable")[:MAX_LEGEND_LINES]
        numbers = numbers[shares[numbers] >= MIN_SHARE]
        y = canvas.shape[0]
        for number in numbers[::-1].tolist():
            colour = COLOURS[number % len(COLOURS)]
            name = label(self._names, number)[:MAX_LEGEND_CHARACTERS]
            part = f"{100 * shares[number]:.0f}%"
            images = text_image(name, BLACK, colour, scale), text_image(part, WHITE, GREY, scale)
            draw_tag(canvas, 0, y, *images)
            y -= images[0].shape[0]
            if y <= 0:
                return
