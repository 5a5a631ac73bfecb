"""Which objects came into the picture and which went: what is worth telling somebody.

A detector sees an object in every frame, misses it in some and sees one where there is none. Told
here is that an object has appeared, once it was seen in several frames, and that it has left, once
it was not seen for a while. Time is that of the frames alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from stages.detections import Object


@dataclass(frozen=True)
class Appeared:
    """An object came into the picture; told when it has been seen in `min_frames` frames."""

    stream: str
    object: Object
    """As in the newest frame."""
    time_s: float
    """Seconds into the stream at which it was first seen."""
    wall_ns: int
    """When that frame was captured, nanoseconds since the Unix epoch."""
    count: int
    """Objects of this label that are now in the picture, this one included."""


@dataclass(frozen=True)
class Left:
    """An object went out of the picture; told when it has not been seen for `leave_after_s`."""

    stream: str
    object: Object
    """As it was last seen."""
    time_s: float
    """Seconds into the stream at which it was last seen."""
    wall_ns: int
    """When that frame was captured, nanoseconds since the Unix epoch."""
    seen_s: float
    """Seconds from the first frame it was seen in to the last."""
    count: int
    """Objects of this label that are still in the picture."""


Incident = Appeared | Left


class Presence:
    """Which objects of interest are in the picture, for any number of streams.

    An object is known by its track id. Objects without one are known by how many of their label
    are in the picture: the second person is there when two are seen at once.

    Args:
        labels: those of interest; empty: all.
        min_frames: in so many frames an object must have been seen to have appeared.
        leave_after_s: an object that is not in the frame, and was not seen for longer than this,
            has left; one that was seen in fewer than `min_frames` is forgotten.
    """

    def __init__(self, labels: Collection[str], min_frames: int, leave_after_s: float) -> None:
        self._labels = frozenset(labels)
        self._min_frames, self._leave_after_s = min_frames, leave_after_s
        self._streams: dict[str, _Stream] = {}

    def update(
        self, stream: str, time_s: float, wall_ns: int, objects: Sequence[Object]
    ) -> list[Incident]:
        """Take note of the objects of a frame; frames of one stream come in order.

        Args:
            stream: its name.
            time_s: seconds into the stream. Where it jumps back, no time has passed.
            wall_ns: when the frame was captured, nanoseconds since the Unix epoch.
            objects: all of the frame's, also those of no interest.

        Returns:
            What that means: first who has left, then who has appeared.
        """
        seen = self._streams.setdefault(stream, _Stream(time_s))
        seen.clock_s += max(0.0, time_s - seen.time_s)
        seen.time_s = time_s
        unnamed: Counter[str] = Counter()
        in_frame: dict[tuple[str, int], _Known] = {}
        for found in objects:
            if self._labels and found.label not in self._labels:
                continue
            if found.id is None:
                key = found.label, unnamed[found.label]
                unnamed[found.label] += 1
            else:
                key = "", found.id
            known = seen.objects.get(key)
            if known is None:
                known = seen.objects[key] = _Known(found, time_s, wall_ns, seen.clock_s)
            known.see(found, time_s, wall_ns, seen.clock_s)
            in_frame[key] = known
        # Who is in this frame stays, however long ago the last one was.
        since_s = seen.clock_s - self._leave_after_s
        gone = [key for key, known in seen.objects.items() if known.last_clock_s < since_s]
        incidents: list[Incident] = [*self._leave(stream, seen, gone)]
        for known in in_frame.values():
            if not known.present and known.frames >= self._min_frames:
                known.present = True
                found, count = known.object, seen.count(known.object.label)
                incidents.append(
                    Appeared(stream, found, known.first_time_s, known.first_wall_ns, count)
                )
        return incidents

    def end(self, stream: str) -> list[Left]:
        """The stream is over, and so is the presence of all that was in it."""
        seen = self._streams.pop(stream, None)
        return [] if seen is None else self._leave(stream, seen, list(seen.objects))

    def counts(self, stream: str) -> dict[str, int]:
        """Label -> objects in the picture; none that are not."""
        seen = self._streams.get(stream)
        known = () if seen is None else seen.objects.values()
        return dict(Counter(k.object.label for k in known if k.present))

    def state(self, stream: str) -> bytes:
        """What `restore` needs to go on with a stream after a crash."""
        seen = self._streams.get(stream)
        return b"" if seen is None else _encoder.encode(seen)

    def restore(self, stream: str, state: bytes) -> None:
        """Take up what `state` gave."""
        if state:
            self._streams[stream] = _decoder.decode(state)

    def _leave(self, stream: str, seen: _Stream, keys: Sequence[tuple[str, int]]) -> list[Left]:
        left = []
        for key in keys:
            known = seen.objects.pop(key)
            if not known.present:
                continue
            left.append(
                Left(
                    stream,
                    known.object,
                    known.last_time_s,
                    known.last_wall_ns,
                    round(known.last_clock_s - known.first_clock_s, 6),
                    seen.count(known.object.label),
                )
            )
        return left


@dataclass
class _Known:
    """An object, from the frame it was first seen in."""

    object: Object
    first_time_s: float
    first_wall_ns: int
    first_clock_s: float
    last_time_s: float = 0.0
    last_wall_ns: int = 0
    last_clock_s: float = 0.0
    frames: int = 0
    present: bool = False
    """It has appeared."""

    def see(self, found: Object, time_s: float, wall_ns: int, clock_s: float) -> None:
        # A track may be taken for something else in some frames; it came as one thing and leaves
        # as that.
        if found.label == self.object.label:
            self.object = found
        self.last_time_s, self.last_wall_ns, self.last_clock_s = time_s, wall_ns, clock_s
        self.frames += 1


@dataclass
class _Stream:
    time_s: float
    """Of the newest frame."""
    clock_s: float = 0.0
    """The same time, but never going back."""
    objects: dict[tuple[str, int], _Known] = field(default_factory=dict)
    """By ("", track id), or (label, how many of them came before it in the frame)."""

    def count(self, label: str) -> int:
        return sum(k.present and k.object.label == label for k in self.objects.values())


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stream)
