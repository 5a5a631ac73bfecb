"""Shapes of objects on an image: boxes, rotated boxes, masks and skeletons.

All stay inside the image and raise nothing for numbers that are not finite; those are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import counts_of
from models.boxes.rotated import corners_of
from stages.drawing.palette import BLACK, Colour

Corners = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, x2 and y2 past the last one."""

TINT = 0.4
"""Part of the colour in a tinted pixel."""
MIN_POINT_SCORE = 0.3
"""Lowest score of a keypoint that is drawn."""
MAX_COORDINATE_PX = 1 << 15
"""Limit of coordinates, which every number type of OpenCV holds."""


def draw_box(
    canvas: NDArray[np.uint8],
    corners: Corners,
    colour: Colour,
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


def draw_rotated(
    canvas: NDArray[np.uint8], box: NDArray[np.float32], colour: Colour, line_px: int
) -> tuple[int, int] | None:
    """Draw a rotated box.

    Args:
        canvas: (H, W, 3) uint8 BGR.
        box: (5,) cx, cy, w, h in pixels of the canvas and the angle in radians.
        colour: colour of the line.
        line_px: its width.

    Returns:
        x and y of its highest corner; None: it is not finite, and nothing was drawn.
    """
    if not np.isfinite(box).all():
        return None
    corners = corners_of(box[None])[0]
    points = np.clip(np.rint(corners), -MAX_COORDINATE_PX, MAX_COORDINATE_PX).astype(np.int32)
    cv2.polylines(canvas, [points], True, colour, line_px)
    x, y = points[points[:, 1].argmin()].tolist()
    return x, y


def draw_mask(
    canvas: NDArray[np.uint8],
    text: bytes,
    size: tuple[int, int],
    corners: Corners,
    colour: Colour,
    line_px: int,
) -> None:
    """Tint a mask and draw its outline, inside a box alone.

    Args:
        canvas: (H, W, 3) uint8 BGR; it may be smaller than the frame of the mask.
        text: COCO's text of the runs of the mask.
        size: height and width of the frame of the mask.
        corners: the box, in pixels of the canvas.
        colour: colour of the mask.
        line_px: width of the outline.

    Raises:
        ValueError: the text is none, or is of a frame of another size.
    """
    tall, wide, _ = canvas.shape
    x1, y1, x2, y2 = max(0, corners[0]), max(0, corners[1]), *corners[2:]
    x2, y2 = min(wide, x2), min(tall, y2)
    if x1 >= x2 or y1 >= y2:
        return
    height, width = size
    part = mask_part(
        text,
        size,
        (x1 * width // wide, y1 * height // tall, -(-x2 * width // wide), -(-y2 * height // tall)),
    )
    if (height, width) != (tall, wide):
        part = np.asarray(cv2.resize(part, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST))
    place = canvas[y1:y2, x1:x2]
    cv2.copyTo(cv2.LUT(place, tint_of(colour)), part, place)
    outlines, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(place, outlines, -1, colour, max(1, line_px // 2))


def mask_part(text: bytes, size: tuple[int, int], corners: Corners) -> NDArray[np.uint8]:
    """Decode the part of a mask inside a box; its other columns are not expanded.

    Args:
        text: COCO's text of the runs.
        size: height and width of the frame.
        corners: the box, inside the frame.

    Returns:
        (h, w) uint8: 1 inside the mask, 0 outside.

    Raises:
        ValueError: the text is none, or is of a frame of another size.
    """
    height, width = size
    counts = counts_of(text)
    if counts.sum() != height * width:
        raise ValueError(
            f"array 'masks': expected runs of {width}x{height} pixels (found {counts.sum()}); "
            "correct the stage that gives it"
        )
    x1, y1, x2, y2 = corners
    ends = np.clip(np.cumsum(counts), x1 * height, x2 * height)
    lengths = np.diff(ends, prepend=x1 * height)
    inside = np.zeros(len(lengths), np.uint8)
    inside[1::2] = 1
    columns = np.repeat(inside, lengths).reshape(x2 - x1, height)
    # NumPy takes several times as long to turn an array.
    return np.asarray(cv2.transpose(columns[:, y1:y2]), np.uint8)


def draw_skeleton(
    canvas: NDArray[np.uint8],
    points: NDArray[np.float32],
    edges: Sequence[tuple[int, int]],
    colour: Colour,
    line_px: int,
) -> None:
    """Draw the keypoints of an object, and the lines between them.

    Args:
        canvas: (H, W, 3) uint8 BGR.
        points: (K, 3) x and y in pixels of the canvas, and score; those below `MIN_POINT_SCORE`
            and those far outside the canvas are left out.
        edges: pairs of points by number.
        colour: colour of the lines.
        line_px: width of the lines of boxes; those of a skeleton are wider.
    """
    tall, wide, _ = canvas.shape
    shown = {
        number: (round(x), round(y))
        for number, (x, y, score) in enumerate(points.tolist())
        # False also for NaN.
        if score >= MIN_POINT_SCORE and -wide <= x <= 2 * wide and -tall <= y <= 2 * tall
    }
    for start, end in edges:
        if start in shown and end in shown:
            cv2.line(canvas, shown[start], shown[end], colour, line_px + 1)
    for place in shown.values():
        cv2.circle(canvas, place, line_px + 3, BLACK, -1)
        cv2.circle(canvas, place, line_px + 2, colour, -1)


@lru_cache(maxsize=64)
def tint_of(colour: Colour) -> NDArray[np.uint8]:
    """Return the table (256, 1, 3) that tints pixels with a colour."""
    values = np.arange(256)[:, None, None] * (1 - TINT) + np.array(colour) * TINT
    return np.rint(values).astype(np.uint8)
