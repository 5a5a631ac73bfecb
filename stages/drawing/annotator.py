"""Draws detections onto a copy of the image: boxes, tags and short trails."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from stages.detections import NO_TRACK_ID, Detections, label

# Sixteen hues of one lightness (OKLCH, L = 0.72), BGR, each far from the one before it: 2.3 to
# 2.8 times the luminance contrast against white, 7.5 to 9.2 against black, so they show on both,
# and black text shows on them.
COLOURS = (
    (99, 115, 255),
    (177, 190, 2),
    (200, 91, 255),
    (6, 198, 46),
    (254, 138, 179),
    (1, 163, 192),
    (255, 167, 93),
    (6, 123, 252),
    (205, 185, 17),
    (147, 107, 254),
    (138, 194, 1),
    (254, 98, 230),
    (3, 178, 155),
    (255, 155, 141),
    (5, 147, 220),
    (238, 179, 10),
)
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (48, 48, 48)

MAX_TAG_CHARACTERS = 40
"""Length at which a label is cut."""
MAX_TRAIL_POINTS = 32


class Annotator:
    """Draws on an image of its own, one per stream, which it reuses for the next frame.

    The same id has the same colour in every frame and stream; an object without an id has that of
    its class. Boxes that are not finite or lie outside the image are left out.

    Args:
        labels: names of the classes.
        trail_frames: length of a trail in frames; 0: no trails.
    """

    def __init__(self, labels: Sequence[str] = (), trail_frames: int = 40) -> None:
        self._labels = labels
        self._trail_frames = trail_frames
        self._images: dict[str, NDArray[np.uint8]] = {}
        self._trails: dict[str, dict[int, _Trail]] = {}

    def draw(self, frame: Frame, status: str = "") -> NDArray[np.uint8]:
        """Return a copy of the image of a frame with its detections drawn on it.

        Args:
            frame: with `image` (H, W, 3) uint8 BGR and the arrays of `DETECTIONS`.
            status: a line of text for the top left corner.

        Returns:
            (H, W, 3) uint8 BGR, valid until the next call for the same stream.
        """
        canvas = self._copy(frame)
        height, width = canvas.shape[:2]
        line_px = max(1, round(min(height, width) / 360))
        scale = max(0.35, min(height, width) / 1150)
        drawn = self._visible(Detections.of(frame), width, height, line_px)
        if self._trail_frames:
            self._draw_trails(canvas, frame, drawn, line_px)
        for box in drawn:
            draw_box(canvas, box.corners, box.colour, line_px)
        for box in drawn:  # last, so that no line crosses a tag
            draw_tag(
                canvas,
                box.corners[0],
                box.corners[1],
                text_image(box.name, BLACK, box.colour, scale),
                text_image(f"{box.score:.2f}", BLACK, box.colour, scale),
            )
        if status:
            # Without the cache, as each status line is different.
            draw_tag(canvas, 0, 0, text_image.__wrapped__(status, WHITE, GREY, scale))
        return canvas

    def forget(self, stream: str) -> None:
        """Release the image and the trails of a stream that has ended."""
        self._images.pop(stream, None)
        self._trails.pop(stream, None)

    def _copy(self, frame: Frame) -> NDArray[np.uint8]:
        image = frame["image"]
        canvas = self._images.get(frame.stream)
        if canvas is None or canvas.shape != image.shape:
            canvas = self._images[frame.stream] = np.empty(image.shape, np.uint8)
            self._trails[frame.stream] = {}
        np.copyto(canvas, image)
        return canvas

    def _visible(self, objects: Detections, width: int, height: int, margin_px: int) -> list[_Box]:
        """Return the boxes to draw.

        Corners are clipped just outside the image: lines outside stay there, and every number fits
        OpenCV.
        """
        drawn = []
        right, bottom = width + margin_px, height + margin_px
        for (x1, y1, x2, y2), score, number, id in zip(
            objects.boxes.tolist(),
            objects.scores.tolist(),
            objects.classes.tolist(),
            objects.ids.tolist(),
            strict=True,
        ):
            # False also for NaN.
            if 0 <= x2 >= x1 < width and 0 <= y2 >= y1 < height:
                corners = (
                    round(max(x1, -margin_px)),
                    round(max(y1, -margin_px)),
                    round(min(x2, right)),
                    round(min(y2, bottom)),
                )
                name = label(self._labels, number)[:MAX_TAG_CHARACTERS]
                if id == NO_TRACK_ID:
                    drawn.append(_Box(corners, COLOURS[number % len(COLOURS)], id, name, score))
                else:
                    colour = COLOURS[id % len(COLOURS)]
                    drawn.append(_Box(corners, colour, id, f"{name} {id}", score))
        return drawn

    def _draw_trails(
        self, canvas: NDArray[np.uint8], frame: Frame, drawn: Sequence[_Box], line_px: int
    ) -> None:
        trails, oldest_seq = self._trails[frame.stream], frame.seq - self._trail_frames
        for (x1, _, x2, y2), colour, id, _, _ in drawn:
            if id == NO_TRACK_ID:
                continue
            trail = trails.get(id)
            if trail is None:
                trail = trails[id] = _Trail()
            trail.add(frame.seq, (x1 + x2) // 2, y2, 3 * line_px)
            points = trail.since(oldest_seq)
            if len(points) > 1:
                cv2.polylines(canvas, [points], False, colour, max(1, line_px // 2))
        for id in [id for id, trail in trails.items() if trail.last_seq < oldest_seq]:
            del trails[id]


class _Box(NamedTuple):
    """An object as it is drawn."""

    corners: tuple[int, int, int, int]
    """x1, y1, x2, y2 in whole pixels, x2 and y2 past the last one."""
    colour: tuple[int, int, int]
    id: int
    name: str
    score: float


class _Trail:
    """The last positions of an object, at least a few pixels from each other."""

    __slots__ = ("_points", "_seqs", "_x", "_y", "last_seq")

    def __init__(self) -> None:
        # Flat x, y, x, y: OpenCV can draw from an array's own memory, not from a list.
        self._points = array("i")
        self._seqs: list[int] = []
        self._x = self._y = -(1 << 30)
        self.last_seq = 0

    def add(self, seq: int, x: int, y: int, min_step_px: int) -> None:
        """Add a position, unless it is too near to the one before."""
        self.last_seq = seq
        if abs(x - self._x) + abs(y - self._y) >= min_step_px:
            self._x, self._y = x, y
            self._points.extend((x, y))
            self._seqs.append(seq)

    def since(self, seq: int) -> NDArray[np.int32]:
        """Return the positions from a frame on, at most `MAX_TRAIL_POINTS`: (N, 2) xy in pixels.

        Valid until the next call of `add`; older positions are dropped.
        """
        old = max(bisect_left(self._seqs, seq), len(self._seqs) - MAX_TRAIL_POINTS)
        if old > 0:
            del self._seqs[:old]
            del self._points[: 2 * old]
        return np.frombuffer(self._points, np.int32).reshape(-1, 2)


def draw_box(
    canvas: NDArray[np.uint8],
    corners: tuple[int, int, int, int],
    colour: tuple[int, int, int],
    line_px: int,
) -> None:
    """Draw a box whose line lies inside it.

    One-pixel boxes inside one another: OpenCV takes five times as long for one thick line.
    """
    x1, y1, x2, y2 = corners
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1)
    for inset in range(1, min(line_px, (min(x2 - x1, y2 - y1) + 2) // 2)):
        cv2.rectangle(canvas, (x1 + inset, y1 + inset), (x2 - inset, y2 - inset), colour, 1)


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
def text_image(
    text: str, ink: tuple[int, int, int], ground: tuple[int, int, int], scale: float
) -> NDArray[np.uint8]:
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
