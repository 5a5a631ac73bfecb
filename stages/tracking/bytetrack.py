"""ByteTrack: tracks by overlap and motion, in which weak detections count too.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022,
arXiv:2110.06864. Each frame is associated in three steps, and in each the pairs are chosen that
give the largest sum:

1. strong detections with confirmed tracks, seen in the last frame or lost, by IoU x score;
2. weak detections with the tracks seen in the last frame that are left, by IoU: an object half
   hidden scores low, but lies where its track expects it;
3. strong detections that are left, and reach the confidence, with tracks not confirmed yet, by IoU
   x score.

What is left and strong enough begins a track. IoU x score, as in the authors' code, lets the better
of two boxes that fit have the track.

Different here: time is in seconds, not frames (see `kalman`), a track gets its id when it is
confirmed, so that ids have no gaps, and classes do not mix unless asked to.
"""

from __future__ import annotations

import struct
from typing import Annotated

import lap
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import overlapping_pairs
from pipeline.stage import Settings
from stages.thresholds import UNKNOWN, Confidence, TrackScores, track_scores
from stages.tracking import kalman

UNKNOWN_INTERVAL_S = 1 / 30
"""Taken to have passed where the time of the stream stands still or jumps back."""
ROUNDING_S = 1e-6
"""Sums of intervals are compared no more exactly than this."""

HEADER = struct.Struct("<qq?dd")
"""Of a saved state: tracks, next id, whether a frame has been seen, time and clock."""

Rows = NDArray[np.intp]
Score = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ByteTrackSettings(Settings, frozen=True):
    """When a detection continues a track, begins one, or is passed over."""

    high_score: Score | None = None
    """Detections with at least this score are strong: they may continue any track. Lower lets
    doubtful boxes take tracks over, higher leaves more to weak detections, which cannot find a
    lost track again. null: 0.5, or less where the confidence is less."""
    low_score: Score | None = None
    """Detections between this and high_score are weak: they may continue a track seen in the
    last frame. Lower bridges more of a half hidden object and keeps false tracks alive longer;
    as high as high_score: weak detections do not count. Lower than the min_score of NMS has no
    effect. null: 0.3, or high_score where that is less."""
    new_track_score: Score | None = None
    """Detections with at least this score may begin a track; at least the run's confidence.
    Lower finds faint objects sooner and gives more false tracks; an object that never scores so
    high is never shown. null: the confidence, or 0.65 where neither the settings nor the card
    of the model give one."""
    match_iou: Score = 0.1
    """Least IoU x score for a strong detection to continue a track. Lower follows fast objects
    and low frame rates, higher avoids mixing up neighbours; at 1 every detection is a new
    track."""
    weak_match_iou: Score = 0.5
    """Least IoU, not multiplied by the score, for a weak detection to continue a track."""
    min_hits: Annotated[int, msgspec.Meta(ge=1)] = 2
    """A track is confirmed, gets its id and is shown once detected in so many frames in a row.
    1: at once, every false detection too. Tracks of a stream's first frame are confirmed at
    once, so that a single picture has objects."""
    lost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How many seconds a track is kept while nothing is detected of it, so that it goes on with
    its id. Longer bridges longer occlusions, and lets others take over the ids of objects that
    have left. 0: it ends with the first frame without it."""
    class_agnostic: bool = False
    """Whether a track may continue with a detection of another class, for models that waver
    between car and truck; it then has the class of the detection."""


class ByteTrack:
    """The tracks of one stream.

    A pause without frames, however long, ends no track by itself: a parked car keeps its id. The
    same frames give the same answers, also if `state` is carried over at any frame to another
    object of the same settings.
    """

    def __init__(self, settings: ByteTrackSettings, confidence: Confidence = UNKNOWN) -> None:
        """Begin without tracks.

        Args:
            settings: of the tracker.
            confidence: of the run and the card of the model.

        Raises:
            SetupError: two of the scores contradict each other.
        """
        self._settings = settings
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

    def __len__(self) -> int:
        """Number of tracks: not confirmed yet, seen in the last frame, and lost."""
        return len(self._ids)

    def update(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
        time_s: float,
    ) -> tuple[Rows, NDArray[np.int64]]:
        """Associate the detections of the next frame.

        Args:
            boxes: (N, 4) xyxy in px. Rows that are not finite are passed over.
            scores: (N,) from 0 to 1.
            classes: (N,).
            time_s: seconds into the stream. Where it stands still or jumps back, a thirtieth of a
                second is taken to have passed.

        Returns:
            (M,) the rows that belong to confirmed tracks, ascending, and (M,) the ids of those.
        """
        settings = self._settings
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
        return rows[order], ids[order]

    def state(self) -> bytes:
        """All that `restore` needs to go on as if nothing had happened."""
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
        """Take up what `state` gave."""
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
        """The row of the detection that continues each track, (T,); -1: none does."""
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
        """Let tracks end, and begin one for each of the boxes."""
        new = len(boxes)
        self._motion = np.concatenate([self._motion[:, keep], kalman.start(boxes)], axis=1)
        self._seen_s = np.concatenate([self._seen_s[keep], np.full(new, self._clock_s)])
        self._ids = np.concatenate([self._ids[keep], np.zeros(new, np.int64)])
        self._classes = np.concatenate([self._classes[keep], classes])
        self._hits = np.concatenate([self._hits[keep], np.ones(new, np.int32)])


def assign(i: Rows, j: Rows, gain: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """The pairs with the largest sum of gains, each left and each right member used once at most.

    Jonker & Volgenant, Computing 38, 1987 (lap.lapjv), for what cannot be seen at a glance.

    Args:
        i: (P,) left members, from 0.
        j: (P,) right members, from 0; no pair twice.
        gain: (P,) more than 0.

    Returns:
        left and right members of the chosen pairs.
    """
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)
    if alone.all():
        return i, j
    left, at_left = np.unique(i[~alone], return_inverse=True)
    right, at_right = np.unique(j[~alone], return_inverse=True)
    cost = np.zeros((len(left), len(right)))
    cost[at_left, at_right] = -gain[~alone]
    to, _ = lap.lapjv(cost, extend_cost=True, return_cost=False)
    # To match two that are no pair costs nothing, like leaving both alone, which is what it means.
    chosen = np.flatnonzero((to >= 0) & (cost[np.arange(len(to)), to] < 0))
    return (
        np.concatenate([i[alone], left[chosen]]),
        np.concatenate([j[alone], right[to[chosen]]]),
    )
