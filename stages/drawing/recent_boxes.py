"""The boxes of the last moments: where an object was, it may still be when it is not detected."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.detections import NO_TRACK_ID

Boxes = NDArray[np.float32]

MAX_BOXES = 1000
"""Number of boxes above which the whole frame is one: it limits the time and the saved state."""
MIN_MARGIN_PX = 2
ROUNDING_PX = 1e-3
"""Errors of fractions of a frame, which do not make a rectangle a pixel wider."""

_ROW = np.dtype([("time_s", "<f8"), ("id", "<i8"), ("box", "<f4", 4)])


class RecentBoxes:
    """The boxes of one stream: those of the newest frame, and those of objects not seen since.

    A box is kept for a time after its frame, unless a newer one covers it, or overlaps it and has
    its track id. At most `MAX_BOXES` are kept, 32 bytes each.

    Args:
        hold_s: time for which a box is kept, in seconds.
        margin: part of its width and height by which a box is wider at each side when it covers.
    """

    def __init__(self, hold_s: float, margin: float) -> None:
        self._hold_s, self._margin = hold_s, margin
        self._rows: NDArray[np.void] = np.zeros(0, _ROW)

    def update(self, boxes: Boxes, ids: NDArray[np.int64], time_s: float) -> NDArray[np.float32]:
        """Add the boxes of the next frame.

        Args:
            boxes: (N, 4) xyxy as fractions of the frame, which may change its size.
            ids: (N,) track ids, or `NO_TRACK_ID`.
            time_s: seconds into the stream. If it jumps back, the boxes are kept from there on.

        Returns:
            (M, 4) the boxes that are kept, among them those of this frame.
        """
        new = np.zeros(len(boxes), _ROW)
        new["time_s"], new["id"], new["box"] = time_s, ids, boxes
        old = self._rows
        old["time_s"] = np.minimum(old["time_s"], time_s)
        kept = time_s - old["time_s"] <= self._hold_s
        before, now = old["box"][:, None], new["box"][None]
        same = (old["id"][:, None] == ids) & (ids != NO_TRACK_ID) & _overlap(before, now)
        same |= _covers(widened(new["box"], self._margin)[None], before)
        kept &= ~same.any(axis=1)
        rows: NDArray[np.void] = np.concatenate([old[kept], new])
        if len(rows) > MAX_BOXES:
            rows = np.array([(time_s, NO_TRACK_ID, (0, 0, 1, 1))], _ROW)
        self._rows = rows
        found: Boxes = rows["box"]
        return found

    def state(self) -> bytes:
        """Return what `restore` needs to continue."""
        return self._rows.tobytes()

    def restore(self, state: bytes) -> None:
        """Continue from the result of `state`."""
        self._rows = np.frombuffer(state, _ROW).copy()


def fractions_of(boxes: Boxes, width: int, height: int) -> NDArray[np.float32]:
    """Return boxes as fractions of the frame.

    Args:
        boxes: (N, 4) in px, corners in any order, infinite ones too; no NaN.
        width: of the frame in px.
        height: of the frame in px.

    Returns:
        (N, 4) xyxy, cut off one frame beside the frame.
    """
    parts = np.clip(boxes.astype(np.float64) / np.array((width, height) * 2), -1, 2)
    low, high = np.minimum(parts[:, :2], parts[:, 2:]), np.maximum(parts[:, :2], parts[:, 2:])
    found: Boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    return found


def widened(boxes: Boxes, margin: float) -> Boxes:
    """Return boxes (N, 4) that are wider at each side by a part of their width and height."""
    by: Boxes = (boxes[:, 2:] - boxes[:, :2]) * margin
    wide: Boxes = np.concatenate([boxes[:, :2] - by, boxes[:, 2:] + by], axis=1)
    return wide


def rectangles(boxes: Boxes, margin: float, width: int, height: int) -> NDArray[np.int32]:
    """Return the whole pixels that boxes touch, with a margin, inside the frame.

    Args:
        boxes: (N, 4) xyxy as fractions of the frame.
        margin: part of its width and height by which a box is wider at each side; at least
            `MIN_MARGIN_PX`.
        width: of the frame in px.
        height: of the frame in px.

    Returns:
        (K, 4) x1, y1, x2, y2 in px, x2 and y2 past the last one, the largest first. Rectangles
        inside another are left out.
    """
    if len(boxes) > MAX_BOXES:
        return np.array([[0, 0, width, height]], np.int32)
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    inside = ((high > 0) & (low < 1)).all(axis=1)
    low, high = np.clip(low[inside], 0, 1), np.clip(high[inside], 0, 1)
    size = np.array((width, height))
    by = np.maximum((high - low) * size * margin, MIN_MARGIN_PX)
    first = np.floor(np.maximum(low * size - by + ROUNDING_PX, 0))
    last = np.ceil(np.minimum(high * size + by - ROUNDING_PX, size))
    found = np.concatenate([first, last], axis=1).astype(np.int32)
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    found = found[np.argsort(-area, kind="stable")]
    covered = np.tril(_covers(found[None], found[:, None]), -1).any(axis=1)
    largest: NDArray[np.int32] = found[~covered]
    return largest


def _covers(outer: NDArray[Any], inner: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether boxes (..., 4) lie in others, with the last axis gone."""
    inside = np.concatenate(
        [outer[..., :2] <= inner[..., :2], outer[..., 2:] >= inner[..., 2:]], axis=-1
    )
    return np.asarray(inside.all(axis=-1))


def _overlap(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether boxes (..., 4) touch or overlap others, with the last axis gone."""
    near = np.concatenate([one[..., :2] <= other[..., 2:], one[..., 2:] >= other[..., :2]], axis=-1)
    return np.asarray(near.all(axis=-1))
