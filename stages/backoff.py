"""Delays between retries: exponential, with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable

INITIAL_DELAY_S = 0.5
MAX_DELAY_S = 30.0
HEALTHY_S = 60.0
"""After a connection of this length the next retry comes as soon as the first one."""


class Backoff:
    """Delays before retries: each about twice as long, and never the same for all connections.

    "Equal jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._failures = 0

    def delay_s(self, lived_s: float) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            lived_s: how long the connection worked before it was lost; 0: it never did.
        """
        if lived_s >= HEALTHY_S:
            self._failures = 0
        # Half of it is random, so that cameras lost in one power cut do not return all at once.
        ceiling_s = min(MAX_DELAY_S, INITIAL_DELAY_S * 2.0 ** (1 + min(self._failures, 20)))
        self._failures += 1
        return ceiling_s * (1 + self._chance()) / 2
