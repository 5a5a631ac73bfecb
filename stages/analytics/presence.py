"""Which objects are present, and when each of them appeared and left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from stages.analytics.changes import ObjectChange
from stages.detections import Object


class Presence:
    """Objects of interest that are present, for any number of streams.

    An object is identified by its track id. Objects without one are counted by label: the second
    person is present when two are seen at once.

    Args:
        labels: those of interest; empty: all.
        min_frames: number of frames in which an object must be seen to have appeared.
        leave_after_s: an object that was not seen for longer than this has left; one that was seen
            in fewer than `min_frames` is forgotten.
    """

    def __init__(self, labels: Collection[str], min_frames: int, leave_after_s: float) -> None:
        self._labels = frozenset(labels)
        self._min_frames, self._leave_after_s = min_frames, leave_after_s
        self._streams: dict[str, _Stream] = {}

    def update(
        self, stream: str, time_s: float, wall_ns: int, objects: Sequence[Object]
    ) -> list[ObjectChange]:
        """Return the changes that the objects of a frame mean; frames of a stream come in order.

        Args:
            stream: name of the stream.
            time_s: seconds into the stream. Where it jumps back, no time has passed.
            wall_ns: capture time of the frame, nanoseconds since the Unix epoch.
            objects: all of the frame, also those of no interest.

        Returns:
            First the objects that have left, then those that have appeared.
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
                known = seen.objects[key] = _Known(
                    _remembered(found), time_s, wall_ns, seen.clock_s
                )
            known.see(found, time_s, wall_ns, seen.clock_s)
            in_frame[key] = known
        # Objects of this frame stay, however long ago the last frame was.
        since_s = seen.clock_s - self._leave_after_s
        gone = [key for key, known in seen.objects.items() if known.last_clock_s < since_s]
        changes = self._leave(stream, seen, gone)
        for known in in_frame.values():
            if not known.present and known.frames >= self._min_frames:
                known.present = True
                found, count = known.object, seen.count(known.object.label)
                first_s, first_ns = known.first_time_s, known.first_wall_ns
                changes.append(ObjectChange("appeared", stream, found, first_s, first_ns, count))
        return changes

    def end(self, stream: str) -> list[ObjectChange]:
        """End a stream, and with it the presence of all its objects."""
        seen = self._streams.pop(stream, None)
        return [] if seen is None else self._leave(stream, seen, list(seen.objects))

    def counts(self, stream: str) -> dict[str, int]:
        """Return label -> number of objects that are present; no label with none."""
        seen = self._streams.get(stream)
        known = () if seen is None else seen.objects.values()
        return dict(Counter(k.object.label for k in known if k.present))

    def state(self, stream: str) -> bytes:
        """Return what `restore` needs to continue with a stream after a crash."""
        seen = self._streams.get(stream)
        return b"" if seen is None else _encoder.encode(seen)

    def restore(self, stream: str, state: bytes) -> None:
        """Continue from the result of `state`."""
        if state:
            self._streams[stream] = _decoder.decode(state)

    def _leave(
        self, stream: str, seen: _Stream, keys: Sequence[tuple[str, int]]
    ) -> list[ObjectChange]:
        left = []
        for key in keys:
            known = seen.objects.pop(key)
            if not known.present:
                continue
            left.append(
                ObjectChange(
                    "left",
                    stream,
                    known.object,
                    known.last_time_s,
                    known.last_wall_ns,
                    seen.count(known.object.label),
                    round(known.last_clock_s - known.first_clock_s, 6),
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
    """Whether it has appeared."""

    def see(self, found: Object, time_s: float, wall_ns: int, clock_s: float) -> None:
        # The label of a track may change in some frames; an object leaves with the label with
        # which it appeared.
        if found.label == self.object.label:
            self.object = _remembered(found, self.object)
        self.last_time_s, self.last_wall_ns, self.last_clock_s = time_s, wall_ns, clock_s
        self.frames += 1


def _remembered(found: Object, before: Object | None = None) -> Object:
    """Return what is remembered of an object.

    Without its mask and keypoints, which would make saved states large; with the attributes of the
    frame before where this one gives none.
    """
    attributes = found.attributes
    if attributes is msgspec.UNSET and before is not None:
        attributes = before.attributes
    kept = attributes, msgspec.UNSET, msgspec.UNSET
    if (found.attributes, found.mask, found.keypoints) == kept:
        return found
    return msgspec.structs.replace(
        found, attributes=attributes, mask=msgspec.UNSET, keypoints=msgspec.UNSET
    )


@dataclass
class _Stream:
    time_s: float
    """Time of the newest frame, seconds."""
    clock_s: float = 0.0
    """The same time, but never going back."""
    objects: dict[tuple[str, int], _Known] = field(default_factory=dict)
    """Key: ("", track id), or (label, number of objects of this label before it in the frame)."""

    def count(self, label: str) -> int:
        return sum(k.present and k.object.label == label for k in self.objects.values())


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stream)
