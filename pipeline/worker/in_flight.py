"""The frames in flight of one stream: none is lost, and none is counted twice.

Capture lends a slot for every frame and ends the loan when all last stages have returned it.
Nothing in between needs to be reliable. When a worker dies, the attempt of every frame in flight
is raised, which makes all copies under way void, and each frame is resent from its slot as soon
as every live worker has released the slot. Without a death, frames that do not return within a
timeout are resent in the same way.
"""

from __future__ import annotations

import itertools
from collections import deque

from pipeline.edge import Return
from pipeline.frame import Header, Span, Status
from pipeline.memory.arena import POISON_BLAMES, Arena
from pipeline.memory.worker_table import WorkerTable

SETTLE_NS = 1_000_000
"""Between voiding the copies of a frame and asking which worker holds it. A worker publishes its
hold and then reads the attempt; without a pause each side could miss the other's store (both are
still in the processors' store buffers)."""
IDLE_NS = 1_000_000_000
"""Timeout for frames in flight while no worker holds any frame: a message was lost without a
death. It should not happen; if it does, it costs this long and not the run."""
STUCK_NS = 30_000_000_000
"""Timeout while workers are busy with other frames; doubles each time nothing returned."""


class InFlight:
    """The loans of one stream."""

    def __init__(
        self,
        arena: Arena,
        worker_table: WorkerTable,
        stream: int,
        leaves: int,
        too_old_ns: int | None,
    ) -> None:
        """Start without loans, until `resume`.

        Args:
            arena: arena of the stream.
            worker_table: worker table of the run.
            stream: index of the stream.
            leaves: bit set of the last stages; each must return a frame.
            too_old_ns: a live frame older than this is dropped and not resent after a death;
                None: every frame is resent.
        """
        self._arena, self._worker_table, self._stream = arena, worker_table, stream
        self._leaves, self._too_old_ns = leaves, too_old_ns
        self._slots = (*range(arena.slots), arena.end_slot)
        self._free: deque[int] = deque()
        self._lent: set[int] = set()
        self._returned = dict.fromkeys(self._slots, 0)
        """Slot -> bit set of the last stages that have returned its frame."""
        self._causes = dict.fromkeys(self._slots, "")
        self._spans: dict[int, list[Span]] = {}
        self._due: list[int] = []
        """Slots to be resent, oldest frame first."""
        self._due_ns = 0
        self._next_seq = 0
        self._epoch = worker_table.epoch
        self._moved_ns = self._idle_since_ns = 0
        self._timeout_ns = STUCK_NS

    def resume(self, now_ns: int) -> None:
        """Take up the loans as the arena has them: none at first, those in flight after a crash.

        Args:
            now_ns: monotonic time.
        """
        arena = self._arena
        self._free = deque(slot for slot in range(arena.slots) if not arena.is_lent(slot))
        self._lent = {slot for slot in self._slots if arena.is_lent(slot)}
        self._next_seq = arena.next_seq
        self._epoch = self._worker_table.epoch
        self._moved_ns = self._idle_since_ns = now_ns
        if self._lent:
            self._void_all(now_ns)

    @property
    def count(self) -> int:
        """Number of lent slots."""
        return len(self._lent)

    @property
    def next_seq(self) -> int:
        """Number of the next frame."""
        return self._next_seq

    @property
    def has_free_slot(self) -> bool:
        """Whether one more frame can be lent."""
        return bool(self._free)

    def blank(self) -> Header:
        """Return the header of the next frame, in a free slot that is reserved, not yet lent."""
        slot = self._free[0]
        return Header(
            stream=self._stream,
            seq=self._next_seq,
            attempt=0,
            slot=slot,
            generation=self._arena.generation(slot) + 1,
            limit=self._arena.slot_bytes,
        )

    def lend(self, header: Header) -> None:
        """Lend the slot of a filled frame."""
        self._free.popleft()
        self._begin(header)
        self._next_seq += 1

    def lend_end(self, now_ns: int, wall_ns: int) -> Header:
        """Lend the end of the stream as a frame, in its own slot, and return its header."""
        slot = self._arena.end_slot
        generation = self._arena.generation(slot) + 1
        header = Header(
            stream=self._stream,
            seq=self._next_seq,
            attempt=0,
            slot=slot,
            generation=generation,
            status=Status.END,
            captured_ns=now_ns,
            wall_ns=wall_ns,
        )
        self._begin(header)
        return header

    def _begin(self, header: Header) -> None:
        slot = header.slot
        self._returned[slot], self._causes[slot] = 0, ""
        self._spans.pop(slot, None)
        self._arena.lend(slot, header)
        self._lent.add(slot)

    def take_back(self, done: Return, now_ns: int) -> tuple[str, list[Span]] | None:
        """Record a return; when it was the last one missing, end the loan.

        Returns:
            The outcome ("" delivered, else the cause) and the spans of the stages that worked on
            the frame; None while other returns are missing, or if this one is void.
        """
        slot = done.slot
        if (
            slot not in self._lent
            or self._arena.generation(slot) != done.generation
            or self._arena.attempt(slot) != done.attempt
        ):
            return None
        self._moved_ns = self._idle_since_ns = now_ns
        self._timeout_ns = STUCK_NS
        self._returned[slot] |= done.leaves
        self._causes[slot] = self._causes[slot] or done.cause
        spans = self._spans.setdefault(slot, [])
        spans.extend(span for span in done.spans if span not in spans)
        if self._returned[slot] != self._leaves:
            return None
        outcome = self._causes[slot]
        self._arena.end_loan(slot, outcome)
        self._lent.discard(slot)
        if slot != self._arena.end_slot:
            self._free.append(slot)
        return outcome, spans

    def watch(self, now_ns: int) -> str | None:
        """Look for deaths and lost messages; void the frames in flight then. Call it all the time.

        Returns:
            "death" or "unreturned" if frames are about to be resent, else None.
        """
        if self._worker_table.epoch != self._epoch:
            self._epoch = self._worker_table.epoch
            self._void_all(now_ns)
            return "death"
        if not self._lent or self._due:
            self._moved_ns = self._idle_since_ns = now_ns
            return None
        if now_ns - self._idle_since_ns < IDLE_NS // 10:
            return None
        if not self._worker_table.is_idle(now_ns):
            self._idle_since_ns = now_ns
        if self._worker_table.is_opening():
            self._moved_ns = now_ns  # frames wait for a worker that opens, however long that takes
        idle = now_ns - self._idle_since_ns > IDLE_NS and now_ns - self._moved_ns > IDLE_NS
        stuck = now_ns - self._moved_ns > self._timeout_ns
        if stuck and any(self._worker_table.is_held(self._stream, slot) for slot in self._lent):
            self._moved_ns = now_ns  # a worker has one in hand, a paused window for example
            return None
        if idle or stuck:
            self._timeout_ns *= 2
            self._moved_ns = self._idle_since_ns = now_ns
            self._void_all(now_ns)
            return "unreturned"
        return None

    def due(self, now_ns: int, *, in_order: bool = False) -> list[Header]:
        """Return headers of frames to resend now: every live worker has released their slots.

        Args:
            now_ns: monotonic time.
            in_order: resend none before an older one.
        """
        if not self._due or now_ns < self._due_ns:
            return []
        select = itertools.takewhile if in_order else filter
        ready = list(
            select(lambda slot: not self._worker_table.is_held(self._stream, slot), self._due)
        )
        self._due = [slot for slot in self._due if slot not in ready]
        return [self._header_again(slot, now_ns) for slot in ready]

    @property
    def awaiting_release(self) -> bool:
        """Whether frames wait to be resent, until workers release their slots."""
        return bool(self._due)

    def _void_all(self, now_ns: int) -> None:
        for slot in self._lent:
            self._arena.raise_attempt(slot)
            self._returned[slot], self._causes[slot] = 0, ""
            self._spans.pop(slot, None)
        self._due = sorted(self._lent, key=self._arena.seq)
        self._due_ns = now_ns + SETTLE_NS

    def _header_again(self, slot: int, now_ns: int) -> Header:
        header = self._arena.header_again(slot, self._stream)
        if header.status == Status.END:
            return header
        if self._arena.blames(slot) > POISON_BLAMES:
            header.without_arrays(Status.FAILED, "poison")
        elif self._too_old_ns is not None and now_ns - header.captured_ns > self._too_old_ns:
            header.without_arrays(Status.DROPPED, "restart")
        return header
