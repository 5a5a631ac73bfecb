"""Changes of objects: which ones appeared, which ones left, and where.

A detector sees an object in every frame, misses it in some, and finds one where there is none. So
an object has *appeared* when it was seen in several frames, and it has *left* when it was not seen
for a while. Time is that of the frames alone.

A stage that gives the array `object_events` (this one, or a zone of your own) feeds the sinks that
are behind it; without one they work the changes out with their own settings, see `ChangeReader`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np

from pipeline.frame import Frame
from pipeline.stage import Array, Context, Settings, Stage
from stages.details import Attribute
from stages.detections import (
    DETECTIONS,
    Detections,
    Object,
    add_attributes,
    check_labels,
    labels_of,
    to_objects,
)

OBJECT_EVENTS = Array("object_events", "uint8", (None,), optional=True)
"""A list of `ObjectEvent` as JSON, given by analytics and taken by sinks."""
BEGINNINGS = frozenset({"appeared", "entered"})
"""Kinds of changes after which an object is present."""
ENDINGS = frozenset({"left", "exited"})
"""Kinds of changes after which it is not."""


class ObjectEvent(msgspec.Struct, frozen=True):
    """A change of an object, as an item of the array `object_events`."""

    kind: str
    """"appeared", "left", "entered", "exited", "crossed" ..."""
    id: int | None
    """Track id; null without a track."""
    label: str
    score: float
    box: tuple[float, ...]
    """x1, y1, x2, y2 in pixels of the captured frame."""
    time_s: float
    """Seconds into the stream: the first or the last time it was seen, or that of the change."""
    place: str | None = None
    """Name of the zone or line."""
    count: int | None = None
    """Objects of this label that are present now, there or in the whole image."""
    attributes: dict[str, Attribute] | msgspec.UnsetType = msgspec.UNSET
    """Name of a stage -> the last class that its model gave the object; left out without any."""


@dataclass(frozen=True)
class ObjectChange:
    """A change of an object of a stream, as sinks work with it."""

    kind: str
    stream: str
    object: Object
    """State in the newest frame, or when it was last detected."""
    time_s: float
    """See `ObjectEvent.time_s`."""
    wall_ns: int
    """Capture time of that frame, nanoseconds since the Unix epoch."""
    count: int | None
    seen_s: float | None = None
    """For an object that has left: seconds from the first frame it was seen in to the last."""
    place: str | None = None

    @property
    def begins(self) -> bool:
        """Whether the object is present from now on."""
        return self.kind in BEGINNINGS

    def event(self) -> ObjectEvent:
        """Return it as an item of the array."""
        found = self.object
        return ObjectEvent(
            self.kind,
            found.id,
            found.label,
            found.score,
            found.box,
            round(self.time_s, 6),
            self.place,
            self.count,
            found.attributes,
        )


def put_events(frame: Frame, events: Sequence[ObjectEvent]) -> None:
    """Add events to a frame, behind those that stages before have given."""
    given = _decode(frame) if OBJECT_EVENTS.name in frame else []
    data = msgspec.json.encode([*given, *events])
    frame.put(OBJECT_EVENTS.name, np.frombuffer(data, np.uint8))


def _decode(frame: Frame) -> list[ObjectEvent]:
    """Return the events of a frame.

    Raises:
        ValueError: they are not as docs/analytics.md describes them.
    """
    data = frame[OBJECT_EVENTS.name].tobytes()
    try:
        return msgspec.json.decode(data, type=list[ObjectEvent]) if data else []
    except msgspec.DecodeError as error:
        raise ValueError(
            f"array 'object_events': expected a list of events as JSON ({error}); correct the "
            "stage that gives it"
        ) from None


class ChangeReader:
    """Changes of the objects of any number of streams, for sinks.

    They come from the array `object_events` of a frame; where no stage gives it, from a `Presence`.

    Args:
        presence: works the changes out where they are not given.
        labels: names of the classes; empty where they are unknown.
        wanted: labels of interest; empty: all.
    """

    def __init__(
        self, presence: Presence, labels: Sequence[str] = (), wanted: Collection[str] = ()
    ) -> None:
        self._presence, self._labels, self._wanted = presence, labels, frozenset(wanted)
        self._given: dict[str, list[ObjectEvent]] = {}
        """Stream -> beginnings without an ending; only streams whose frames bring events."""

    def update(
        self, frame: Frame, objects: Sequence[Object], time_s: float | None = None
    ) -> list[ObjectChange]:
        """Return the changes of a frame; frames of one stream come in order.

        Args:
            frame: with its arrays.
            objects: all of the frame.
            time_s: seconds, by which the changes are worked out; None: those of the frame.
        """
        at_s = frame.time_s if time_s is None else time_s
        if OBJECT_EVENTS.name not in frame:
            return self._presence.update(frame.stream, at_s, frame.wall_ns, objects)
        present = self._given.setdefault(frame.stream, [])
        changes = []
        for event in _decode(frame):
            if self._wanted and event.label not in self._wanted:
                continue
            if event.kind in BEGINNINGS:
                present.append(event)
            elif event.kind in ENDINGS:
                same = (other for other in present if _is_same(other, event))
                began = next(same, None)
                if began is not None:
                    present.remove(began)
            if event.attributes is msgspec.UNSET and event.id is not None:
                known = next((found for found in objects if found.id == event.id), None)
                if known is not None:
                    event = msgspec.structs.replace(event, attributes=known.attributes)
            wall_ns = frame.wall_ns + round((event.time_s - frame.time_s) * 1e9)
            changes.append(self._change(frame.stream, event, wall_ns))
        return changes

    def end(self, stream: str) -> list[ObjectChange]:
        """End a stream, and with it the presence of all its objects."""
        left = [
            self._change(stream, msgspec.structs.replace(event, kind="left", count=0), 0)
            for event in self._given.pop(stream, [])
        ]
        return [*left, *self._presence.end(stream)]

    def counts(self, stream: str) -> dict[str, int]:
        """Return label -> number of objects that are present; no label with none."""
        if stream in self._given:
            return dict(Counter(event.label for event in self._given[stream]))
        return self._presence.counts(stream)

    def state(self, stream: str) -> bytes:
        """Return what `restore` needs to continue with a stream after a crash."""
        return msgspec.msgpack.encode((self._presence.state(stream), self._given.get(stream)))

    def restore(self, stream: str, state: bytes) -> None:
        """Continue from the result of `state`."""
        kind = tuple[bytes, list[ObjectEvent] | None]
        presence, given = msgspec.msgpack.decode(state, type=kind)
        self._presence.restore(stream, presence)
        if given is not None:
            self._given[stream] = given

    def _change(self, stream: str, event: ObjectEvent, wall_ns: int) -> ObjectChange:
        number = self._labels.index(event.label) if event.label in self._labels else 0
        found = Object(event.id, event.label, number, event.score, event.box, event.attributes)
        return ObjectChange(
            event.kind, stream, found, event.time_s, wall_ns, event.count, place=event.place
        )


def _is_same(one: ObjectEvent, other: ObjectEvent) -> bool:
    """Return whether two events are of one object in one place."""
    return (one.id, one.label, one.place) == (other.id, other.label, other.place)


class ObjectEventsSettings(Settings, frozen=True):
    """Settings of the stage that finds out which objects appeared and left."""

    labels: tuple[str, ...] = ()
    """Labels of interest; numbers as text where the model has no labels; empty: all."""
    min_frames: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Number of frames in which an object must be seen to have appeared."""
    leave_after_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """Time without a detection after which an object has left, in seconds."""


class ObjectEvents(Stage):
    """Gives the array `object_events`: the objects that appeared and left in each frame.

    Objects that are present when a stream ends are reported as left by the sinks.
    """

    Settings = ObjectEventsSettings
    takes = DETECTIONS
    gives = (Array("object_events", "uint8", (None,)),)
    ordered = True

    settings: ObjectEventsSettings

    def __init__(self, settings: ObjectEventsSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels_of(context)
        check_labels(settings.labels, self._labels)
        self._presence = Presence(settings.labels, settings.min_frames, settings.leave_after_s)

    def process(self, frame: Frame) -> None:
        """Add the events of the frame, which are none in most frames."""
        objects = to_objects(Detections.of(frame), self._labels)
        add_attributes(objects, frame)
        changes = self._presence.update(frame.stream, frame.time_s, frame.wall_ns, objects)
        put_events(frame, [change.event() for change in changes])

    def end(self, stream: str) -> None:
        """Forget the objects of a stream."""
        self._presence.end(stream)

    def state(self, stream: str) -> bytes:
        """Return the objects that are present."""
        return self._presence.state(stream)

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with the objects that were present."""
        self._presence.restore(stream, state)


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
