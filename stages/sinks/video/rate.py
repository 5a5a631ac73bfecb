"""The rate of a video, and which of its pictures shows which frame."""

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
"""Time stamps in milliseconds, or of a 90 kHz clock, may be off by so much."""
REGULAR = 0.25
"""Frames come regularly when most are apart by their median distance, give or take so much."""
NEAR = 0.03
"""A measured rate that is so near to a usual one is that one."""
USUAL_FPS = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 8.0, 10.0, 12.0, 12.5, 15.0, 20.0),
    *(24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0, 100.0, 120.0),
)
MAX_GAP_S = 60.0
"""Of a longer gap between two frames the video shows so much."""
EARLY = 0.75
"""A frame takes the next place in the video although it is so many places early or late: the
jitter of a camera must not cost one frame and repeat another."""


def declared_rate(fps: float) -> float | None:
    """The rate that a source declares, exactly; None where it is none to rely on."""
    return float(exact_rate(fps)) if MIN_FPS <= fps <= MAX_DECLARED_FPS else None


def rate_of(times_s: Sequence[float], declared_fps: float = 0.0) -> float:
    """The rate that fits the times of the first frames.

    Args:
        times_s: of the frames, seconds.
        declared_fps: what the source says; 0: nothing. It counts if each time is a multiple.
    """
    declared = declared_rate(declared_fps)
    if declared is not None and _is_on_grid(times_s, declared):
        return declared
    measured = fps_of(times_s)
    nearest = min(USUAL_FPS, key=lambda fps: abs(measured / fps - 1))
    if abs(measured / nearest - 1) < NEAR:
        return nearest
    # Frames of a steady rate, with some of them missing: none of those that are there is left out.
    faster = (fps for fps in USUAL_FPS if fps > measured and _is_on_grid(times_s, fps))
    return next(faster, measured)


def fps_of(times_s: Sequence[float]) -> float:
    """The frame rate that fits the times of the first frames: from the mean of those of their
    distances that are near the median, as a gap does not count; of all, if few are.

    Returns:
        Pictures per second, from 1 to 240; 25 where the times say nothing.
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
    """Which place in a video of a steady rate each frame has, by its time.

    Args:
        fps: pictures per second of the video.
    """

    def __init__(self, fps: float) -> None:
        self._fps = float(exact_rate(fps))
        self._start_s = 0.0
        self._last_s: float | None = None
        self._next = 0

    def repeats(self, time_s: float) -> int | None:
        """How often the picture before is shown once more, before that of a frame of this time.

        None: its place is taken by the frame before. Times that go back, or on by more than
        `MAX_GAP_S`, are taken for a new beginning of the clock.
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
        """Count the picture of a frame, with those that were repeated before it."""
        self._last_s = time_s
        self._next += 1 + repeats
