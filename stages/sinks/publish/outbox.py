"""Messages of a sink that are to be sent: in memory while they are in flight, else on disk."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from pipeline.context import Log
from pipeline.messages import passes_power_of_ten
from stages.sinks.publish.spool import (
    MAX_MESSAGE_BYTES,
    MAX_TAKE_BYTES,
    Message,
    Spool,
    SpoolError,
)

MAX_MEMORY_MESSAGES = 10_000
MAX_MEMORY_BYTES = 16 << 20
"""Limits of the messages in memory, over all streams."""
MAX_STATE_MESSAGES = 500
MAX_STATE_BYTES = 256 << 10
"""Limits of the messages of a stream that are saved to survive a crash; the newest are kept."""
RETRY_S = 10.0
"""Pause before a disk that failed is tried again."""


class Outbox:
    """Messages to be sent, in order; where there is no room, the oldest are dropped.

    While the destination is reachable, messages stay in memory, and `unsaved` returns those that a
    crash would cost; the disk, often an SD card, is written only while it is unreachable. One
    thread puts messages and never waits for a disk. Another one sends them, and calls all other
    methods except `unsaved` and those that return counts.

    Args:
        log: logger of the sink.
        spool: keeps messages on disk; None: they are only in memory.
        wake: called when there is a new message.
    """

    def __init__(self, log: Log, spool: Spool | None, wake: Callable[[], None]) -> None:
        self._log, self._spool, self._wake = log, spool, wake
        self._lock = threading.Lock()
        """Guards the messages in memory."""
        self._disk = threading.RLock()
        """Guards the spool; acquired before the other one."""
        self._memory: deque[tuple[int, Message]] = deque()
        self._memory_bytes = 0
        self._of_stream: dict[str, deque[Message]] = {}
        """The same messages, by stream."""
        self._number = 0
        """Number of the newest message."""
        self._taken = 0
        """Messages up to this number were taken to be sent."""
        self._retry_at_s = 0.0
        self._trouble = ""
        """Why the disk cannot be written; empty: it can, or was not tried."""
        self.dropped: Counter[str] = Counter()
        """Cause -> messages that were lost here: "spool full", "memory full", "too large"."""
        self.spooled = 0
        """Messages that went to the disk."""

    def open(self) -> None:
        """Open the spool, which may hold messages. A disk that fails is no error: see `trouble`."""
        with self._disk:
            self._open_spool()

    @property
    def in_spool(self) -> int:
        """Number of messages on disk."""
        return self._spool.count if self._spool is not None and self._spool.is_open else 0

    @property
    def in_memory(self) -> int:
        """Number of messages in memory."""
        return len(self._memory)

    @property
    def trouble(self) -> str:
        """Error of the disk; empty: none."""
        return self._trouble

    def put(self, message: Message) -> None:
        """Add a message; never waits."""
        if message.size > MAX_MESSAGE_BYTES:
            self._count_dropped("too large", 1)
            return
        with self._lock:
            self._number += 1
            self._memory.append((self._number, message))
            self._of_stream.setdefault(message.stream, deque()).append(message)
            self._memory_bytes += message.size
            gone = 0
            while len(self._memory) > MAX_MEMORY_MESSAGES or self._memory_bytes > MAX_MEMORY_BYTES:
                self._drop_oldest()
                gone += 1
        self._count_dropped("memory full", gone)
        self._wake()

    def unsaved(self, stream: str) -> list[Message]:
        """Return the messages of a stream that are only in memory: the newest, oldest first."""
        with self._lock:
            kept: list[Message] = []
            size = 0
            for message in reversed(self._of_stream.get(stream, ())):
                size += message.size
                if size > MAX_STATE_BYTES or len(kept) == MAX_STATE_MESSAGES:
                    break
                kept.append(message)
        return kept[::-1]

    def take(self, limit: int) -> list[tuple[int, Message]]:
        """Return the next messages to send, with their numbers; they stay until they are `done`.

        Args:
            limit: how many at most; there may be fewer although more wait.
        """
        with self._disk:
            taken: list[tuple[int, Message]] = []
            if self._spool is not None and self._spool.count:
                try:
                    taken = self._spool.read(self._taken, limit)
                except SpoolError as error:
                    # What is in memory continues. It must not be taken for what the disk holds when
                    # it is confirmed; that is read when the disk is well again.
                    self._spool.close()
                    self._on_failure(error)
            if not taken:
                taken = self._take_from_memory(limit)
            if taken:
                self._taken = taken[-1][0]
            return taken

    def done(self, through: int) -> None:
        """All messages up to this number have arrived."""
        with self._disk:
            if self._spool is not None and self._spool.is_open:
                try:
                    self._spool.remove(through)
                except SpoolError as error:
                    self._on_failure(error)
            with self._lock:
                while self._memory and self._memory[0][0] <= through:
                    self._drop_oldest()

    def back(self) -> None:
        """Take the messages again that were taken and are not done."""
        self._taken = 0

    def store(self) -> None:
        """Move the messages in memory to the disk, if it can be written."""
        with self._disk:
            if self._spool is None or time.monotonic() < self._retry_at_s:
                return
            if not self._spool.is_open and not self._open_spool():
                return
            if not self._memory:
                return
            with self._lock:
                messages = list(self._memory)
            try:
                gone = self._spool.append(messages)
            except SpoolError as error:
                self._on_failure(error)
                return
            with self._lock:
                while self._memory and self._memory[0][0] <= messages[-1][0]:
                    self._drop_oldest()
            self._on_success()
            self._count_dropped("spool full", gone)
            self.spooled += len(messages)

    def close(self) -> None:
        """Store the messages in memory, and release the spool. May be called twice."""
        with self._disk:
            if self._memory:
                self._retry_at_s = 0.0
                self.store()
            if self._spool is not None:
                self._spool.close()
            self._spool = None

    def _take_from_memory(self, limit: int) -> list[tuple[int, Message]]:
        taken: list[tuple[int, Message]] = []
        size = 0
        with self._lock:
            rest = itertools.dropwhile(lambda item: item[0] <= self._taken, self._memory)
            for number, message in itertools.islice(rest, limit):
                size += message.size
                if taken and size > MAX_TAKE_BYTES:
                    break
                taken.append((number, message))
        return taken

    def _open_spool(self) -> bool:
        """Open the spool, and return whether it can be used."""
        if self._spool is None:
            return False
        with self._lock:
            if self._memory and self._memory[0][0] <= self._taken:
                return False  # the numbers of messages in flight must not change
        try:
            self._spool.open()
        except SpoolError as error:
            self._on_failure(error)
            return False
        with self._lock:
            # Its messages are older than those in memory.
            if self._spool.newest >= (self._memory[0][0] if self._memory else self._number + 1):
                start = max(self._number, self._spool.newest) + 1
                self._memory = deque(enumerate((m for _, m in self._memory), start))
                self._number = start + len(self._memory) - 1
            self._taken = 0
        self._on_success()
        return True

    def _on_failure(self, error: SpoolError) -> None:
        assert self._spool is not None
        self._retry_at_s = time.monotonic() + RETRY_S
        if not self._trouble:
            self._log.warning(
                "spool %r cannot be used (%s); keeping up to %d messages in memory",
                str(self._spool.path),
                error,
                MAX_MEMORY_MESSAGES,
            )
        self._trouble = str(error)

    def _on_success(self) -> None:
        assert self._spool is not None
        if self._trouble:
            self._log.info("spool %r can be used again", str(self._spool.path))
        self._trouble = ""

    def _drop_oldest(self) -> None:
        """Drop the oldest message in memory; the caller holds the lock."""
        _, message = self._memory.popleft()
        self._memory_bytes -= message.size
        of_stream = self._of_stream[message.stream]
        of_stream.popleft()
        if not of_stream:
            del self._of_stream[message.stream]

    def _count_dropped(self, cause: str, count: int) -> None:
        if not count:
            return
        before = self.dropped[cause]
        self.dropped[cause] += count
        if passes_power_of_ten(before, before + count):
            which = "a message was" if cause == "too large" else "the oldest messages were"
            self._log.warning("%s: %s dropped, %d so far", cause, which, before + count)
