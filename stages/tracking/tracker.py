"""The tracker: gives the same object the same id from frame to frame.

The stage is the same for all trackers. A tracker of your own is a class with the methods of
`Tracker`, in a file in this folder, and a line in `TRACKERS`.

Still images are not the frames of a video: no object is in two of them. There, every detection that
could begin a track is handed on without an id.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, ContractError, Settings, Stage
from stages.details import DETAILS
from stages.detections import CANDIDATES, NO_TRACK_ID, WEAK_DETECTIONS, Detections
from stages.thresholds import (
    Confidence,
    Suppression,
    hand_on_score,
    of_stream,
    own_confidences,
)
from stages.tracking.settings import ByteTrackSettings

ROWS = (DETAILS[0], DETAILS[1])
"""The arrays `rows` and `weak_rows`."""

TRACKERS = {
    "bytetrack": "stages.tracking.bytetrack:ByteTrack",
    "none": "stages.tracking.tracker:NoTracker",
}
"""Value of the setting `kind` -> "module:Class". The first is the default."""


class Tracks(NamedTuple):
    """The detections of a frame that are handed on."""

    rows: NDArray[np.intp]
    """(K,) rows of the detections, ascending."""
    ids: NDArray[np.int64]
    """(K,) ids, from 1 in each stream and never used twice; `NO_TRACK_ID`: none."""


class Tracker:
    """The tracks of one stream: the base of all trackers."""

    Settings: type[Settings] = Settings
    needs_image: ClassVar[bool] = False
    """Whether `update` gets the image; without it no pixel is touched."""
    takes_weak: ClassVar[bool] = False
    """Whether the detections include those below the confidence, behind the others."""

    def __init__(self, settings: Any) -> None:
        """Begin without tracks.

        Args:
            settings: an instance of the class's own `Settings`.

        Raises:
            SetupError: the settings contradict each other.
        """
        self.settings = settings

    @classmethod
    def for_stream(cls, settings: Any, context: Context) -> Self:
        """Make the tracker of one stream; for trackers that need more than their settings."""
        return cls(settings)

    @property
    def still_score(self) -> float | None:
        """Score that a detection in a still image needs; None: the confidence of the run."""
        return None

    def effective(self) -> Mapping[str, object]:
        """Return the values in use of settings that are open; `run.py check` shows them."""
        return {}

    def update(
        self,
        detections: Detections,
        time_s: float,
        image: NDArray[np.uint8] | None = None,
    ) -> Tracks:
        """Associate the detections of the next frame.

        Args:
            detections: detections of the frame, without ids. The arrays are views, valid during
                the call.
            time_s: seconds into the stream; may stand still or jump back.
            image: (H, W, 3) uint8 BGR, if `needs_image` is set.

        Returns:
            The rows of the detections that are handed on, and their ids.
        """
        raise NotImplementedError

    def state(self) -> bytes:
        """Return what `restore` needs to continue after a crash as if nothing had happened."""
        return b""

    def restore(self, state: bytes) -> None:
        """Continue from the result of `state`."""


class NoTracker(Tracker):
    """Hands on the detections that reach the confidence, without ids."""

    Settings = ByteTrackSettings
    """Not used, but accepted: `--set tracker.kind=none` works with every settings file."""

    min_score: float | None = None
    """Score that a detection needs; None: every one is handed on."""

    @classmethod
    def for_stream(cls, settings: Any, context: Context) -> Self:
        """Make one with the confidence of the run and the card."""
        tracker = cls(settings)
        tracker.min_score = _hand_on_score(context)
        return tracker

    def effective(self) -> Mapping[str, object]:
        """Return the confidence."""
        return {} if self.min_score is None else {"confidence": self.min_score}

    def update(
        self,
        detections: Detections,
        time_s: float,
        image: NDArray[np.uint8] | None = None,
    ) -> Tracks:
        """Choose the detections with at least the score."""
        return untracked(detections, self.min_score)


def check_tracks(tracks: Tracks, count: int, kind: str) -> None:
    """Check the answer of a tracker.

    Args:
        tracks: answer to a frame.
        count: number of its detections.
        kind: name of the tracker, for the message.

    Raises:
        ContractError: rows and ids do not belong together, or a row is not one of a detection.
    """
    rows, ids = tracks
    if len(rows) and (rows.dtype.kind not in "iu" or ids.dtype.kind not in "iu"):
        raise ContractError(
            f"tracker {kind}: expected whole numbers as rows and ids (found {rows.dtype} and "
            f"{ids.dtype})"
        )
    if rows.ndim != 1 or rows.shape != ids.shape:
        raise ContractError(
            f"tracker {kind}: expected an id for each row (found {rows.shape} rows, {ids.shape} "
            "ids)"
        )
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ContractError(
            f"tracker {kind}: expected rows from 0 to {count - 1} (found {rows.min()} to "
            f"{rows.max()})"
        )


class _Variants(Mapping[str, type[Settings]]):
    """Kind of a tracker -> its settings; imports the tracker's module when it is asked for."""

    def __getitem__(self, kind: str) -> type[Settings]:
        return load(kind).Settings

    def __iter__(self) -> Iterator[str]:
        return iter(TRACKERS)

    def __len__(self) -> int:
        return len(TRACKERS)


class TrackerStage(Stage):
    """Hands on the detections that belong to a track, and adds their `ids`.

    Boxes, scores and classes are those of the detector, not the tracker's estimate, and keep their
    order, so after NMS the best score comes first.
    """

    variants = _Variants()
    takes = (
        *CANDIDATES,
        *WEAK_DETECTIONS,
        *ROWS,
        Array("image", "uint8", (None, None, 3), optional=True),
    )
    gives = (*CANDIDATES, Array("ids", "int64", (None,)), ROWS[0])
    ordered = True

    def __init__(self, settings: Any, context: Context) -> None:
        """Load the tracker.

        Raises:
            SetupError: the settings contradict each other.
        """
        super().__init__(settings, context)
        self._kind = load(settings.kind)
        self._tracks: dict[str, Tracker] = {}
        self._effective = self._new("").effective()
        self._still_scores: dict[str, float | None] = {}
        for stream in own_confidences(context):
            try:
                self._new(stream)
            except SetupError as error:
                raise SetupError(f"stream {stream}: {error}") from None

    def effective(self) -> Mapping[str, Any]:
        """Return those of the tracker."""
        return self._effective

    def process(self, frame: Frame) -> None:
        """Put the tracked detections of the frame in place of all."""
        if frame.still:
            detections = Detections.of(frame)
            tracks = untracked(detections, self._still_score(frame.stream))
        else:
            detections = _with_weak_ones(frame) if self._kind.takes_weak else Detections.of(frame)
            image = frame["image"] if self._kind.needs_image else None
            tracks = self._of(frame.stream).update(detections, frame.time_s, image)
            check_tracks(tracks, len(detections.boxes), self.settings.kind)
        rows = tracks.rows.astype(np.intp, copy=False)
        frame.put("boxes", detections.boxes[rows])
        frame.put("scores", detections.scores[rows])
        frame.put("classes", detections.classes[rows])
        frame.put("ids", tracks.ids.astype(np.int64, copy=False))
        if "rows" in frame:
            frame.put("rows", np.concatenate([frame["rows"], frame["weak_rows"]])[rows])

    def end(self, stream: str) -> None:
        """Forget the tracks of a stream."""
        self._tracks.pop(stream, None)

    def state(self, stream: str) -> bytes:
        """Return the tracks of a stream."""
        return self._tracks[stream].state() if stream in self._tracks else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with the tracks of a stream."""
        if state:
            self._of(stream).restore(state)

    def _of(self, stream: str) -> Tracker:
        if stream not in self._tracks:
            self._tracks[stream] = self._new(stream)
        return self._tracks[stream]

    def _new(self, stream: str) -> Tracker:
        return self._kind.for_stream(self.settings, of_stream(self.context, stream))

    def _still_score(self, stream: str) -> float | None:
        if stream not in self._still_scores:
            own = self._new(stream).still_score
            context = of_stream(self.context, stream)
            self._still_scores[stream] = _hand_on_score(context) if own is None else own
        return self._still_scores[stream]


def load(kind: str) -> type[Tracker]:
    """Return the class of a tracker in the table."""
    module, _, name = TRACKERS[kind].partition(":")
    tracker: type[Tracker] = getattr(importlib.import_module(module), name)
    return tracker


def untracked(detections: Detections, min_score: float | None) -> Tracks:
    """Return the finite detections with at least a score, without ids.

    Args:
        detections: detections of a frame.
        min_score: None: every score is enough.
    """
    good = np.isfinite(detections.boxes).all(axis=1)
    if min_score is not None:
        good &= detections.scores >= np.float32(min_score)
    rows = np.flatnonzero(good)
    return Tracks(rows, np.full(len(rows), NO_TRACK_ID, np.int64))


def _hand_on_score(context: Context) -> float | None:
    """Return the score that a detection without a track needs; None: every one is handed on."""
    suppression = context.get(Suppression)
    return hand_on_score(suppression.min_score if suppression else None, Confidence.of(context))


def _with_weak_ones(frame: Frame) -> Detections:
    """Return the detections of a frame, and behind them those below the confidence."""
    detections = Detections.of(frame)
    if "weak_boxes" not in frame or not len(frame["weak_boxes"]):
        return detections
    weak = len(frame["weak_boxes"])
    return Detections(
        np.concatenate([detections.boxes, frame["weak_boxes"]]),
        np.concatenate([detections.scores, frame["weak_scores"]]),
        np.concatenate([detections.classes, frame["weak_classes"]]),
        np.concatenate([detections.ids, np.full(weak, NO_TRACK_ID, np.int64)]),
    )
