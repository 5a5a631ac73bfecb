"""Whether the destination of a publisher is reachable, and since when."""

from __future__ import annotations

import time

from pipeline.context import Log


class Reachability:
    """State of a destination; logs each change.

    Args:
        log: logger of the sink.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._since_s = time.monotonic()
        """Monotonic time of the last change."""
        self._is_connected = False
        self.reason = ""
        """Why it is unreachable; empty: it is reachable, or was not tried yet."""

    def connected(self, destination: str, waiting: int) -> None:
        """Note that the destination takes messages.

        Args:
            destination: without credentials.
            waiting: number of messages in the spool.
        """
        if self._is_connected:
            return
        spooled = f"; sending {waiting} messages from the spool" if waiting else ""
        if self.reason:
            lost_s = time.monotonic() - self._since_s
            self._log.info("%s reachable again after %.0f s%s", destination, lost_s, spooled)
        else:
            self._log.info("connected to %s%s", destination, spooled)
        self._is_connected, self.reason, self._since_s = True, "", time.monotonic()

    def connected_s(self) -> float:
        """Return for how long the destination has been reachable; 0: it is not."""
        return time.monotonic() - self._since_s if self._is_connected else 0.0

    def lost(self, reason: str) -> bool:
        """Note that the destination is unreachable, and return whether the reason is a new one."""
        if self._is_connected or not self.reason:
            self._since_s = time.monotonic()
        is_new = reason != self.reason
        self._is_connected, self.reason = False, reason
        return is_new
