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
from typing import Annotated

import msgspec
import numpy as np

from pipeline.frame import Frame
from pipeline.stage import Array, Context, Settings, Stage
from stages.analytics.changes import BEGINNINGS, ENDINGS, ObjectChange
from stages.analytics.changes import ObjectEvent as ObjectEvent
from stages.analytics.presence import Presence
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
