"""Settings of the trackers that are shipped."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pipeline.stage import Settings

Score = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ByteTrackSettings(Settings, frozen=True):
    """Conditions under which a detection continues or begins a track."""

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
    once, so that a single image has objects."""
    lost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Seconds that a track is kept while its object is not detected, so that it continues with
    its id. Longer bridges longer occlusions, and lets others take over the ids of objects that
    have left. 0: it ends with the first frame without it."""
    class_agnostic: bool = False
    """Whether a track may continue with a detection of another class, for models that waver
    between car and truck; it then has the class of the detection."""
