"""The tracker: gives the same object the same id from frame to frame.

Still pictures are not the frames of a film, and no object is seen in two of them: of these every
detection is handed on that is good enough to begin a track.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from pipeline.stage import Array, Context, Stage
from stages.detections import CANDIDATES, NO_TRACK_ID, WEAK_DETECTIONS
from stages.thresholds import Confidence, Suppression, hand_on_score
from stages.tracking.bytetrack import ByteTrack, ByteTrackSettings, Rows


class TrackerSettings(ByteTrackSettings, frozen=True):
    """Settings of the tracker; all but `kind` are those of ByteTrack."""

    kind: Literal["bytetrack", "none"] = "bytetrack"
    """bytetrack: hand on the detections that belong to a confirmed track, with its id. none:
    hand on the detections that reach the confidence, without an id."""


class Tracker(Stage):
    """Hands on the detections that belong to a track, and adds their `ids`; of still pictures
    the detections with at least `new_track_score`, without an id.

    Boxes, scores and classes are those that were detected, not the tracker's estimate, and keep
    their order, so after NMS the best score comes first. Ids count from 1 in each stream and are
    never given twice in a run.
    """

    Settings = TrackerSettings
    takes = (*CANDIDATES, *WEAK_DETECTIONS)
    gives = (*CANDIDATES, Array("ids", "int64", (None,)))
    ordered = True

    settings: TrackerSettings

    def __init__(self, settings: TrackerSettings, context: Context) -> None:
        """Work the scores out.

        Raises:
            SetupError: they contradict each other.
        """
        super().__init__(settings, context)
        self._confidence = Confidence.of(context)
        suppression = context.get(Suppression)
        self._hand_on = hand_on_score(
            suppression.min_score if suppression else None, self._confidence
        )
        self._scores = self._new_tracks().scores
        self._tracks: dict[str, ByteTrack] = {}

    def effective(self) -> Mapping[str, Any]:
        """The scores, which depend on the run's confidence and the model's card."""
        if self.settings.kind == "none":
            return {} if self._hand_on is None else {"confidence": self._hand_on}
        scores = self._scores
        known = {} if self._confidence.known is None else {"confidence": scores.confirm}
        return {
            "low_score": scores.low,
            "high_score": scores.high,
            **known,
            "new_track_score": scores.new,
        }

    def process(self, frame: Frame) -> None:
        """Put the objects of the frame in place of its detections."""
        if self.settings.kind == "none":
            self._hand_on_untracked(frame, self._hand_on)
            return
        if frame.still:
            self._hand_on_untracked(frame, self._scores.new)
            return
        boxes, scores, classes = _with_weak_ones(frame)
        tracks = self._tracks_of(frame.stream)
        rows, ids = tracks.update(boxes, scores, classes, frame.time_s)
        _put(frame, boxes[rows], scores[rows], classes[rows], ids)

    def _hand_on_untracked(self, frame: Frame, min_score: float | None) -> None:
        """Hand on the detections with at least a score, without ids."""
        boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
        rows = _good_enough(boxes, scores, min_score)
        ids = np.full(len(rows), NO_TRACK_ID, np.int64)
        _put(frame, boxes[rows], scores[rows], classes[rows], ids)

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
            self._tracks[stream] = self._new_tracks()
        return self._tracks[stream]

    def _new_tracks(self) -> ByteTrack:
        return ByteTrack(self.settings, self._confidence)


def _good_enough(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], min_score: float | None
) -> Rows:
    """Rows of the detections that are handed on without a track; `min_score` None: any score."""
    good = np.isfinite(boxes).all(axis=1)
    if min_score is not None:
        good &= scores >= np.float32(min_score)
    rows: Rows = np.flatnonzero(good)
    return rows


def _with_weak_ones(
    frame: Frame,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """The detections of a frame, and behind them those that do not reach the confidence."""
    boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
    if "weak_boxes" not in frame or not len(frame["weak_boxes"]):
        return boxes, scores, classes
    return (
        np.concatenate([boxes, frame["weak_boxes"]]),
        np.concatenate([scores, frame["weak_scores"]]),
        np.concatenate([classes, frame["weak_classes"]]),
    )


def _put(
    frame: Frame,
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    ids: NDArray[np.int64],
) -> None:
    frame.put("boxes", boxes)
    frame.put("scores", scores)
    frame.put("classes", classes)
    frame.put("ids", ids)
