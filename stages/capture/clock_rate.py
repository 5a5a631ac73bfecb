"""Check whether the clock of a source can be trusted: whether it runs at the rate of ours.

Some containers hold no timestamps, and the library that reads them invents some, by a rate that it
assumes; some cameras stamp their images by the rate that they were set to, and not by the rate at
which they send. Only a comparison with the times of arrival shows it.
"""

from __future__ import annotations

WINDOW_NS = 3_000_000_000
"""Length of a comparison: long against the jitter of a network, which is some tens of ms."""
MAX_ERROR_TO_KEEP = 0.08
"""Relative error of a trusted rate; after two windows in a row above it, of one sign, the rate is
not trusted. A clock that is merely late in one window is early in the next."""
MAX_ERROR_TO_TRUST = 0.03
"""Relative error of a rate that is not trusted yet; after one window below it, it is trusted: the
rest costs less than the jitter of the arrival times."""


class RateCheck:
    """Compares the timestamps of a connection with the times at which the images came."""

    def __init__(self) -> None:
        self._trusted = True
        self._start: tuple[int, int] | None = None
        self._errors = 0

    def connect(self, known: bool) -> None:
        """Begin with a new connection.

        Args:
            known: the source is of a kind that has real timestamps; they are trusted until they
                prove to be wrong. Otherwise they are not trusted until they prove to be right.
        """
        self._trusted, self._start, self._errors = known, None, 0

    def checked_ns(self, stamp_ns: int, arrived_ns: int) -> int:
        """Return the timestamp of the next image if it can be trusted; else -1.

        Args:
            stamp_ns: by the source's own clock; -1: it has none.
            arrived_ns: monotonic time at which the image came.
        """
        if stamp_ns < 0:
            return -1
        if self._start is None:
            self._start = stamp_ns, arrived_ns
        passed_ns = arrived_ns - self._start[1]
        if passed_ns >= WINDOW_NS:
            self._judge((stamp_ns - self._start[0]) / passed_ns - 1.0)
            self._start = stamp_ns, arrived_ns
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
