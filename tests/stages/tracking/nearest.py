"""A second tracker: the nearest centre continues a track. A file, and a line in `TRACKERS`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from pipeline.stage import Settings
from stages.tracking.tracker import Tracker, Tracks

LINE = ("nearest", "tests.stages.tracking.nearest:NearestCentre")


class NearestSettings(Settings, frozen=True):
    """Settings of the tracker."""

    reach_px: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    """Longest way of a centre between two frames, in pixels."""


class NearestCentre(Tracker):
    """Continues each track with the detection whose centre is nearest."""

    Settings = NearestSettings

    def __init__(self, settings):
        super().__init__(settings)
        self.centres = np.zeros((0, 2))
        self.ids = np.zeros(0, np.int64)
        self.next_id = 1

    def update(self, detections, time_s, image=None):
        boxes = detections.boxes
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        ids = np.zeros(len(centres), np.int64)
        for row, centre in enumerate(centres):
            ways = np.linalg.norm(self.centres - centre, axis=1)
            ways[np.isin(self.ids, ids)] = np.inf
            if len(ways) and ways.min() <= self.settings.reach_px:
                ids[row] = self.ids[ways.argmin()]
            else:
                ids[row], self.next_id = self.next_id, self.next_id + 1
        self.centres, self.ids = centres, ids
        return Tracks(np.arange(len(ids)), ids)

    def state(self):
        return msgspec.msgpack.encode((self.centres.tolist(), self.ids.tolist(), self.next_id))

    def restore(self, state):
        centres, ids, self.next_id = msgspec.msgpack.decode(state)
        self.centres, self.ids = np.reshape(centres, (-1, 2)), np.array(ids, np.int64)
