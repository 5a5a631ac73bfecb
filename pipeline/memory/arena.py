"""Shared memory: the slots of a stream, its slot table and ledger, and the board of all workers.

The one file that maps shared memory. Everything lives in memfds: memory without a name, which the
workers inherit from the supervisor and which is gone when the last of them is. Nothing can be left
behind, whatever is killed.

Three kinds of words (8 bytes each, every store atomic, every word with one writer):

- the **slot table** and the **ledger** of a stream, written by its capture worker. A slot is lent
  while its `loans` are ahead of the sum of its outcomes. A loan and its end are one store each, so
  `captured = delivered + dropped + failed + in flight` holds at every instant, also when capture
  is killed between any two instructions;
- the **blame** of a slot, written by the supervisor when a worker died with the frame in hand;
- the **board**: one row per worker, with what it holds, when it last gave a sign of life, and how
  much work it has finished for whom.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pipeline.errors import RunError
from pipeline.frame import ALIGN, FILE, Header, Status

WORD = 8
PAGE = mmap.PAGESIZE
SLOT_BYTES = 64 << 20
"""Room of one slot. Address space, not memory: only touched pages cost."""
STATE_BYTES = 1 << 20
"""Room for an ordered stage's state."""
ANSWER_BYTES = 1 << 16
"""Room for what it answered for the frame of one slot, which is saved with its state."""


def checkpoint_bytes(slots: int) -> int:
    """Room of one half of what an ordered stage saves. Address space, as `SLOT_BYTES`."""
    return STATE_BYTES + slots * ANSWER_BYTES


POISON_BLAMES = 3
"""A frame that was in hand at more deaths than this is not tried again."""


class SharedMemory:
    """A sparse memfd, mapped before the workers are forked and so shared by all of them.

    One that is made later reaches a worker that runs already by its descriptor in the supervisor.
    """

    def __init__(self, name: str, size: int, path: str | None = None) -> None:
        """Make new memory, or map what is there.

        Args:
            name: to be seen in /proc by a person who looks for it.
            size: in bytes.
            path: of existing memory, /proc/PID/fd/N; None: make it.
        """
        size = -(-size // PAGE) * PAGE
        self.fd = -1
        if path is None:
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
        else:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = size
        self._map = mmap.mmap(self.fd, size)
        if path is not None:
            self._close_fd()  # the mapping stays until its last view goes
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("q")

    def close(self) -> None:
        """Unmap it here; other processes keep theirs."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        self._close_fd()

    def _close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __del__(self) -> None:
        self._close_fd()

    def resident_bytes(self) -> int:
        """Bytes of it that are in memory."""
        return os.fstat(self.fd).st_blocks * 512

    def give_back(self, start: int, size: int) -> None:
        """Return whole pages within a range to the system; they read as zeros afterwards."""
        first, last = -(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE
        if last > first:
            keep_size, punch_hole = 1, 2
            _libc.fallocate64(
                self.fd,
                keep_size | punch_hole,
                ctypes.c_int64(first),
                ctypes.c_int64(last - first),
            )


_libc = ctypes.CDLL(None, use_errno=True)


# Words of a stream's head.
_BUSY, _DECODE, _ENDED, _AWAY_NS, _RECONNECTS, _PAUSED, _REMOVED = range(7)
_HEAD_WORDS = 64

# Words of a slot. Outcomes are consecutive; `failed:STAGE` takes one word per stage after them.
(
    _LOANS,
    _SEQ,
    _ATTEMPT,
    _STATUS,
    _CAPTURED_NS,
    _WALL_NS,
    _SOURCE_NS,
    _NTP_NS,
    _WIDTH,
    _HEIGHT,
    _STILL,
    _FILE_BYTES,
    _BLAMED_GENERATION,
    _BLAMES,
    _DELIVERED,
    _STALE,
    _RESTART,
    _POISON,
    _FAILED,
) = range(19)

DROPPED_CAUSES = ("stale", "restart")


class Ledger(msgspec.Struct, frozen=True):
    """The account of one stream at one instant; `captured` is the sum of all the rest."""

    captured: int
    delivered: int
    dropped: dict[str, int]
    """Cause -> frames: "busy", "stale", "restart"."""
    failed: dict[str, int]
    """Cause -> frames: "decode", "poison", "failed:STAGE"."""
    in_flight: int


class Arena:
    """The memory of one stream: head, slot table, saved states of ordered stages, slots.

    The slot after the last (`end_slot`) carries the end of the stream. It holds no picture and
    does not count in the ledger.
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
        """Lay out the arena, or map one that another process has laid out alike.

        Args:
            stream: name of the stream.
            slots: how many frames may be in flight.
            stages: names of all stages, for the causes `failed:STAGE`.
            ordered: names of those that save their state.
            slot_bytes: room of one slot.
            path: of the memory of an existing one, /proc/PID/fd/N.
        """
        self.stream = stream
        self.slots = slots
        self.end_slot = slots
        self._slot_bytes = slot_bytes
        self._causes = {
            "": _DELIVERED,
            "stale": _STALE,
            "restart": _RESTART,
            "poison": _POISON,
            **{f"failed:{stage}": _FAILED + i for i, stage in enumerate(stages)},
        }
        self._row = _FAILED + len(stages)
        table = (_HEAD_WORDS + (slots + 1) * self._row) * WORD
        self._states = -(-table // PAGE) * PAGE
        self._ordered = {stage: i for i, stage in enumerate(ordered)}
        self._half_bytes = checkpoint_bytes(slots)
        self._first_slot = self._states + len(ordered) * (PAGE + 2 * self._half_bytes)
        self._memory = SharedMemory(
            f"eyeline:{stream}", self._first_slot + slots * slot_bytes, path
        )
        self._words = self._memory.words

    # --- slots: written by capture alone ---

    def _at(self, slot: int) -> int:
        return _HEAD_WORDS + slot * self._row

    def lend(self, slot: int, header: Header) -> None:
        """Record the frame that was written into a free slot, and lend the slot for it.

        The last store makes it a loan; killed before it, the frame was never captured.
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
        """Whether the slot's frame is in flight."""
        at = self._at(slot)
        ended = sum(self._words[at + _DELIVERED : at + self._row])
        return self._words[at + _LOANS] > ended

    def generation(self, slot: int) -> int:
        """How often the slot has been lent."""
        return self._words[self._at(slot) + _LOANS]

    def attempt(self, slot: int) -> int:
        """How often the slot's frame has been sent again."""
        return self._words[self._at(slot) + _ATTEMPT]

    def captured_ns(self, slot: int) -> int:
        """Monotonic time of capture of the frame that the slot was last lent for."""
        return self._words[self._at(slot) + _CAPTURED_NS]

    def seq(self, slot: int) -> int:
        """Number of the frame that the slot was last lent for."""
        return self._words[self._at(slot) + _SEQ]

    def raise_attempt(self, slot: int) -> int:
        """Make every copy of the slot's frame that is under way void; the new attempt."""
        word = self._at(slot) + _ATTEMPT
        self._words[word] += 1
        return self._words[word]

    def is_current(self, header: Header) -> bool:
        """Whether a header is of the newest loan and attempt of its slot."""
        at = self._at(header.slot)
        return (
            self._words[at + _LOANS] == header.generation
            and self._words[at + _ATTEMPT] == header.attempt
        )

    def header_again(self, slot: int, stream: int) -> Header:
        """The header of a lent frame as capture first wrote it, but for the attempt."""
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
            limit=self._slot_bytes,
        )
        if file and status == Status.LIVE:
            start = -(-image // ALIGN) * ALIGN
            header.arrays[FILE], header.used = (start, "|u1", (file,)), start + file
        return header

    def memory(self, slot: int) -> memoryview:
        """The bytes of a slot."""
        start = self._first_slot + slot * self._slot_bytes
        return self._memory.bytes[start : start + self._slot_bytes]

    @property
    def slot_bytes(self) -> int:
        """Room of one slot."""
        return self._slot_bytes

    def make_room(self, frame_bytes: int, filled: int) -> None:
        """Touch the pages that frames of this size will use, so that no frame pays for it.

        Args:
            frame_bytes: of one slot.
            filled: a slot that is not lent yet but holds a picture already.

        Raises:
            RunError: the machine, or the control group, has not that much memory.
        """
        need = self.slots * frame_bytes
        room = memory_available()
        if need > room:
            raise RunError(
                f"stream {self.stream}: {self.slots} slots of {frame_bytes >> 20} MiB need "
                f"{need >> 20} MiB of memory and {room >> 20} MiB are available: "
                "lower `slots` or the size of the picture"
            )
        for slot in range(self.slots):
            # Writing a zero over a zero touches the page; a lent slot's pages are touched already.
            if slot != filled and not self.is_lent(slot):
                memory = self.memory(slot)
                for at in range(0, min(frame_bytes, self._slot_bytes), PAGE):
                    memory[at] = 0

    def shrink(self, slot: int, keep_bytes: int) -> None:
        """Give back the pages of a free slot beyond what frames use now."""
        start = self._first_slot + slot * self._slot_bytes
        self._memory.give_back(start + keep_bytes, self._slot_bytes - keep_bytes)

    def release_slots(self) -> None:
        """Give back the pages of all slots, once no frame is in flight any more."""
        self._memory.give_back(self._first_slot, self.slots * self._slot_bytes)

    def resident_bytes(self) -> int:
        """Bytes of the arena that are in memory."""
        return self._memory.resident_bytes()

    # --- head: written by capture alone ---

    def count_busy(self, frames: int = 1) -> None:
        """Count pictures of a live source that found no free slot."""
        self._words[_BUSY] += frames

    def count_decode(self, frames: int = 1) -> None:
        """Count pictures that could not be decoded."""
        self._words[_DECODE] += frames

    @property
    def next_seq(self) -> int:
        """Number of the next frame: one loan, one number."""
        return sum(self._words[self._at(slot) + _LOANS] for slot in range(self.slots))

    @property
    def position(self) -> int:
        """How many pictures were taken from the source, lent or not."""
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
        """Where the slot lies that was lent last."""
        rows = [self._at(slot) for slot in range(self.slots)]
        return max(
            (row for row in rows if self._words[row + _LOANS]),
            key=lambda row: self._words[row + _SEQ],
            default=None,
        )

    def count_away(self, duration_ns: int) -> None:
        """Count time in which the source was tried but gave nothing."""
        self._words[_AWAY_NS] += duration_ns

    def count_reconnect(self) -> None:
        """Count a source that came back."""
        self._words[_RECONNECTS] += 1

    @property
    def away_ns(self) -> int:
        """Time in all in which the source was tried but gave nothing."""
        return int(self._words[_AWAY_NS])

    @property
    def reconnects(self) -> int:
        """How often the source came back."""
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
        """Whether the source is to be left alone for now."""
        return bool(self._words[_PAUSED])

    @paused.setter
    def paused(self, value: bool) -> None:
        self._words[_PAUSED] = value

    @property
    def removed(self) -> bool:
        """Whether the stream is to end."""
        return bool(self._words[_REMOVED])

    def remove(self) -> None:
        """Ask the source to end."""
        self._words[_REMOVED] = 1

    @property
    def fd(self) -> int:
        """The descriptor of its memory, in the process that made it."""
        return self._memory.fd

    def unmap(self) -> None:
        """Let go of it, in a process that has no use for this stream."""
        self._memory.close()

    def discard(self) -> None:
        """Give back all memory of a stream that is over, even if some process still maps it."""
        self._memory.give_back(0, self._memory.size)
        self._memory.close()

    # --- ledger: read by anyone at any time ---

    def ledger(self) -> Ledger:
        """The account at this instant.

        Outcomes are read before loans, so a frame that returns meanwhile reads as in flight.
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
        """Note that a worker died with this frame in hand."""
        words, at = self._words, self._at(slot)
        if words[at + _BLAMED_GENERATION] != generation:
            words[at + _BLAMES] = 0
            words[at + _BLAMED_GENERATION] = generation
        words[at + _BLAMES] += 1

    def blames(self, slot: int) -> int:
        """At how many deaths the slot's frame was in hand."""
        words, at = self._words, self._at(slot)
        same = words[at + _BLAMED_GENERATION] == words[at + _LOANS]
        return words[at + _BLAMES] if same else 0

    # --- saved states: written by the worker of the ordered stage alone ---

    def save(self, stage: str, checkpoint: bytes) -> None:
        """Save an ordered stage's state: write the idle half, then flip one word.

        Raises:
            RunError: it is larger than the room there is.
        """
        size = len(checkpoint)
        if size > self._half_bytes - WORD:
            raise RunError(f"stage {stage}: a state of {size} bytes is more than can be saved")
        start = self._states + self._ordered[stage] * (PAGE + 2 * self._half_bytes)
        flips = self._words[start // WORD] + 1
        half = start + PAGE + (flips & 1) * self._half_bytes
        self._words[half // WORD] = size
        self._memory.bytes[half + WORD : half + WORD + size] = checkpoint
        self._words[start // WORD] = flips

    def saved(self, stage: str) -> bytes | None:
        """What `save` was last given; None before the first time."""
        start = self._states + self._ordered[stage] * (PAGE + 2 * self._half_bytes)
        flips = self._words[start // WORD]
        if not flips:
            return None
        half = start + PAGE + (flips & 1) * self._half_bytes
        size = self._words[half // WORD]
        return bytes(self._memory.bytes[half + WORD : half + WORD + size])


# Words of the board's head and of a worker's row.
_EPOCH, _STOP, _ROWS = range(3)
_BOARD_HEAD = 8
_INCARNATION, _READY, _BEAT, _WAITS, _RETIRED, _IN_FLIGHT = range(6)
_ROW_HEAD = 8
FRESH_NS = 500_000_000
"""A worker that is well gives a sign of life more often than this, see `worker.BEAT_MS`."""
MAX_HOLDS = 32
"""Frames a worker may have in hand at once: the largest batch."""

# A hold is one word, so that it is published in one store.
_SLOT_BITS, _STREAM_BITS, _GENERATION_BITS = 10, 12, 40


class Hold(msgspec.Struct, frozen=True):
    """A frame that a worker has in hand."""

    stream: int
    slot: int
    generation: int


class Board:
    """One row per worker; how workers and supervisor see each other without a message."""

    def __init__(self, workers: int, spare: int = 0) -> None:
        """Make the rows.

        Args:
            workers: of the run as it starts.
            spare: rows for workers of streams that are added while it runs; untouched memory.
        """
        most = workers + spare
        self.most = most
        self._row = _ROW_HEAD + MAX_HOLDS + most
        self._words = SharedMemory("eyeline:board", (_BOARD_HEAD + most * self._row) * WORD).words
        self._words[_ROWS] = workers

    @property
    def workers(self) -> int:
        """How many rows are or were in use."""
        return int(self._words[_ROWS])

    def _at(self, worker: int) -> int:
        return _BOARD_HEAD + worker * self._row

    @property
    def epoch(self) -> int:
        """Counts deaths; when it changes, capture sends the frames in flight again."""
        return self._words[_EPOCH]

    @property
    def stopping(self) -> bool:
        """Whether sources are to end, so that the run drains."""
        return bool(self._words[_STOP])

    def stop(self) -> None:
        """Ask every source to end."""
        self._words[_STOP] = 1

    # --- written by the supervisor ---

    def bury(self, worker: int) -> list[Hold]:
        """Record a death: what the worker had in hand, given free; its successor's number set.

        The successor is announced at once, before it lives, so that what is sent to it waits in
        the sender's socket.
        """
        at = self._at(worker)
        self._words[at + _READY] = 0
        holds = self._holds(worker)
        for i in range(MAX_HOLDS):
            self._words[at + _ROW_HEAD + i] = 0
        for i in range(self.most):
            self._words[at + _ROW_HEAD + MAX_HOLDS + i] = 0
        self._words[at + _WAITS] = 0
        self._words[at + _BEAT] = 0
        self._words[at + _INCARNATION] += 1
        return holds

    def retire(self, worker: int) -> None:
        """The worker has ended and none follows it; its row is there to be enlisted again."""
        self.bury(worker)
        self._words[self._at(worker) + _IN_FLIGHT] = 0
        self._words[self._at(worker) + _RETIRED] = 1

    def enlist(self) -> int:
        """A row for one more worker.

        Raises:
            IndexError: there is none left.
        """
        for worker in range(self.workers):
            if self._words[self._at(worker) + _RETIRED]:
                self._words[self._at(worker) + _RETIRED] = 0
                return worker
        worker = self.workers
        if worker == self.most:
            raise IndexError("no row is left")
        self._words[_ROWS] = worker + 1
        return worker

    def raise_epoch(self) -> None:
        """Have every capture send its frames in flight again."""
        self._words[_EPOCH] += 1

    # --- written by the worker itself ---

    def ready(self, worker: int) -> None:
        """The worker's stages are open: it may be given work."""
        self._words[self._at(worker) + _READY] = 1

    def beat(self, worker: int, now_ns: int) -> None:
        """Give a sign of life."""
        self._words[self._at(worker) + _BEAT] = now_ns

    def hold(self, worker: int, index: int, header: Header) -> None:
        """Publish that the worker has a frame in hand. One store."""
        self._words[self._at(worker) + _ROW_HEAD + index] = (
            1
            + header.slot
            + (header.stream << _SLOT_BITS)
            + (header.generation << (_SLOT_BITS + _STREAM_BITS))
        )

    def let_go(self, worker: int, index: int) -> None:
        """Withdraw a hold. One store."""
        self._words[self._at(worker) + _ROW_HEAD + index] = 0

    def wait_for_work_taken(self, worker: int, waits: bool) -> None:
        """Say whether the worker, as a sender, waits for a receiver to become free."""
        self._words[self._at(worker) + _WAITS] = waits

    def count_done(self, worker: int, sender: int) -> None:
        """Count one frame of a sender that the worker is through with."""
        self._words[self._at(worker) + _ROW_HEAD + MAX_HOLDS + sender] += 1

    def set_in_flight(self, worker: int, frames: int) -> None:
        """Publish how many frames of a live stream its capture worker has lent."""
        self._words[self._at(worker) + _IN_FLIGHT] = frames

    # --- read by anyone ---

    @property
    def live_in_flight(self) -> int:
        """Frames in flight of all live streams."""
        return sum(self._words[self._at(worker) + _IN_FLIGHT] for worker in range(self.workers))

    def is_opening(self) -> bool:
        """Whether a worker opens its stages, for the first time or after its death."""
        return not all(
            self.is_ready(worker) or self._words[self._at(worker) + _RETIRED]
            for worker in range(self.workers)
        )

    def incarnation(self, worker: int) -> int:
        """How many predecessors the worker has had."""
        return self._words[self._at(worker) + _INCARNATION]

    def is_ready(self, worker: int) -> bool:
        """Whether the worker may be given work."""
        return bool(self._words[self._at(worker) + _READY])

    def last_beat_ns(self, worker: int) -> int:
        """Monotonic time of the last sign of life; 0 before the first."""
        return self._words[self._at(worker) + _BEAT]

    def waits(self, worker: int) -> bool:
        """Whether the worker, as a sender, waits for a receiver to become free."""
        return bool(self._words[self._at(worker) + _WAITS])

    def done(self, worker: int, sender: int) -> int:
        """How many frames of a sender this incarnation is through with."""
        return self._words[self._at(worker) + _ROW_HEAD + MAX_HOLDS + sender]

    def is_held(self, stream: int, slot: int) -> bool:
        """Whether any worker has a frame of this slot in hand."""
        want = 1 + slot + (stream << _SLOT_BITS)
        mask = (1 << (_SLOT_BITS + _STREAM_BITS)) - 1
        for worker in range(self.workers):
            at = self._at(worker) + _ROW_HEAD
            for word in self._words[at : at + MAX_HOLDS]:
                if word and word & mask == want:
                    return True
        return False

    def is_idle(self, now_ns: int) -> bool:
        """Whether all workers are alive and well and none has a frame in hand."""
        return all(
            self._words[self._at(worker) + _RETIRED]
            or (
                self.is_ready(worker)
                and now_ns - self.last_beat_ns(worker) < FRESH_NS
                and not self._holds(worker)
            )
            for worker in range(self.workers)
        )

    def in_hand(self, worker: int) -> int:
        """How many frames the worker has in hand."""
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


def memory_available() -> int:
    """Bytes that can be taken without swapping: of the machine, or of a smaller control group."""
    room = [_meminfo_available()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            room.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return max(0, min(room))


def _meminfo_available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _lines(path: str) -> Iterator[str]:
    try:
        yield from Path(path).read_text().splitlines()
    except OSError:
        return
