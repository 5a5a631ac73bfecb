"""Log of recent activity, for a person to read: objects, streams and stages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import msgspec

from pipeline.frame import Frame
from stages.analytics.changes import ObjectChange
from stages.details import Attribute
from stages.detections import NO_TRACK_ID, Detections, Object, add_attributes, label
from stages.sinks.files.events import utc_ms


class Activity(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log."""

    number: int
    """Number from 1 for as long as the process lives."""
    at: str
    """Wall clock, ISO 8601, UTC."""
    text: str
    """Change in words; for an object "appeared" or "left after 12 s"."""
    stream: str = ""
    """Name of the stream; empty for a stage and for the run."""
    label: str = ""
    """Label of an object; empty for a stream, a stage and the run."""
    id: int | None = None
    """Track id of an object, if it has one."""
    score: float = 0.0
    """Score of an object, 0 to 1."""
    attributes: dict[str, Attribute] = {}
    """Name of a stage -> the last class that its model gave the object."""
    urgent: bool = False
    """Whether something is wrong."""


class ActivityLog:
    """The most recent activities. May be used from any thread.

    Args:
        size: number of activities of objects to keep, and as many of streams and stages.
    """

    def __init__(self, size: int) -> None:
        # Separate, so that frequent activities of objects do not evict those of streams.
        self._objects: deque[Activity] = deque(maxlen=size)
        self._others: deque[Activity] = deque(maxlen=size)
        self._lock = threading.Lock()
        self.newest = 0
        """Number of the newest activity; 0 if there is none."""

    def add(self, wall_ns: int, text: str, **fields: object) -> None:
        """Add an activity; `fields` are further fields of `Activity`."""
        with self._lock:
            self.newest += 1
            activity = Activity(self.newest, utc_ms(wall_ns), text, **fields)  # type: ignore[arg-type]
            (self._objects if activity.label else self._others).append(activity)

    def add_object(self, change: ObjectChange, wall_ns: int) -> None:
        """Add that an object appeared or left, which is certain since `wall_ns`."""
        found = change.object
        text = change.kind
        if change.seen_s is not None:
            text = f"left after {change.seen_s:.0f} s"
        if change.place is not None:
            text += f" {change.place}"
        if found.id is None and change.count is not None:
            text += f", {change.count} now"
        self.add(
            wall_ns,
            text,
            stream=change.stream,
            label=found.label,
            id=found.id,
            score=found.score,
            attributes={} if found.attributes is msgspec.UNSET else found.attributes,
        )

    def after(self, number: int) -> list[Activity]:
        """Return the kept activities with a higher number than this, oldest first."""
        with self._lock:
            found = [
                activity
                for kept in (self._objects, self._others)
                for activity in kept
                if activity.number > number
            ]
        return sorted(found, key=lambda activity: activity.number)


def to_objects(frame: Frame, labels: Sequence[str]) -> list[Object]:
    """Return the objects of a frame one by one, without their boxes and shapes."""
    objects = Detections.of(frame)
    found = [
        Object(
            None if id == NO_TRACK_ID else id, label(labels, number), number, round(score, 2), ()
        )
        for id, number, score in zip(
            objects.ids.tolist(), objects.classes.tolist(), objects.scores.tolist(), strict=True
        )
    ]
    add_attributes(found, frame)
    return found
