"""ByteTrack: tracks by overlap and motion, in which weak detections count too.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022,
arXiv:2110.06864. Each frame is associated in three steps, and in each the pairs are chosen that
give the largest sum:

1. strong detections with confirmed tracks, seen in the last frame or lost, by IoU x score;
2. weak detections with the tracks seen in the last frame that are left, by IoU: an object half
   hidden scores low, but lies where its track expects it;
3. strong detections that are left, and reach the confidence, with tracks not confirmed yet, by IoU
   x score.

A strong detection that is left can begin a track. IoU x score, as in the authors' code, prefers the
better of two boxes that fit.

Differences: time is in seconds, not frames (see `kalman`); a track gets its id when it is
confirmed, so that ids have no gaps; classes do not mix unless `class_agnostic` is set.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import overlapping_pairs
from pipeline.stage import Context
from stages.detections import Detections
from stages.thresholds import UNKNOWN, Confidence, TrackScores, track_scores
from stages.tracking import kalman
from stages.tracking.association import Rows, assign
from stages.tracking.settings import ByteTrackSettings
from stages.tracking.tracker import Tracker, Tracks

UNKNOWN_INTERVAL_S = 1 / 30
"""Interval that is assumed when the time of the stream does not increase."""
ROUNDING_S = 1e-6
"""Tolerance when sums of intervals are compared."""

HEADER = struct.Struct("<qq?dd")
"""Head of a saved state: tracks, next id, whether a frame has been seen, time and clock."""


class ByteTrack(Tracker):
    """The tracks of one stream.

    A pause without frames, however long, ends no track by itself: a parked car keeps its id. The
    same frames give the same answers, also if `state` is carried over at any frame to another
    object of the same settings.
    """

    Settings = ByteTrackSettings
    takes_weak = True

    def __init__(self, settings: ByteTrackSettings, confidence: Confidence = UNKNOWN) -> None:
        """Begin without tracks.

        Args:
            settings: settings of the stage.
            confidence: confidence of the run and the card of the model.

        Raises:
            SetupError: two of the scores contradict each other.
        """
        super().__init__(settings)
        self._settings = settings
        self._is_confidence_known = confidence.known is not None
        self.scores: TrackScores = track_scores(
            settings.low_score, settings.high_score, settings.new_track_score, confidence
        )
        self._next_id = 1
        self._started = False
        self._time_s = 0.0
        # Runs like the stream's time but never back; what lost tracks are measured by.
        self._clock_s = 0.0
        # One column or item per track.
        self._motion: kalman.States = np.zeros((kalman.ROWS, 0))
        self._seen_s: NDArray[np.float64] = np.zeros(0)
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)  # 0: not confirmed yet
        self._classes: NDArray[np.int32] = np.zeros(0, np.int32)
        self._hits: NDArray[np.int32] = np.zeros(0, np.int32)

    @classmethod
    def for_stream(cls, settings: ByteTrackSettings, context: Context) -> ByteTrack:
        """Make a tracker with the confidence of the run and the card."""
        return cls(settings, Confidence.of(context))

    def effective(self) -> Mapping[str, object]:
        """Return the scores, which depend on the run's confidence and the model's card."""
        scores = self.scores
        known = {"confidence": scores.confirm} if self._is_confidence_known else {}
        return {
            "low_score": scores.low,
            "high_score": scores.high,
            **known,
            "new_track_score": scores.new,
        }

    @property
    def still_score(self) -> float:
        """Score that a detection in a still image needs: that of a new track."""
        return self.scores.new

    def __len__(self) -> int:
        """Number of tracks: not confirmed yet, seen in the last frame, and lost."""
        return len(self._ids)

    def update(
        self,
        detections: Detections,
        time_s: float,
        image: NDArray[np.uint8] | None = None,
    ) -> Tracks:
        """Associate the detections of the next frame.

        Args:
            detections: detections of the frame, with weak ones. Rows that are not finite are
                ignored.
            time_s: seconds into the stream. If it does not increase, a thirtieth of a second is
                taken to have passed.
            image: not used.

        Returns:
            The rows that belong to confirmed tracks, ascending, and their ids.
        """
        settings = self._settings
        boxes, scores, classes = detections.boxes, detections.scores, detections.classes
        confirm_at_once = settings.min_hits == 1 or not self._started
        before_s = self._clock_s
        self._advance(time_s)
        scores = np.where(np.isfinite(boxes).all(axis=1), scores, np.float32(np.nan))
        strong = scores >= self.scores.high

        row_of = self._associate(boxes, scores, classes, strong, self._seen_s >= before_s)
        seen = np.flatnonzero(row_of >= 0)
        rows = row_of[seen]
        kalman.correct(self._motion, seen, boxes[rows])
        self._seen_s[seen] = self._clock_s
        self._hits[seen] += 1
        self._confirm(seen[(self._ids[seen] == 0) & (self._hits[seen] >= settings.min_hits)])

        begin = strong & (scores >= self.scores.new)
        begin[rows] = False
        new = np.flatnonzero(begin)
        lost_too_long = self._clock_s - self._seen_s > settings.lost_s + ROUNDING_S
        keep = (row_of >= 0) | ((self._ids > 0) & ~lost_too_long)
        ids = np.concatenate([self._ids[seen], np.zeros(len(new), np.int64)])
        self._replace(keep, boxes[new], classes[new])
        if confirm_at_once:
            fresh = np.arange(len(self) - len(new), len(self))
            self._confirm(fresh)
            ids[len(seen) :] = self._ids[fresh]

        rows = np.concatenate([rows, new])
        confirmed = ids > 0
        rows, ids = rows[confirmed], ids[confirmed]
        order = np.argsort(rows)
        return Tracks(rows[order], ids[order])

    def state(self) -> bytes:
        """Return all that `restore` needs to continue."""
        head = HEADER.pack(
            len(self),
            self._next_id,
            self._started,
            self._time_s,
            self._clock_s,
        )
        columns = (self._motion, self._seen_s, self._ids, self._classes, self._hits)
        return head + b"".join(column.tobytes() for column in columns)

    def restore(self, state: bytes) -> None:
        """Continue from the result of `state`."""
        head = HEADER.unpack_from(state)
        tracks, self._next_id, self._started, self._time_s, self._clock_s = head
        at = HEADER.size
        columns = []
        for column in (self._motion, self._seen_s, self._ids, self._classes, self._hits):
            shape = (*column.shape[:-1], tracks)
            values = np.frombuffer(state, column.dtype, int(np.prod(shape)), at)
            columns.append(values.reshape(shape).copy())
            at += values.nbytes
        self._motion, self._seen_s, self._ids, self._classes, self._hits = columns

    def _advance(self, time_s: float) -> None:
        """Move the clock and all tracks on to the time of a frame."""
        interval_s = time_s - self._time_s
        if interval_s <= 0:
            interval_s = UNKNOWN_INTERVAL_S
        self._started, self._time_s = True, time_s
        # As in the authors' code, a lost object moves on but neither grows nor shrinks.
        self._motion[kalman.SIZE_VELOCITY, self._seen_s < self._clock_s] = 0
        self._clock_s += interval_s
        kalman.predict(self._motion, interval_s)

    def _associate(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
        strong: NDArray[np.bool_],
        seen_last: NDArray[np.bool_],
    ) -> Rows:
        """Return the row of the detection that continues each track, (T,); -1: none."""
        settings = self._settings
        tracks, rows, iou = overlapping_pairs(kalman.boxes_of(self._motion), boxes)
        if not settings.class_agnostic:
            same = self._classes[tracks] == classes[rows]
            tracks, rows, iou = tracks[same], rows[same], iou[same]
        fused = iou * scores[rows]
        weak = (scores >= self.scores.low) & ~strong
        sure = scores >= self.scores.confirm
        confirmed = self._ids > 0

        row_of = np.full(len(self), -1, np.intp)
        free = np.ones(len(boxes), np.bool_)

        def step(may: NDArray[np.bool_], similarity: NDArray[np.float64], least: float) -> None:
            may &= (similarity >= least) & (row_of[tracks] < 0) & free[rows]
            if may.any():
                # A pair that is just similar enough is better than none.
                gain = similarity[may] - least + 1e-9
                chosen, row = assign(tracks[may], rows[may], gain)
                row_of[chosen] = row
                free[row] = False

        step(confirmed[tracks] & strong[rows], fused, settings.match_iou)
        step((confirmed & seen_last)[tracks] & weak[rows], iou, settings.weak_match_iou)
        step(~confirmed[tracks] & sure[rows], fused, settings.match_iou)
        return row_of

    def _confirm(self, tracks: Rows) -> None:
        self._ids[tracks] = np.arange(self._next_id, self._next_id + len(tracks))
        self._next_id += len(tracks)

    def _replace(
        self,
        keep: NDArray[np.bool_],
        boxes: NDArray[np.float32],
        classes: NDArray[np.int32],
    ) -> None:
        """End tracks, and begin one for each box."""
        new = len(boxes)
        self._motion = np.concatenate([self._motion[:, keep], kalman.start(boxes)], axis=1)
        self._seen_s = np.concatenate([self._seen_s[keep], np.full(new, self._clock_s)])
        self._ids = np.concatenate([self._ids[keep], np.zeros(new, np.int64)])
        self._classes = np.concatenate([self._classes[keep], classes])
        self._hits = np.concatenate([self._hits[keep], np.ones(new, np.int32)])
