"""Time of images: of a camera's from the start of the run, of a file's from its first one.

All clocks only go forward, and use no rate that was not measured as long as there is another way.
"""

from __future__ import annotations

import statistics
from collections import deque

from stages.capture.clock_rate import RateCheck

STEADY_NS = 1_000_000_000
"""Largest error of a source's clock before it is set again."""
JUMP_NS = 10_000_000_000
"""A step forward of a recording that counts as a jump, if its usual steps are much shorter."""
MEASURED = 25
"""Steps from which the usual one is measured, as their median."""
REORDERED = 4
"""Up to this many usual steps back, stamps are out of order; more are a clock that begins again."""


class SourceClock:
    """Time of a live stream, from the start of the run, in nanoseconds.

    Between images it is the source's own clock, which does not jitter; each connection, and each
    jump of that clock, starts from the arrival of an image. It never goes backwards.
    """

    def __init__(self, origin_ns: int, last_ns: int = -1) -> None:
        """Start.

        Args:
            origin_ns: monotonic time at which the run started.
            last_ns: newest time of the stream before a crash; -1: there was none.
        """
        self._origin_ns, self._last_ns = origin_ns, last_ns
        self._anchor_ns: int | None = None
        self._arrived_ns = last_ns

    def connect(self) -> None:
        """Begin with a new connection."""
        self._anchor_ns = None

    def time_ns(self, stamp_ns: int, arrived_ns: int) -> int:
        """Return the time of an image.

        Args:
            stamp_ns: by the source's own clock; -1: it has none.
            arrived_ns: monotonic time at which the image came.
        """
        arrived_ns -= self._origin_ns
        now_ns = arrived_ns
        if stamp_ns >= 0:
            if self._anchor_ns is None or abs(self._anchor_ns + stamp_ns - arrived_ns) > STEADY_NS:
                self._anchor_ns = arrived_ns - stamp_ns
            now_ns = self._anchor_ns + stamp_ns
        if self._last_ns >= 0:
            # A time that was too early is compensated at half the pace: trackers divide by it.
            passed_ns = max(2, arrived_ns - self._arrived_ns)
            now_ns = max(now_ns, self._last_ns + passed_ns // 2)
        self._last_ns, self._arrived_ns = now_ns, arrived_ns
        return now_ns


class LiveClock:
    """Time of a live stream, by the source's own clock as long as its rate can be trusted."""

    def __init__(self, origin_ns: int, last_ns: int = -1) -> None:
        """Start; the arguments are those of `SourceClock`."""
        self._clock, self._rate = SourceClock(origin_ns, last_ns), RateCheck()

    def connect(self, rate_known: bool) -> None:
        """Begin with a new connection.

        Args:
            rate_known: see `Reader.rate_known`.
        """
        self._clock.connect()
        self._rate.connect(rate_known)

    def time_ns(self, stamp_ns: int, arrived_ns: int) -> int:
        """Return the time of an image; the arguments are those of `SourceClock.time_ns`."""
        return self._clock.time_ns(self._rate.checked_ns(stamp_ns, arrived_ns), arrived_ns)


class ForwardClock:
    """Time of a source that has an end but is read once: its own stamps, made to go forward.

    Where recordings were joined, the stamps begin again; time goes on by the step before. Unlike
    `FileClock` it keeps a stamp that is late, and measures no usual step.
    """

    def __init__(self) -> None:
        self._last_ns, self._step_ns, self._shift_ns = -1, 1, 0

    @property
    def is_running(self) -> bool:
        """Whether a stamp has gone forward yet: a container without stamps gives 0 forever."""
        return self._last_ns > 0

    def time_ns(self, stamp_ns: int) -> int:
        """Return the time of the next image from its stamp, both from 0 at the first one."""
        now_ns = stamp_ns + self._shift_ns
        if now_ns <= self._last_ns:
            self._shift_ns += self._last_ns + self._step_ns - now_ns
            now_ns = self._last_ns + self._step_ns
        elif self._last_ns >= 0:
            self._step_ns = now_ns - self._last_ns
        self._last_ns = now_ns
        return now_ns


class FileClock:
    """Time of the images of a file, from its first one, in nanoseconds.

    Stamps count as long as they go forward. A stamp that jumps, as where recordings were joined, or
    that is missing or repeated, is replaced: time goes on by the usual step, and later stamps count
    from there.
    """

    def __init__(self, fps: float, joined: bool) -> None:
        """Start.

        Args:
            fps: images per second that the file declares; used until a step is measured.
            joined: whether the file may be several recordings, so that a long step forward may
                be a jump; elsewhere it is a pause of the source.
        """
        self._joined = joined
        self._declared_ns = 1e9 / fps
        self._steps: deque[int] = deque(maxlen=MEASURED)
        self._last_ns = -1
        self._newest_ns: int | None = None
        """Highest stamp since the last jump."""
        self._offset_ns = 0
        self._base_ns, self._unstamped = 0, 0
        """Time at the last stamp, and images without one since."""

    @property
    def step_ns(self) -> float:
        """Usual time from one image to the next."""
        return statistics.median(self._steps) if self._steps else self._declared_ns

    def time_ns(self, stamp_ns: int | None) -> int:
        """Return the time of the next image.

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
