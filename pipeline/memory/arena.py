"""The memory of one stream: its slots, slot table and ledger, and the states of ordered stages.

Every word has 8 bytes and one writer, and every store of a word is atomic:

- the **slot table** and the **ledger** are written by the capture worker of the stream. A slot is
  lent while its `loans` exceed the sum of its outcomes. A loan and its end are one store each, so
  `captured = delivered + dropped + failed + in flight` holds at every instant, also when capture
  is killed between any two instructions;
- the **blame** of a slot is written by the supervisor when a worker died with the frame in hand.

Slot table, ledger and head are one layout of words, so they are in one file.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.errors import RunError
from pipeline.frame import ALIGN, FILE, Header, Status
from pipeline.memory.saved_states import SavedStates
from pipeline.memory.shared import PAGE, WORD, SharedMemory, memory_available

SLOT_BYTES = 64 << 20
"""Room of one slot. Address space, not memory: only touched pages cost."""
POISON_BLAMES = 3
"""A frame that was in hand at more deaths than this is not sent again."""

# Words of a stream's head.
_BUSY, _DECODE, _ENDED, _AWAY_NS, _RECONNECTS, _PAUSED, _REMOVED = range(7)
_HEAD_WORDS = 64

# Words of a slot. Outcomes are consecutive; `failed:STAGE` takes one word per stage after them.
_LOANS, _SEQ, _ATTEMPT, _STATUS = range(4)
_CAPTURED_NS, _WALL_NS, _SOURCE_NS, _NTP_NS = range(4, 8)
_WIDTH, _HEIGHT, _STILL, _FILE_BYTES = range(8, 12)
_BLAMED_GENERATION, _BLAMES = range(12, 14)
_DELIVERED, _STALE, _RESTART, _POISON, _FAILED = range(14, 19)

DROPPED_CAUSES = ("stale", "restart")


class Ledger(msgspec.Struct, frozen=True):
    """The account of one stream at one instant; `captured` is the sum of all others."""

    captured: int
    delivered: int
    dropped: dict[str, int]
    """Cause -> frames: "busy", "stale", "restart"."""
    failed: dict[str, int]
    """Cause -> frames: "decode", "poison", "failed:STAGE"."""
    in_flight: int


class Arena:
    """The memory of one stream: head, slot table, saved states of ordered stages, slots.

    The slot after the last (`end_slot`) carries the end of the stream. It holds no image and does
    not count in the ledger.
    """

    def __init__(
        self,
        stream: str,
        slots: int,
        stages: Sequence[str],
        ordered: Sequence[str],
        slot_bytes: int = SLOT_BYTES,
        path: str | None = None,
    ) -> None:
        """Lay out an arena, or map an existing one of the same layout.

        Args:
            stream: name of the stream.
            slots: frames that may be in flight.
            stages: names of all stages, for the causes `failed:STAGE`.
            ordered: names of the stages that save their state.
            slot_bytes: room of one slot.
            path: memory of an existing arena, /proc/PID/fd/N; None: make it.
        """
        self.stream = stream
        self.slots = slots
        self.end_slot = slots
        self.slot_bytes = slot_bytes
        self._causes = {
            "": _DELIVERED,
            "stale": _STALE,
            "restart": _RESTART,
            "poison": _POISON,
            **{f"failed:{stage}": _FAILED + i for i, stage in enumerate(stages)},
        }
        self._row = _FAILED + len(stages)
        table = (_HEAD_WORDS + (slots + 1) * self._row) * WORD
        start = -(-table // PAGE) * PAGE
        self._first_slot = start + SavedStates.size(len(ordered), slots)
        self._memory = SharedMemory(
            f"eyeline:{stream}", self._first_slot + slots * slot_bytes, path
        )
        self._words = self._memory.words
        self.states = SavedStates(self._memory, start, ordered, slots)
        """Saved states of the ordered stages, written by the worker of each stage alone."""

    # --- slots: written by capture alone ---

    def _at(self, slot: int) -> int:
        return _HEAD_WORDS + slot * self._row

    def lend(self, slot: int, header: Header) -> None:
        """Record the frame that was written into a free slot, and lend the slot for it.

        The last store makes it a loan: if capture is killed before, the frame was never captured.
        """
        words, at = self._words, self._at(slot)
        words[at + _SEQ] = header.seq
        words[at + _ATTEMPT] = 0
        words[at + _STATUS] = header.status
        words[at + _CAPTURED_NS] = header.captured_ns
        words[at + _WALL_NS] = header.wall_ns
        words[at + _SOURCE_NS] = header.source_ns
        words[at + _NTP_NS] = header.ntp_ns
        words[at + _WIDTH] = header.width
        words[at + _HEIGHT] = header.height
        words[at + _STILL] = header.still
        words[at + _FILE_BYTES] = header.arrays[FILE][2][0] if FILE in header.arrays else 0
        words[at + _LOANS] = header.generation

    def end_loan(self, slot: int, cause: str) -> None:
        """End a loan with its outcome: "" for delivered, else the cause. One store."""
        word = self._at(slot) + self._causes[cause]
        self._words[word] += 1

    def is_lent(self, slot: int) -> bool:
        """Return whether the slot's frame is in flight."""
        at = self._at(slot)
        ended = sum(self._words[at + _DELIVERED : at + self._row])
        return self._words[at + _LOANS] > ended

    def generation(self, slot: int) -> int:
        """Return how often the slot has been lent."""
        return self._words[self._at(slot) + _LOANS]

    def attempt(self, slot: int) -> int:
        """Return how often the slot's frame has been resent."""
        return self._words[self._at(slot) + _ATTEMPT]

    def captured_ns(self, slot: int) -> int:
        """Return the monotonic time of capture of the frame that the slot was last lent for."""
        return self._words[self._at(slot) + _CAPTURED_NS]

    def seq(self, slot: int) -> int:
        """Return the number of the frame that the slot was last lent for."""
        return self._words[self._at(slot) + _SEQ]

    def raise_attempt(self, slot: int) -> int:
        """Void every copy of the slot's frame that is in transit; return the new attempt."""
        word = self._at(slot) + _ATTEMPT
        self._words[word] += 1
        return self._words[word]

    def is_current(self, header: Header) -> bool:
        """Return whether a header is of the newest loan and attempt of its slot."""
        at = self._at(header.slot)
        return (
            self._words[at + _LOANS] == header.generation
            and self._words[at + _ATTEMPT] == header.attempt
        )

    def header_again(self, slot: int, stream: int) -> Header:
        """Return the header of a lent frame as capture first wrote it, except for the attempt."""
        words, at = self._words, self._at(slot)
        width, height = words[at + _WIDTH], words[at + _HEIGHT]
        status = Status(words[at + _STATUS])
        image, file = height * width * 3, words[at + _FILE_BYTES]
        header = Header(
            stream=stream,
            seq=words[at + _SEQ],
            attempt=words[at + _ATTEMPT],
            slot=slot,
            generation=words[at + _LOANS],
            status=status,
            captured_ns=words[at + _CAPTURED_NS],
            wall_ns=words[at + _WALL_NS],
            source_ns=words[at + _SOURCE_NS],
            ntp_ns=words[at + _NTP_NS],
            width=width,
            height=height,
            still=bool(words[at + _STILL]),
            arrays={"image": (0, "|u1", (height, width, 3))} if status == Status.LIVE else {},
            used=image,
            limit=self.slot_bytes,
        )
        if file and status == Status.LIVE:
            start = -(-image // ALIGN) * ALIGN
            header.arrays[FILE], header.used = (start, "|u1", (file,)), start + file
        return header

    def memory(self, slot: int) -> memoryview:
        """Return the bytes of a slot."""
        start = self._first_slot + slot * self.slot_bytes
        return self._memory.bytes[start : start + self.slot_bytes]

    def make_room(self, frame_bytes: int, filled: int) -> None:
        """Touch the pages that frames of this size will use, so that no frame pays for it.

        Args:
            frame_bytes: bytes used of each slot.
            filled: a slot that is not lent yet but already holds an image.

        Raises:
            RunError: the machine, or the control group, has too little memory.
        """
        need = self.slots * frame_bytes
        room = memory_available()
        if need > room:
            raise RunError(
                f"stream {self.stream}: {self.slots} slots of {frame_bytes >> 20} MiB need "
                f"{need >> 20} MiB of memory (found {room >> 20} MiB available); "
                "lower `slots` or the size of the images"
            )
        for slot in range(self.slots):
            # Writing a zero over a zero touches the page; a lent slot's pages are touched already.
            if slot != filled and not self.is_lent(slot):
                memory = self.memory(slot)
                for at in range(0, min(frame_bytes, self.slot_bytes), PAGE):
                    memory[at] = 0

    def shrink(self, slot: int, keep_bytes: int) -> None:
        """Release the pages of a free slot that frames no longer use.

        Args:
            slot: the slot.
            keep_bytes: bytes that frames use now.
        """
        start = self._first_slot + slot * self.slot_bytes
        self._memory.release_pages(start + keep_bytes, self.slot_bytes - keep_bytes)

    def release_slots(self) -> None:
        """Release the pages of all slots, once no frame is in flight."""
        self._memory.release_pages(self._first_slot, self.slots * self.slot_bytes)

    def resident_bytes(self) -> int:
        """Return how many bytes of the arena are resident in memory."""
        return self._memory.resident_bytes()

    # --- head: written by capture alone ---

    def count_busy(self, frames: int = 1) -> None:
        """Count images of a live source that found no free slot."""
        self._words[_BUSY] += frames

    def count_decode(self, frames: int = 1) -> None:
        """Count images that could not be decoded."""
        self._words[_DECODE] += frames

    @property
    def next_seq(self) -> int:
        """Number of the next frame: one loan, one number."""
        return sum(self._words[self._at(slot) + _LOANS] for slot in range(self.slots))

    @property
    def position(self) -> int:
        """Number of images taken from the source, lent or not."""
        return self.next_seq + self._words[_DECODE] + self._words[_BUSY]

    @property
    def last_source_ns(self) -> int:
        """Source timestamp of the newest frame; -1 if it has none."""
        newest = self._newest()
        return -1 if newest is None else self._words[newest + _SOURCE_NS]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the newest frame in pixels; zeros before the first."""
        newest = self._newest()
        if newest is None:
            return 0, 0
        return self._words[newest + _WIDTH], self._words[newest + _HEIGHT]

    def _newest(self) -> int | None:
        """Return the place of the slot that was lent last."""
        rows = [self._at(slot) for slot in range(self.slots)]
        return max(
            (row for row in rows if self._words[row + _LOANS]),
            key=lambda row: self._words[row + _SEQ],
            default=None,
        )

    def count_away(self, duration_ns: int) -> None:
        """Count time in which the source was retried and gave nothing."""
        self._words[_AWAY_NS] += duration_ns

    def count_reconnect(self) -> None:
        """Count a reconnection of the source."""
        self._words[_RECONNECTS] += 1

    @property
    def away_ns(self) -> int:
        """Total time in which the source was retried and gave nothing."""
        return int(self._words[_AWAY_NS])

    @property
    def reconnects(self) -> int:
        """Number of reconnections of the source."""
        return int(self._words[_RECONNECTS])

    @property
    def finished(self) -> bool:
        """Whether the end of the stream has been through all stages."""
        return self.generation(self.end_slot) > 0 and not self.is_lent(self.end_slot)

    @property
    def ended(self) -> bool:
        """Whether the source has ended."""
        return bool(self._words[_ENDED])

    @ended.setter
    def ended(self, value: bool) -> None:
        self._words[_ENDED] = value

    # --- orders: written by the supervisor alone ---

    @property
    def paused(self) -> bool:
        """Whether the source must not be read for now."""
        return bool(self._words[_PAUSED])

    @paused.setter
    def paused(self, value: bool) -> None:
        self._words[_PAUSED] = value

    @property
    def removed(self) -> bool:
        """Whether the stream must end."""
        return bool(self._words[_REMOVED])

    def remove(self) -> None:
        """Ask the source to end."""
        self._words[_REMOVED] = 1

    @property
    def fd(self) -> int:
        """Descriptor of its memory, in the process that made it."""
        return self._memory.fd

    def unmap(self) -> None:
        """Unmap it in a process that does not use this stream."""
        self._memory.close()

    def discard(self) -> None:
        """Release all memory of a stream that is over, even if a process still maps it."""
        self._memory.release_pages(0, self._memory.size)
        self._memory.close()

    # --- ledger: read by anyone at any time ---

    def ledger(self) -> Ledger:
        """Return the account at this instant.

        Outcomes are read before loans, so a frame that returns meanwhile counts as in flight.
        """
        words = self._words
        outcomes = dict.fromkeys(self._causes, 0)
        loans = 0
        for slot in range(self.slots):
            at = self._at(slot)
            for cause, word in self._causes.items():
                outcomes[cause] += words[at + word]
            loans += words[at + _LOANS]
        busy, decode = words[_BUSY], words[_DECODE]
        delivered = outcomes.pop("")
        dropped = {"busy": busy, **{cause: outcomes.pop(cause) for cause in DROPPED_CAUSES}}
        failed = {"decode": decode, **outcomes}
        return Ledger(
            captured=loans + busy + decode,
            delivered=delivered,
            dropped={cause: n for cause, n in dropped.items() if n},
            failed={cause: n for cause, n in failed.items() if n},
            in_flight=loans - delivered - sum(dropped.values()) + busy - sum(outcomes.values()),
        )

    # --- blame: written by the supervisor alone ---

    def blame(self, slot: int, generation: int) -> None:
        """Record that a worker died with this frame in hand."""
        words, at = self._words, self._at(slot)
        if words[at + _BLAMED_GENERATION] != generation:
            words[at + _BLAMES] = 0
            words[at + _BLAMED_GENERATION] = generation
        words[at + _BLAMES] += 1

    def blames(self, slot: int) -> int:
        """Return at how many deaths of workers the slot's frame was in hand."""
        words, at = self._words, self._at(slot)
        same = words[at + _BLAMED_GENERATION] == words[at + _LOANS]
        return words[at + _BLAMES] if same else 0
