"""The tracker: gives the same object the same id from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Stage
from stages.bytetrack import ByteTrack, ByteTrackSettings
from stages.objects import NO_ID

DETECTIONS = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
)
"""xyxy in px of the captured frame, 0 to 1, indices into the model's labels; one row per box."""


class TrackerSettings(ByteTrackSettings, frozen=True):
    """Settings of the tracker; all but `kind` are those of ByteTrack."""

    kind: Annotated[
        Literal["bytetrack", "none"],
        msgspec.Meta(
            description="bytetrack: hand on the detections that belong to a confirmed track, "
            "with its id. none: hand on every detection, without an id."
        ),
    ] = "bytetrack"


class Tracker(Stage):
    """Hands on the detections that belong to a track, and adds their `ids`.

    Boxes, scores and classes are those that were detected, not the tracker's estimate, and keep
    their order, so after NMS the best score comes first. Ids count from 1 in each stream and are
    never given twice in a run.
    """

    Settings = TrackerSettings
    takes = DETECTIONS
    gives = (*DETECTIONS, Array("ids", "int64", (None,)))
    ordered = True

    settings: TrackerSettings

    def __init__(self, settings: TrackerSettings, facts: Mapping[str, Any]) -> None:
        super().__init__(settings, facts)
        self._tracks: dict[str, ByteTrack] = {}

    @classmethod
    def resolve(cls, settings: TrackerSettings) -> Mapping[str, Any]:
        """See that the scores are in order.

        Raises:
            SetupError: they are not.
        """
        high = settings.high_score
        if settings.low_score > high:
            raise SetupError(
                f"low_score: expected at most high_score ({high}), found {settings.low_score}"
            )
        if settings.new_track_score < high:
            raise SetupError(
                f"new_track_score: expected at least high_score ({high}), "
                f"found {settings.new_track_score}"
            )
        return {}

    def process(self, frame: Frame) -> None:
        """Put the objects of the frame in place of its detections."""
        boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
        if self.settings.kind == "none":
            frame.put("ids", np.full(len(boxes), NO_ID, np.int64))
            return
        tracks = self._tracks_of(frame.stream)
        rows, ids = tracks.update(boxes, scores, classes, frame.time_s)
        frame.put("boxes", boxes[rows])
        frame.put("scores", scores[rows])
        frame.put("classes", classes[rows])
        frame.put("ids", ids)

    def end(self, stream: str) -> None:
        """Forget the stream's tracks."""
        self._tracks.pop(stream, None)

    def state(self, stream: str) -> bytes:
        """The stream's tracks."""
        return self._tracks[stream].state() if stream in self._tracks else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Go on with the stream's tracks."""
        if state:
            self._tracks_of(stream).restore(state)

    def _tracks_of(self, stream: str) -> ByteTrack:
        if stream not in self._tracks:
            self._tracks[stream] = ByteTrack(self.settings)
        return self._tracks[stream]
