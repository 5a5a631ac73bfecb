"""Custody: capture's side of the promise that no frame is lost and none counted twice.

Capture lends a slot for every frame and ends the loan when all last stages have returned it.
Nothing in between needs to be reliable. When a worker dies, the attempt of every frame in flight
is raised, which makes all copies under way void, and each is sent again from its slot as soon as
no live worker has the slot in hand.
"""

from __future__ import annotations

import itertools
from collections import deque

from pipeline.edge import Return
from pipeline.frame import Header, Span, Status
from pipeline.memory.arena import POISON_BLAMES, Arena
from pipeline.memory.worker_table import WorkerTable

SETTLE_NS = 1_000_000
"""Between voiding the copies of a frame and asking who holds it. A worker publishes its hold and
then reads the attempt; without a pause each side could miss the other's store (both are still in
the processors' store buffers)."""

IDLE_NS = 1_000_000_000
"""Frames are in flight, yet nothing returned and nobody held any frame for so long: a message was
lost without a death. It should not happen; if it does, it costs this long and not the run."""

STUCK_NS = 30_000_000_000
"""The same, when others are busy: doubles each time nothing returned."""


class Custody:
    """The loans of one stream."""

    def __init__(
        self,
        arena: Arena,
        worker_table: WorkerTable,
        stream: int,
        leaves: int,
        too_old_ns: int | None,
        now_ns: int,
    ) -> None:
        """Take up the loans as the arena has them: none at first, those in flight after a crash.

        Args:
            arena: of the stream.
            worker_table: worker table of the run.
            stream: index of the stream.
            leaves: bit set of the last stages; each must return a frame.
            too_old_ns: a live frame older than this is not sent again after a death; None: any is.
            now_ns: monotonic time.
        """
        self._arena, self._worker_table, self._stream = arena, worker_table, stream
        self._leaves, self._too_old_ns = leaves, too_old_ns
        slots = range(arena.slots)
        self._free = deque(slot for slot in slots if not arena.is_lent(slot))
        self._lent = {slot for slot in (*slots, arena.end_slot) if arena.is_lent(slot)}
        self._returned = dict.fromkeys((*slots, arena.end_slot), 0)
        self._causes = dict.fromkeys((*slots, arena.end_slot), "")
        self._spans: dict[int, list[Span]] = {}
        self._due: list[int] = []
        self._due_ns = 0
        self._next_seq = arena.next_seq
        self._epoch = worker_table.epoch
        self._moved_ns = self._idle_since_ns = now_ns
        self._patience_ns = STUCK_NS
        if self._lent:
            self._void_all(now_ns)

    @property
    def in_flight(self) -> int:
        """How many slots are lent."""
        return len(self._lent)

    @property
    def next_seq(self) -> int:
        """Number of the next frame."""
        return self._next_seq

    @property
    def has_free_slot(self) -> bool:
        """Whether a frame can be taken into custody."""
        return bool(self._free)

    def blank(self) -> Header:
        """The header of the next frame, in a free slot that is reserved for it, not yet lent."""
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
        """Take a filled frame into custody."""
        self._free.popleft()
        self._begin(header)
        self._next_seq += 1

    def lend_end(self, now_ns: int, wall_ns: int) -> Header:
        """The end of the stream as a frame, in a slot of its own, taken into custody."""
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
        """Note a return; when it was the last one missing, end the loan.

        Returns:
            The outcome ("" delivered, else the cause) and when who worked on the frame; None
            while others are missing, or if the return is void.
        """
        slot = done.slot
        if (
            slot not in self._lent
            or self._arena.generation(slot) != done.generation
            or self._arena.attempt(slot) != done.attempt
        ):
            return None
        self._moved_ns = self._idle_since_ns = now_ns
        self._patience_ns = STUCK_NS
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
        """Notice deaths and lost messages; void what is in flight. Call it all the time.

        Returns:
            "death" or "unreturned" if frames are about to be sent again, else None.
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
        stuck = now_ns - self._moved_ns > self._patience_ns
        if stuck and any(self._worker_table.is_held(self._stream, slot) for slot in self._lent):
            self._moved_ns = now_ns  # somebody is at work on one, a paused window for example
            return None
        if idle or stuck:
            self._patience_ns *= 2
            self._moved_ns = self._idle_since_ns = now_ns
            self._void_all(now_ns)
            return "unreturned"
        return None

    def due(self, now_ns: int, *, in_order: bool = False) -> list[Header]:
        """Headers of frames to send again now: nobody has their slots in hand any more.

        Args:
            now_ns: monotonic time.
            in_order: none before an older one.
        """
        if not self._due or now_ns < self._due_ns:
            return []
        select = itertools.takewhile if in_order else filter
        ready = list(
            select(lambda slot: not self._worker_table.is_held(self._stream, slot), self._due)
        )
        self._due = [slot for slot in self._due if slot not in ready]
        return [self._again(slot, now_ns) for slot in ready]

    @property
    def waits_for_holders(self) -> bool:
        """Whether frames wait to be sent again."""
        return bool(self._due)

    def _void_all(self, now_ns: int) -> None:
        for slot in self._lent:
            self._arena.raise_attempt(slot)
            self._returned[slot], self._causes[slot] = 0, ""
            self._spans.pop(slot, None)
        self._due = sorted(self._lent, key=self._arena.seq)
        self._due_ns = now_ns + SETTLE_NS

    def _again(self, slot: int, now_ns: int) -> Header:
        header = self._arena.header_again(slot, self._stream)
        if header.status == Status.END:
            return header
        if self._arena.blames(slot) > POISON_BLAMES:
            header.without_arrays(Status.FAILED, "poison")
        elif self._too_old_ns is not None and now_ns - header.captured_ns > self._too_old_ns:
            header.without_arrays(Status.DROPPED, "restart")
        return header
