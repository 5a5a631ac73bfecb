"""An analytics stage of one's own: a rectangle that objects enter and leave. One file, one line."""

from __future__ import annotations

import msgspec

from pipeline.stage import Array, Settings, Stage
from stages.analytics.object_events import ObjectEvent, put_events
from stages.detections import DETECTIONS, Detections, labels_of, to_objects

LINE = ("zone", "tests.stages.analytics.zone:Zone")


class ZoneSettings(Settings, frozen=True):
    """Settings of the zone."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the captured frame."""
    name: str = "zone"
    """Place of its events."""


class Zone(Stage):
    """Reports the tracked objects whose feet enter and leave a rectangle."""

    Settings = ZoneSettings
    takes = DETECTIONS
    gives = (Array("object_events", "uint8", (None,)),)
    ordered = True

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.labels = labels_of(context)
        self.inside = {}

    def process(self, frame):
        x1, y1, x2, y2 = self.settings.box
        was = self.inside.get(frame.stream, {})
        now = {}
        for found in to_objects(Detections.of(frame), self.labels):
            left, _, right, feet = found.box
            if found.id is not None and x1 <= (left + right) / 2 < x2 and y1 <= feet < y2:
                now[found.id] = (found.label, found.score, found.box)
        self.inside[frame.stream] = now
        events = [("entered", id, now[id]) for id in now.keys() - was.keys()]
        events += [("exited", id, was[id]) for id in was.keys() - now.keys()]
        put_events(
            frame,
            [
                ObjectEvent(kind, id, *what, round(frame.time_s, 6), self.settings.name, len(now))
                for kind, id, what in events
            ],
        )

    def state(self, stream):
        return msgspec.msgpack.encode(self.inside.get(stream, {}))

    def restore(self, stream, state):
        saved = msgspec.msgpack.decode(state, type=dict[int, tuple[str, float, tuple[float, ...]]])
        self.inside[stream] = saved
