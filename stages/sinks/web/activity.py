"""What has happened lately, for a person to read: objects came and left, streams went away."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import msgspec

from stages.analytics.object_events import Appeared, Incident
from stages.detections import NO_TRACK_ID, Detections, Object, label
from stages.sinks.files.events import utc_ms


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the feed."""

    number: int
    """Counts up from 1 for as long as the process lives."""
    at: str
    """Wall clock, ISO 8601, UTC."""
    text: str
    """Of an object: "appeared", "left after 12 s"."""
    stream: str = ""
    label: str = ""
    """Of an object; empty if this is about something else."""
    id: int | None = None
    """Track id of an object, if it has one."""
    score: float = 0.0
    urgent: bool = False
    """Something is wrong."""


class Feed:
    """The last things that happened; from any thread.

    Args:
        kept: how many, of objects and of all else.
    """

    def __init__(self, kept: int) -> None:
        # Apart, as a busy street would soon wash away that a camera has gone.
        self._objects: deque[Happening] = deque(maxlen=kept)
        self._others: deque[Happening] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self.newest = 0
        """Number of the last one; 0: none yet."""

    def add(self, wall_ns: int, text: str, **facts: object) -> None:
        """Add one; `facts` are further fields of `Happening`."""
        with self._lock:
            self.newest += 1
            happening = Happening(self.newest, utc_ms(wall_ns), text, **facts)  # type: ignore[arg-type]
            (self._objects if happening.label else self._others).append(happening)

    def tell(self, incident: Incident, wall_ns: int) -> None:
        """Add that an object came or left; `wall_ns` is when that was certain."""
        found = incident.object
        if isinstance(incident, Appeared):
            text = "appeared"
        else:
            text = f"left after {incident.seen_s:.0f} s"
        if found.id is None:
            text += f", {incident.count} now"
        self.add(
            wall_ns,
            text,
            stream=incident.stream,
            label=found.label,
            id=found.id,
            score=found.score,
        )

    def after(self, number: int) -> list[Happening]:
        """Those that came after this one, oldest first, as far as they are kept."""
        with self._lock:
            found = [
                happening
                for kept in (self._objects, self._others)
                for happening in kept
                if happening.number > number
            ]
        return sorted(found, key=lambda happening: happening.number)


def as_listed(objects: Detections, labels: Sequence[str]) -> list[Object]:
    """The objects of a frame one by one, without their boxes."""
    return [
        Object(
            None if id == NO_TRACK_ID else id, label(labels, number), number, round(score, 2), ()
        )
        for id, number, score in zip(
            objects.ids.tolist(), objects.classes.tolist(), objects.scores.tolist(), strict=True
        )
    ]
