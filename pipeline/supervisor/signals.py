"""Signals to the supervisor, queued for its loop."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


class SignalQueue:
    """Queue of SIGINT, SIGTERM and SIGHUP while the context is open; wakes a poll."""

    def __init__(self) -> None:
        self._queue: deque[int] = deque()
        self._old: dict[int, Any] = {}
        """Signal -> handler to be restored."""
        self._old_wake = -1
        self.wake_fd = self._wake_out = -1
        """Becomes readable when a signal arrives."""

    def __enter__(self) -> SignalQueue:
        self.wake_fd, self._wake_out = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._wake_out, False)
        self._old_wake = signal.set_wakeup_fd(self._wake_out)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
            numbers.append(signal.SIGHUP)
        self._old = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wake)
        os.close(self.wake_fd)
        os.close(self._wake_out)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._queue.append(number)

    def take(self) -> Iterator[int]:
        """Yield the signals that have arrived, oldest first."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            pass
        while self._queue:
            yield self._queue.popleft()
