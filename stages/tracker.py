"""The tracker: gives the same object the same id from frame to frame.

Still pictures are not the frames of a film, and no object is seen in two of them: of these every
detection is handed on that is good enough to begin a track.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Stage
from stages.bytetrack import ByteTrack, ByteTrackSettings, Rows
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
    """Hands on the detections that belong to a track, and adds their `ids`; of still pictures
    the detections with at least `new_track_score`, without an id.

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
        if frame.still:
            rows = self._good_enough(boxes, scores)
            ids: NDArray[np.int64] = np.full(len(rows), NO_ID, np.int64)
        else:
            tracks = self._tracks_of(frame.stream)
            rows, ids = tracks.update(boxes, scores, classes, frame.time_s)
        frame.put("boxes", boxes[rows])
        frame.put("scores", scores[rows])
        frame.put("classes", classes[rows])
        frame.put("ids", ids)

    def _good_enough(self, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Rows:
        """Rows of the detections that are handed on without a track."""
        finite = np.isfinite(boxes).all(axis=1)
        rows: Rows = np.flatnonzero(finite & (scores >= self.settings.new_track_score))
        return rows

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
