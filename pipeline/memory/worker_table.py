"""The worker table: one row per worker, in shared memory.

A row holds the worker's incarnation, the time of its last heartbeat, the frames it has in hand, and
how much work it has finished for each sender. Workers and supervisor read each other's rows, so
none of this needs a message.
"""

from __future__ import annotations

import msgspec

from pipeline.frame import Header
from pipeline.memory.shared import WORD, SharedMemory

# Words of the table's head and of a worker's row.
_EPOCH, _STOP, _ROWS = range(3)
_TABLE_HEAD = 8
_INCARNATION, _READY, _BEAT, _SENDER_WAITING, _RELEASED, _IN_FLIGHT = range(6)
_ROW_HEAD = 8
FRESH_NS = 500_000_000
"""Longest pause between two heartbeats of a healthy worker; see `worker.BEAT_MS`."""
MAX_HOLDS = 32
"""Frames that a worker may have in hand at once: the largest batch."""

# A hold is one word, so that it is published in one store.
_SLOT_BITS, _STREAM_BITS, _GENERATION_BITS = 10, 12, 40


class Hold(msgspec.Struct, frozen=True):
    """A frame that a worker has in hand."""

    stream: int
    slot: int
    generation: int


class WorkerTable:
    """One row per worker, written by the worker itself and, at its death, by the supervisor."""

    def __init__(self, workers: int, spare: int = 0) -> None:
        """Make the rows.

        Args:
            workers: workers of the run as it starts.
            spare: rows for workers of streams that are added later; they take no memory.
        """
        self.max_rows = workers + spare
        self._row = _ROW_HEAD + MAX_HOLDS + self.max_rows
        size = (_TABLE_HEAD + self.max_rows * self._row) * WORD
        self._words = SharedMemory("eyeline:workers", size).words
        self._words[_ROWS] = workers

    @property
    def workers(self) -> int:
        """Number of rows that are or were in use."""
        return int(self._words[_ROWS])

    def _at(self, worker: int) -> int:
        return _TABLE_HEAD + worker * self._row

    @property
    def epoch(self) -> int:
        """Number of deaths; when it changes, capture resends the frames in flight."""
        return self._words[_EPOCH]

    @property
    def stopping(self) -> bool:
        """Whether sources must end, so that the run drains."""
        return bool(self._words[_STOP])

    def stop(self) -> None:
        """Ask every source to end."""
        self._words[_STOP] = 1

    # --- written by the supervisor ---

    def mark_dead(self, worker: int) -> list[Hold]:
        """Record a death: release the worker's holds and announce its successor.

        The successor is announced before it is started, so that messages to it wait in the
        sender's socket.

        Returns:
            The frames that the worker had in hand.
        """
        at = self._at(worker)
        self._words[at + _READY] = 0
        holds = self._holds(worker)
        for i in range(MAX_HOLDS):
            self._words[at + _ROW_HEAD + i] = 0
        for i in range(self.max_rows):
            self._words[at + _ROW_HEAD + MAX_HOLDS + i] = 0
        self._words[at + _SENDER_WAITING] = 0
        self._words[at + _BEAT] = 0
        self._words[at + _INCARNATION] += 1
        return holds

    def release_row(self, worker: int) -> None:
        """Release the row of a worker that has ended without a successor; it can be used again."""
        self.mark_dead(worker)
        self._words[self._at(worker) + _IN_FLIGHT] = 0
        self._words[self._at(worker) + _RELEASED] = 1

    def add_row(self) -> int:
        """Reserve a row for one more worker, and return its index.

        Raises:
            IndexError: all rows are in use.
        """
        for worker in range(self.workers):
            if self._words[self._at(worker) + _RELEASED]:
                self._words[self._at(worker) + _RELEASED] = 0
                return worker
        worker = self.workers
        if worker == self.max_rows:
            raise IndexError(f"all {self.max_rows} rows of the worker table are in use")
        self._words[_ROWS] = worker + 1
        return worker

    def raise_epoch(self) -> None:
        """Make every capture worker resend its frames in flight."""
        self._words[_EPOCH] += 1

    # --- written by the worker itself ---

    def ready(self, worker: int) -> None:
        """Record that the worker's stages are open: it accepts work."""
        self._words[self._at(worker) + _READY] = 1

    def beat(self, worker: int, now_ns: int) -> None:
        """Send a heartbeat.

        Args:
            worker: index of the worker.
            now_ns: monotonic time.
        """
        self._words[self._at(worker) + _BEAT] = now_ns

    def hold(self, worker: int, index: int, header: Header) -> None:
        """Publish that the worker has a frame in hand. One store.

        Args:
            worker: index of the worker.
            index: which of its `MAX_HOLDS` holds.
            header: header of the frame.
        """
        self._words[self._at(worker) + _ROW_HEAD + index] = (
            1
            + header.slot
            + (header.stream << _SLOT_BITS)
            + (header.generation << (_SLOT_BITS + _STREAM_BITS))
        )

    def release(self, worker: int, index: int) -> None:
        """Withdraw a hold. One store."""
        self._words[self._at(worker) + _ROW_HEAD + index] = 0

    def set_sender_waiting(self, worker: int, waiting: bool) -> None:
        """Publish whether the worker, as a sender, waits for a receiver to become free."""
        self._words[self._at(worker) + _SENDER_WAITING] = waiting

    def count_done(self, worker: int, sender: int) -> None:
        """Count one frame of a sender that the worker has finished."""
        self._words[self._at(worker) + _ROW_HEAD + MAX_HOLDS + sender] += 1

    def set_in_flight(self, worker: int, frames: int) -> None:
        """Publish how many frames of its live stream a capture worker has lent."""
        self._words[self._at(worker) + _IN_FLIGHT] = frames

    # --- read by anyone ---

    @property
    def live_in_flight(self) -> int:
        """Number of frames in flight of all live streams."""
        return sum(self._words[self._at(worker) + _IN_FLIGHT] for worker in range(self.workers))

    def is_opening(self) -> bool:
        """Return whether a worker is opening its stages, at first or after a restart."""
        return not all(
            self.is_ready(worker) or self._words[self._at(worker) + _RELEASED]
            for worker in range(self.workers)
        )

    def incarnation(self, worker: int) -> int:
        """Return how many predecessors the worker has had."""
        return self._words[self._at(worker) + _INCARNATION]

    def is_ready(self, worker: int) -> bool:
        """Return whether the worker accepts work."""
        return bool(self._words[self._at(worker) + _READY])

    def last_beat_ns(self, worker: int) -> int:
        """Return the monotonic time of the last heartbeat; 0 before the first."""
        return self._words[self._at(worker) + _BEAT]

    def is_sender_waiting(self, worker: int) -> bool:
        """Return whether the worker, as a sender, waits for a receiver to become free."""
        return bool(self._words[self._at(worker) + _SENDER_WAITING])

    def done(self, worker: int, sender: int) -> int:
        """Return how many frames of a sender this incarnation has finished."""
        return self._words[self._at(worker) + _ROW_HEAD + MAX_HOLDS + sender]

    def is_held(self, stream: int, slot: int) -> bool:
        """Return whether any worker has a frame of this slot in hand."""
        want = 1 + slot + (stream << _SLOT_BITS)
        mask = (1 << (_SLOT_BITS + _STREAM_BITS)) - 1
        for worker in range(self.workers):
            at = self._at(worker) + _ROW_HEAD
            for word in self._words[at : at + MAX_HOLDS]:
                if word and word & mask == want:
                    return True
        return False

    def is_idle(self, now_ns: int) -> bool:
        """Return whether all workers are ready and healthy and none has a frame in hand."""
        return all(
            self._words[self._at(worker) + _RELEASED]
            or (
                self.is_ready(worker)
                and now_ns - self.last_beat_ns(worker) < FRESH_NS
                and not self._holds(worker)
            )
            for worker in range(self.workers)
        )

    def in_hand(self, worker: int) -> int:
        """Return how many frames the worker has in hand."""
        return len(self._holds(worker))

    def _holds(self, worker: int) -> list[Hold]:
        at = self._at(worker) + _ROW_HEAD
        return [_unpack(word) for word in self._words[at : at + MAX_HOLDS] if word]


def _unpack(word: int) -> Hold:
    word -= 1
    return Hold(
        stream=(word >> _SLOT_BITS) & ((1 << _STREAM_BITS) - 1),
        slot=word & ((1 << _SLOT_BITS) - 1),
        generation=word >> (_SLOT_BITS + _STREAM_BITS),
    )
