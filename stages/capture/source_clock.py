"""The time of pictures: of a camera's from the start of the run, of a file's from its first one.

Both clocks only go forward, and use no rate that was not measured as long as there is another way.
"""

from __future__ import annotations

import statistics
from collections import deque

STEADY_NS = 1_000_000_000
"""A source's clock may be off by so much before it is set anew."""
JUMP_NS = 10_000_000_000
"""A step forward of a recording that counts as a jump, if its usual steps are much shorter."""
MEASURED = 25
"""Steps from which the usual one is measured, as their median."""
REORDERED = 4
"""So many usual steps back are stamps out of order; more of them are a clock that starts again."""


class SourceClock:
    """The time of a live stream, from the start of the run, in nanoseconds.

    Between pictures it is the source's own clock, which does not jitter; each connection, and each
    jump of that clock, starts from when the picture came. It never goes backwards.
    """

    def __init__(self, origin_ns: int, last_ns: int = -1) -> None:
        """Start.

        Args:
            origin_ns: monotonic time at which the run started.
            last_ns: newest time that was told before a crash; -1: none was.
        """
        self._origin_ns, self._last_ns = origin_ns, last_ns
        self._anchor_ns: int | None = None
        self._came_ns = last_ns

    def connect(self) -> None:
        """The next picture is the first one of a new connection."""
        self._anchor_ns = None

    def time_ns(self, stamp_ns: int, came_ns: int) -> int:
        """The time of a picture.

        Args:
            stamp_ns: by the source's own clock; -1: it tells none.
            came_ns: monotonic time at which the picture came.
        """
        came_ns -= self._origin_ns
        now_ns = came_ns
        if stamp_ns >= 0:
            if self._anchor_ns is None or abs(self._anchor_ns + stamp_ns - came_ns) > STEADY_NS:
                self._anchor_ns = came_ns - stamp_ns
            now_ns = self._anchor_ns + stamp_ns
        if self._last_ns >= 0:
            # What was told too early is made up for at half the pace: trackers divide by it.
            passed_ns = max(2, came_ns - self._came_ns)
            now_ns = max(now_ns, self._last_ns + passed_ns // 2)
        self._last_ns, self._came_ns = now_ns, came_ns
        return now_ns


class FileClock:
    """The time of the pictures of a file, from its first one, in nanoseconds.

    Time stamps count as long as they go forward. A stamp that jumps, as where recordings were put
    together, or that is missing or repeated, is replaced: time goes on by the usual step, and
    later stamps count from there.
    """

    def __init__(self, fps: float, joined: bool) -> None:
        """Start.

        Args:
            fps: pictures per second that the file declares; used until a step is measured.
            joined: whether the file may be several recordings, so that a long step forward may
                be a jump; elsewhere it is a pause of the source.
        """
        self._joined = joined
        self._declared_ns = 1e9 / fps
        self._steps: deque[int] = deque(maxlen=MEASURED)
        self._last_ns = -1
        self._newest_ns: int | None = None
        """The highest stamp since the last jump."""
        self._offset_ns = 0
        self._base_ns, self._unstamped = 0, 0
        """Where time was at the last stamp, and pictures without one since."""

    @property
    def step_ns(self) -> float:
        """The usual time from one picture to the next."""
        return statistics.median(self._steps) if self._steps else self._declared_ns

    def time_ns(self, stamp_ns: int | None) -> int:
        """The time of the next picture.

        Args:
            stamp_ns: by the file; None: it has none.
        """
        if self._last_ns < 0:
            self._last_ns = 0
            self._newest_ns, self._offset_ns = stamp_ns, -(stamp_ns or 0)
            return 0
        if stamp_ns is None or stamp_ns == self._newest_ns:
            self._unstamped += 1
            now_ns = max(self._base_ns + round(self._unstamped * self.step_ns), self._last_ns + 1)
        else:
            now_ns = self._follow(stamp_ns)
            self._base_ns, self._unstamped = now_ns, 0
        self._last_ns = now_ns
        return now_ns

    def _follow(self, stamp_ns: int) -> int:
        if self._newest_ns is None or self._jumps(stamp_ns - self._newest_ns):
            now_ns = self._last_ns + round(self.step_ns)
            self._offset_ns, self._newest_ns = now_ns - stamp_ns, stamp_ns
            return now_ns
        if stamp_ns > self._newest_ns:
            if not self._unstamped:
                self._steps.append(stamp_ns - self._newest_ns)
            self._newest_ns = stamp_ns
        now_ns = self._offset_ns + stamp_ns
        if now_ns > self._last_ns:
            return now_ns
        # Where a stamp is out of order, time goes on a little until the stamps have caught up.
        return self._last_ns + max(1, round(self.step_ns / 8))

    def _jumps(self, step_ns: int) -> bool:
        if step_ns <= 0:
            return -step_ns > REORDERED * self.step_ns
        if step_ns <= JUMP_NS or not self._joined:
            return False
        return step_ns > REORDERED * self.step_ns
