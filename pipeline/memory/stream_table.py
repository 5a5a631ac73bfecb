"""The stream table: the current streams of the run, in shared memory.

Streams come and go, also after a worker was forked. The supervisor writes an entry when it adds a
stream and clears it when the stream is over. A worker that receives a frame of an unknown stream
reads the entry, and maps the arena of the stream through the supervisor's descriptor.
"""

from __future__ import annotations

import msgspec

from pipeline.memory.arena import Arena
from pipeline.memory.shared import WORD, SharedMemory

MAX_STREAMS = 4096
"""Streams of a run at the same time; as many as a `Hold` can number."""
_ENTRY_BYTES = 512
_HEAD_WORDS = 64
_VERSION = 0


class StreamEntry(msgspec.Struct, array_like=True, frozen=True):
    """The facts of a stream that every worker needs."""

    name: str
    live: bool
    max_age_ms: float | None
    worker: int
    """Row of its capture worker."""
    slots: int
    fd: int
    """Descriptor of its arena in the supervisor."""


class StreamTable:
    """One entry per stream, in shared memory."""

    def __init__(self) -> None:
        self._memory = SharedMemory(
            "eyeline:streams", _HEAD_WORDS * WORD + MAX_STREAMS * _ENTRY_BYTES
        )

    @property
    def version(self) -> int:
        """Number of changes so far."""
        return int(self._memory.words[_VERSION])

    def write(self, stream: int, entry: StreamEntry) -> None:
        """Add or change a stream; the supervisor alone does."""
        body = msgspec.msgpack.encode(entry)
        assert len(body) <= _ENTRY_BYTES - WORD, "names are short, see config.NAME"
        at = self._at(stream)
        # Readers ignore an entry without a length, so it is set last.
        self._memory.words[at // WORD] = 0
        self._memory.bytes[at + WORD : at + WORD + len(body)] = body
        self._memory.words[at // WORD] = len(body)
        self._memory.words[_VERSION] += 1

    def clear(self, stream: int) -> None:
        """Remove the entry of a stream that is over."""
        self._memory.words[self._at(stream) // WORD] = 0
        self._memory.words[_VERSION] += 1

    def read(self, stream: int) -> StreamEntry | None:
        """Return the entry of a stream; None if there is no such stream."""
        at = self._at(stream)
        size = self._memory.words[at // WORD]
        if not size:
            return None
        try:
            body = bytes(self._memory.bytes[at + WORD : at + WORD + size])
            return msgspec.msgpack.decode(body, type=StreamEntry)
        except msgspec.DecodeError:
            return None  # it is being written; the caller reads it again later

    def _at(self, stream: int) -> int:
        return _HEAD_WORDS * WORD + stream * _ENTRY_BYTES


class StreamTableReader:
    """The stream table as one worker reads it, with the arenas that it has mapped."""

    def __init__(
        self,
        stream_table: StreamTable,
        arenas: dict[int, Arena],
        stages: tuple[str, ...],
        ordered: tuple[str, ...],
        slot_bytes: int,
        supervisor_pid: int,
    ) -> None:
        """Begin with the arenas that were mapped before the fork.

        Args:
            stream_table: stream table of the run.
            arenas: stream -> arena, already mapped.
            stages: names of all stages.
            ordered: names of the stages that save their state.
            slot_bytes: room of one slot.
            supervisor_pid: process whose descriptors the entries contain.
        """
        self._stream_table, self._pid = stream_table, supervisor_pid
        self._layout = stages, ordered, slot_bytes
        self._arenas = dict(arenas)
        self._version = -1
        self._entries: dict[int, StreamEntry] = {}
        self.refresh()

    def refresh(self) -> list[int]:
        """Read the changes, if any; return the streams that are gone."""
        version = self._stream_table.version
        if version == self._version:
            return []
        self._version = version
        known = {*self._entries, *self._arenas}
        entries = {stream: self._stream_table.read(stream) for stream in known}
        self._entries = {stream: entry for stream, entry in entries.items() if entry is not None}
        gone = [stream for stream in known if stream not in self._entries]
        for stream in gone:
            self._arenas.pop(stream, None)
        return gone

    def find(self, stream: int) -> StreamEntry | None:
        """Return the entry of a stream; None if it is gone."""
        entry = self._entries.get(stream)
        if entry is None:
            entry = self._stream_table.read(stream)
            if entry is not None:
                self._entries[stream] = entry
        return entry

    def arena(self, stream: int) -> Arena | None:
        """Return the arena of a stream, mapped if need be; None if it is gone."""
        arena = self._arenas.get(stream)
        if arena is not None:
            return arena
        entry = self.find(stream)
        if entry is None:
            return None
        stages, ordered, slot_bytes = self._layout
        path = f"/proc/{self._pid}/fd/{entry.fd}"
        try:
            arena = Arena(entry.name, entry.slots, stages, ordered, slot_bytes, path)
        except OSError:
            return None  # just closed: the stream is over
        self._arenas[stream] = arena
        return arena

    def known(self) -> dict[int, StreamEntry]:
        """Return the entries that this worker has read so far."""
        return dict(self._entries)
