"""The rate of a video, and the place of each frame in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from stages.sinks.video.track import exact_rate

FPS_UNKNOWN = 25.0
MIN_FPS, MAX_FPS = 1.0, 240.0
MAX_DECLARED_FPS = 120.0
"""Files without a steady rate declare thousands: the unit of their clock."""
GRID_S = 0.002
"""Rounding error of timestamps in milliseconds, or of a 90 kHz clock."""
REGULAR = 0.25
"""Frames are regular if most intervals differ from their median by at most this fraction."""
NEAR = 0.03
"""Largest relative difference at which a measured rate is taken for a usual one."""
USUAL_FPS = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 8.0, 10.0, 12.0, 12.5, 15.0, 20.0),
    *(24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0, 100.0, 120.0),
)
MAX_GAP_S = 60.0
"""Longest gap between two frames that the video shows; the rest of a longer one is left out."""
EARLY = 0.75
"""Number of places by which a frame may be early or late and still take the next one: the jitter of
a camera must not drop one frame and repeat another."""


def declared_rate(fps: float) -> float | None:
    """Return the exact rate that a source declares; None: it is not reliable."""
    return float(exact_rate(fps)) if MIN_FPS <= fps <= MAX_DECLARED_FPS else None


def rate_of(times_s: Sequence[float], declared_fps: float = 0.0) -> float:
    """Return the rate that fits the times of the first frames.

    Args:
        times_s: times of the frames, seconds.
        declared_fps: rate that the source declares; 0: none. It counts if all times fit it.
    """
    declared = declared_rate(declared_fps)
    if declared is not None and _is_on_grid(times_s, declared):
        return declared
    measured = fps_of(times_s)
    nearest = min(USUAL_FPS, key=lambda fps: abs(measured / fps - 1))
    if abs(measured / nearest - 1) < NEAR:
        return nearest
    # Frames of a steady rate, some of which are missing: none of the others is left out.
    faster = (fps for fps in USUAL_FPS if fps > measured and _is_on_grid(times_s, fps))
    return next(faster, measured)


def fps_of(times_s: Sequence[float]) -> float:
    """Measure the frame rate from the times of the first frames.

    It is the mean of the intervals near their median, so that a gap does not count; of all
    intervals, if few are near it.

    Returns:
        Images per second, from 1 to 240; 25 if the times do not determine it.
    """
    apart_s = [later - before for before, later in pairwise(times_s)]
    typical_s = median(apart_s) if apart_s else 0.0
    if typical_s <= 0:
        return FPS_UNKNOWN
    regular_s = [far_s for far_s in apart_s if abs(far_s / typical_s - 1) <= REGULAR]
    if 2 * len(regular_s) <= len(apart_s):
        regular_s = [far_s for far_s in apart_s if far_s > 0]
    return min(max(round(len(regular_s) / sum(regular_s), 3), MIN_FPS), MAX_FPS)


def _is_on_grid(times_s: Sequence[float], fps: float) -> bool:
    places = [(time_s - times_s[0]) * fps for time_s in times_s]
    return all(abs(place - round(place)) <= GRID_S * fps for place in places) and all(
        later > before for before, later in pairwise(times_s)
    )


class Pace:
    """Places of frames in a video of a steady rate, by their times.

    Args:
        fps: images per second of the video.
    """

    def __init__(self, fps: float) -> None:
        self._fps = float(exact_rate(fps))
        self._start_s = 0.0
        self._last_s: float | None = None
        self._next = 0

    def repeats(self, time_s: float) -> int | None:
        """Return how many times the image before is repeated first, for a frame of this time.

        None: its place is taken by the frame before. Times that go back, or forward by more than
        `MAX_GAP_S`, are taken for a clock that was set.
        """
        if self._last_s is None:
            self._start_s = time_s
            return 0
        gap_s = time_s - self._last_s
        if gap_s < 0:
            self._start_s = time_s - self._next / self._fps
        elif gap_s > MAX_GAP_S:
            self._start_s += gap_s - MAX_GAP_S
            self._last_s = time_s
        place = (time_s - self._start_s) * self._fps
        if place < self._next - EARLY:
            return None
        return 0 if place < self._next + EARLY else round(place) - self._next

    def take(self, time_s: float, repeats: int) -> None:
        """Count the image of a frame, and those that were repeated before it."""
        self._last_s = time_s
        self._next += 1 + repeats
