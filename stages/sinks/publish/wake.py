"""Wakes a thread that waits in `poll`."""

from __future__ import annotations

import os
import select


class Wake:
    """Wakes a thread that waits, also one that waits for a socket at the same time."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self) -> None:
        """Make the descriptor."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return a descriptor to poll, which is readable once `set` was called."""
        return self._fd

    def set(self) -> None:
        """Wake the waiting thread; from any thread."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Take back `set`."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def wait(self, timeout_s: float) -> None:
        """Wait until `set` is called, and take it back."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.poll(max(0, round(timeout_s * 1000)))
        self.clear()

    def close(self) -> None:
        """Release it. May be called twice, and before `open`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
