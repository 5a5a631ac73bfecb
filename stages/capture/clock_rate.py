"""Whether the clock of a source can be believed: it runs at the rate of ours, and goes forward.

Some containers hold no time stamps, and the library that reads them invents some, by a rate that
it assumes; some cameras number their pictures by the rate that they were set to, and not by the
rate at which they send. Only a comparison with the times of arrival shows it.
"""

from __future__ import annotations

WINDOW_NS = 3_000_000_000
"""Length of a comparison: long against the jitter of a network, which is some tens of ms."""
MAX_ERROR_TO_KEEP = 0.08
"""A rate that is known is given up after two windows in a row with a larger error, of one sign;
a clock that is merely late in one window is early in the next."""
MAX_ERROR_TO_TRUST = 0.03
"""A rate that is not known is believed after one window with a smaller error: what remains costs
less than the jitter of the arrival times."""


class RateCheck:
    """Compares the time stamps of a connection with the times at which the pictures came."""

    def __init__(self) -> None:
        self._trusted = True
        self._start: tuple[int, int] | None = None
        self._errors = 0

    def connect(self, known: bool) -> None:
        """Begin with a new connection.

        Args:
            known: the source is of a kind that has real time stamps; they are believed until they
                prove to be wrong. Else they are not believed until they prove to be right.
        """
        self._trusted, self._start, self._errors = known, None, 0

    def checked_ns(self, stamp_ns: int, came_ns: int) -> int:
        """Return the time stamp of the next picture if it can be believed; else -1.

        Args:
            stamp_ns: by the source's own clock; -1: it has none.
            came_ns: monotonic time at which the picture came.
        """
        if stamp_ns < 0:
            return -1
        if self._start is None:
            self._start = stamp_ns, came_ns
        passed_ns = came_ns - self._start[1]
        if passed_ns >= WINDOW_NS:
            self._judge((stamp_ns - self._start[0]) / passed_ns - 1.0)
            self._start = stamp_ns, came_ns
        return stamp_ns if self._trusted else -1

    def _judge(self, error: float) -> None:
        if abs(error) <= MAX_ERROR_TO_TRUST:
            self._trusted, self._errors = True, 0
        elif abs(error) <= MAX_ERROR_TO_KEEP:
            self._errors = 0
        else:
            sign = 1 if error > 0 else -1
            self._errors = self._errors + sign if self._errors * sign > 0 else sign
            if abs(self._errors) >= 2:
                self._trusted = False


class ForwardClock:
    """The time stamps of a source that has an end, so that they only go forward.

    Where recordings were joined, the stamps begin again; time goes on by the step before.
    """

    def __init__(self) -> None:
        self._last_ns, self._step_ns, self._shift_ns = -1, 1, 0

    @property
    def is_running(self) -> bool:
        """Whether a stamp has gone forward yet: a container without stamps gives 0 for ever."""
        return self._last_ns > 0

    def time_ns(self, stamp_ns: int) -> int:
        """Return the time of the next picture from its stamp, both from 0 at the first one."""
        now_ns = stamp_ns + self._shift_ns
        if now_ns <= self._last_ns:
            self._shift_ns += self._last_ns + self._step_ns - now_ns
            now_ns = self._last_ns + self._step_ns
        elif self._last_ns >= 0:
            self._step_ns = now_ns - self._last_ns
        self._last_ns = now_ns
        return now_ns
