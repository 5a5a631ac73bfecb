"""The roster: which streams there are at this moment, for processes that were forked before.

The supervisor writes an entry when it adds a stream and clears it when the stream is over. A
worker that meets a frame of a stream it does not know looks the stream up here, and maps its arena
by the supervisor's descriptor.
"""

from __future__ import annotations

import msgspec

from pipeline.memory.arena import Arena
from pipeline.memory.shared import WORD, SharedMemory

MOST_STREAMS = 4096
"""Of a run at the same time; as many as `Hold` has room for."""
_ENTRY_BYTES = 512
_HEAD_WORDS = 64
_VERSION = 0


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """What every worker must know of a stream."""

    name: str
    live: bool
    max_age_ms: float | None
    worker: int
    """Row of its capture worker."""
    slots: int
    fd: int
    """Of its arena, in the supervisor."""


class Roster:
    """One entry per stream, in shared memory."""

    def __init__(self) -> None:
        self._memory = SharedMemory(
            "eyeline:roster", _HEAD_WORDS * WORD + MOST_STREAMS * _ENTRY_BYTES
        )

    @property
    def version(self) -> int:
        """Grows with every change."""
        return int(self._memory.words[_VERSION])

    def write(self, stream: int, entry: Entry) -> None:
        """Add or change a stream. The supervisor alone writes."""
        body = msgspec.msgpack.encode(entry)
        assert len(body) <= _ENTRY_BYTES - WORD, "names are short, see config.NAME"
        at = self._at(stream)
        # Readers take an entry whose length is set: it is set last.
        self._memory.words[at // WORD] = 0
        self._memory.bytes[at + WORD : at + WORD + len(body)] = body
        self._memory.words[at // WORD] = len(body)
        self._memory.words[_VERSION] += 1

    def clear(self, stream: int) -> None:
        """Take a stream that is over off the roster."""
        self._memory.words[self._at(stream) // WORD] = 0
        self._memory.words[_VERSION] += 1

    def read(self, stream: int) -> Entry | None:
        """A stream's entry; None if there is no such stream, or not any more."""
        at = self._at(stream)
        size = self._memory.words[at // WORD]
        if not size:
            return None
        try:
            body = bytes(self._memory.bytes[at + WORD : at + WORD + size])
            return msgspec.msgpack.decode(body, type=Entry)
        except msgspec.DecodeError:
            return None  # it changes at this moment; whoever needs it asks again

    def _at(self, stream: int) -> int:
        return _HEAD_WORDS * WORD + stream * _ENTRY_BYTES


class Streams:
    """The streams as one worker knows them: their entries, and their arenas, mapped when needed."""

    def __init__(
        self,
        roster: Roster,
        arenas: dict[int, Arena],
        stages: tuple[str, ...],
        ordered: tuple[str, ...],
        slot_bytes: int,
        supervisor_pid: int,
    ) -> None:
        """Begin with what was there at the fork.

        Args:
            roster: of the run.
            arenas: stream -> arena, mapped already.
            stages: names of all stages.
            ordered: names of those that save their state.
            slot_bytes: room of one slot.
            supervisor_pid: whose descriptors the entries name.
        """
        self._roster, self._pid = roster, supervisor_pid
        self._layout = stages, ordered, slot_bytes
        self._arenas = dict(arenas)
        self._version = -1
        self._entries: dict[int, Entry] = {}
        self.refresh()

    def refresh(self) -> list[int]:
        """Take note of changes; the streams that are gone. Cheap when there are none."""
        version = self._roster.version
        if version == self._version:
            return []
        self._version = version
        known = {*self._entries, *self._arenas}
        entries = {stream: self._roster.read(stream) for stream in known}
        self._entries = {stream: entry for stream, entry in entries.items() if entry is not None}
        gone = [stream for stream in known if stream not in self._entries]
        for stream in gone:
            self._arenas.pop(stream, None)
        return gone

    def find(self, stream: int) -> Entry | None:
        """A stream's entry; None if it is gone."""
        entry = self._entries.get(stream)
        if entry is None:
            entry = self._roster.read(stream)
            if entry is not None:
                self._entries[stream] = entry
        return entry

    def arena(self, stream: int) -> Arena | None:
        """A stream's arena; None if it is gone."""
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
            return None  # closed at this moment: the stream is over
        self._arenas[stream] = arena
        return arena

    def known(self) -> dict[int, Entry]:
        """The streams that this worker has met or was forked with."""
        return dict(self._entries)
