"""A change of an object: as an item of an array, and as sinks work with it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stages.details import Attribute
from stages.detections import Object

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
