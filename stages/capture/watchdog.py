"""Supervision of the thread that reads a source, since a library may never return from a call."""

from __future__ import annotations

import time

FIRST_IMAGE_S = 15.0
"""Longest wait for a first image: some cameras send a whole one only every ten seconds."""
OVERDUE_S = 0.25
"""Delay after which silence is noticed from outside, if the reading thread has not noticed it."""
STUCK_S = 20.0
"""Seconds past its timeout after which a call never returns: its process must end."""
STUCK_OPENING_S = 60.0
"""Timeout while opening: resolving a name takes half a minute if no name server answers."""


class Watchdog:
    """Time that the reading thread has been in the library.

    It has no lock of its own: the lock of the `LiveReader` protects it.
    """

    def __init__(self) -> None:
        self._entered_ns = 0
        """Time at which the thread called the library; 0: it is not there."""
        self.patience_s = 0.0
        """Longest time that the last call may take; 0: it has a timeout of its own."""
        self.is_stuck = False
        """Whether a call was found never to return."""

    def enter(self, patience_s: float) -> None:
        """Note that the thread calls the library.

        Args:
            patience_s: longest time that it may stay; 0: the call has a timeout of its own.
        """
        self.patience_s, self._entered_ns = patience_s, time.monotonic_ns()

    def leave(self) -> float:
        """Note that the thread is back from the library; return the seconds it was there."""
        took_ns, self._entered_ns = time.monotonic_ns() - self._entered_ns, 0
        return took_ns / 1e9

    @property
    def silent_s(self) -> float:
        """Seconds that the thread has been in the library; 0: it is not there."""
        return (time.monotonic_ns() - self._entered_ns) / 1e9 if self._entered_ns else 0.0

    @property
    def max_silent_s(self) -> float:
        """Seconds from which on the call never returns."""
        return self.patience_s + STUCK_S if self.patience_s else STUCK_OPENING_S

    @property
    def is_overdue(self) -> bool:
        """Whether the thread has been in the library for longer than its patience."""
        return 0 < self.patience_s < self.silent_s - OVERDUE_S
