"""Runs a model on single objects: which ones are tried in a frame, and the crops of them.

An object that is tracked needs the model only now and then: until its result is settled, again when
it is seen larger, and again after a while. So the cost of a frame depends on the objects that are
new, not on those that are there; `max_per_frame` and `max_tries` bound it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.contract import Contract
from models.transform import Transform
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved
from stages.detections import CANDIDATES, DETECTIONS, NO_TRACK_ID, class_numbers, labels_of
from stages.inference.model import ModelSettings, OwnModel, ViewModelStage

GROWTH = 1.5
"""An object is tried again when the area of its box is so many times that of the last try."""
NS = 1_000_000_000


class CropSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of a stage that runs a model on single objects."""

    labels: list[str] | None = None
    """Labels of the detector whose objects are tried; null: all. For a detector without labels, the
    numbers of the classes, in quotes."""
    margin: Annotated[float, Meta(ge=0, le=2)] = 0.1
    """Part of its width and height by which a box is made larger on each side."""
    max_per_frame: Annotated[int, Meta(ge=1, le=300)] = 8
    """Most objects that are tried in a frame, which bounds its time: first those that never were,
    then those with the fewest tries, then the oldest. The others wait for a later frame."""
    max_tries: Annotated[int, Meta(ge=1)] | None = 10
    """Tries after which an object is left as it is, settled or not, so that those of which the
    model knows no class do not cost a crop in every frame; null: no limit. As for settled objects,
    again_s and growth lead to further tries."""
    again_s: Annotated[float, Meta(gt=0)] | None = 30.0
    """Seconds after which an object that is settled, or had max_tries, is tried again; null: only
    when its box has grown by half."""
    forget_s: Annotated[float, Meta(ge=0)] = 5.0
    """Seconds after which a track that is not seen is forgotten; longer than the tracker keeps
    it."""


class Track(msgspec.Struct, array_like=True):
    """A tracked object, from its first frame. Times are in nanoseconds of the stream's clock."""

    first_ns: int
    seen_ns: int
    tried_ns: int = 0
    tried_area: int = 0
    """Pixels of the crop of the last try."""
    tries: int = 0


T = TypeVar("T", bound=Track)


class Tracks(msgspec.Struct, Generic[T]):
    """The tracked objects of one stream."""

    time_ns: int
    """Time of the newest frame."""
    clock_ns: int = 0
    """The same time from the first frame on, but never going back."""
    by_id: dict[int, T] = {}

    def clock_at(self, time_ns: int) -> int:
        """Return the clock at the time of the next frame."""
        return self.clock_ns + max(0, time_ns - self.time_ns)


class Trial(NamedTuple):
    """An object that is tried in a frame, and the answer of the model."""

    row: int
    """Row of its box."""
    area: int
    """Pixels of its crop."""
    raw: Sequence[NDArray[Any]]
    transform: Transform


class ObjectCropStage(ViewModelStage, Generic[T]):
    """Base of the stages that run a model on crops of the detected objects.

    A crop is a view of the captured image. Objects without an id (no tracker, or a still image)
    are unknown in every frame, so they are tried in every frame.

    The crops of a frame are run together; those of several frames are not, because an ordered
    stage sees one frame after the other.
    """

    takes = (
        Array("image", "uint8", (None, None, 3)),
        *CANDIDATES,
        *(array for array in DETECTIONS if array.optional),
    )
    ordered = True
    track: ClassVar[type[Track]]
    """Class of what is known of a tracked object."""

    settings: CropSettings

    def __init__(self, settings: CropSettings, context: Context) -> None:
        """Check the labels.

        Raises:
            SetupError: the detector has no such label.
        """
        super().__init__(settings, context)
        self._classes = None
        if settings.labels is not None:
            self._classes = class_numbers(settings.labels, labels_of(context), "labels")
        self._streams: dict[str, Tracks[T]] = {}
        self._decoder = msgspec.msgpack.Decoder(Tracks[self.track])  # type: ignore[name-defined]
        self._crops = 0

    @classmethod
    def resolve(cls, settings: CropSettings) -> Resolved:  # type: ignore[override]
        """Offer the model to the stage itself.

        Raises:
            SetupError: the model cannot be used, or takes images of one size only; or the device
                is not available.
        """
        contract = cls.contract_of(settings)
        if contract.input.resize == "none":
            raise SetupError(
                f"model {contract.name}: `resize: none` takes images of one size, and objects have "
                "many; set another `resize` in its card"
            )
        return Resolved((OwnModel(contract), *cls.offers_of(contract)))

    @classmethod
    def offers_of(cls, contract: Contract) -> tuple[object, ...]:
        """Return the offers to other stages."""
        return ()

    def is_settled(self, track: T) -> bool:
        """Return whether the result of a track needs no further try for now."""
        raise NotImplementedError

    @property
    def max_tracks(self) -> int:
        """Most tracks of a stream that are kept, so that its state can be saved."""
        raise NotImplementedError

    def infer(self, frame: Frame) -> list[Trial]:
        """Run the model on the objects that are tried in a frame; changes nothing that is known.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        image = frame["image"]
        places = crop_places(frame["boxes"], frame.width, frame.height, self.settings.margin)
        rows = self._due(frame, places)
        corners = [places[row].tolist() for row in rows]
        answers = self.run_views([image[y1:y2, x1:x2] for x1, y1, x2, y2 in corners])
        return [
            Trial(row, (x2 - x1) * (y2 - y1), raw, transform)
            for row, (x1, y1, x2, y2), (raw, transform) in zip(rows, corners, answers, strict=True)
        ]

    def see(self, frame: Frame, trials: Sequence[Trial]) -> dict[int, T]:
        """Update the tracks of a stream: seen in this frame, tried in it, or forgotten.

        Returns:
            Row of each box with an id that is of interest -> its track.
        """
        time_ns = _time_ns(frame)
        known = self._streams.get(frame.stream)
        if known is None:
            known = self._streams[frame.stream] = Tracks(time_ns)
        known.clock_ns, known.time_ns = known.clock_at(time_ns), time_ns
        now_ns, seen = known.clock_ns, {}
        for row, id in enumerate(self._ids(frame)):
            if id == NO_TRACK_ID or not self._is_wanted(frame, row):
                continue
            track = known.by_id.get(id)
            if track is None:
                track = known.by_id[id] = self.track(now_ns, now_ns)  # type: ignore[assignment]
            assert track is not None
            track.seen_ns = now_ns
            seen[row] = track
        for trial in trials:
            if trial.row in seen:
                track = seen[trial.row]
                track.tried_ns, track.tried_area = now_ns, trial.area
                track.tries += 1
        self._crops += len(trials)
        self._forget(known)
        return seen

    def end(self, stream: str) -> None:
        """Forget the tracks of a stream."""
        self._streams.pop(stream, None)

    def state(self, stream: str) -> bytes:
        """Return the tracks of a stream."""
        known = self._streams.get(stream)
        return b"" if known is None else _encoder.encode(known)

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with the tracks of a stream."""
        if state:
            self._streams[stream] = self._decoder.decode(state)

    def counters(self) -> Mapping[str, int]:
        """Return the number of crops on which the model was run."""
        return {"crops": self._crops}

    def _due(self, frame: Frame, places: NDArray[np.int64]) -> list[int]:
        """Return the rows of the objects to try, at most `max_per_frame`, the most urgent first."""
        known = self._streams.get(frame.stream)
        now_ns = 0 if known is None else known.clock_at(_time_ns(frame))
        due: list[tuple[int, int, int]] = []
        for row, id in enumerate(self._ids(frame)):
            x1, y1, x2, y2 = places[row].tolist()
            area = (x2 - x1) * (y2 - y1)
            if not area or not self._is_wanted(frame, row):
                continue
            track = None if known is None else known.by_id.get(id)
            if track is None or not track.tries:
                due.append((0, now_ns if track is None else track.first_ns, row))
            elif self._is_due(track, area, now_ns):
                due.append((track.tries, track.first_ns, row))
        return [row for _, _, row in sorted(due)[: self.settings.max_per_frame]]

    def _is_due(self, track: T, area: int, now_ns: int) -> bool:
        """Return whether a track that was tried is to be tried again."""
        again_s, max_tries = self.settings.again_s, self.settings.max_tries
        return (
            (not self.is_settled(track) and (max_tries is None or track.tries < max_tries))
            or area >= GROWTH * track.tried_area
            or (again_s is not None and now_ns - track.tried_ns >= round(again_s * NS))
        )

    def _forget(self, known: Tracks[T]) -> None:
        """Forget the tracks that were not seen for long, and the oldest of too many."""
        since_ns = known.clock_ns - round(self.settings.forget_s * NS)
        for id in [id for id, track in known.by_id.items() if track.seen_ns < since_ns]:
            del known.by_id[id]
        many = len(known.by_id) - self.max_tracks
        if many > 0:
            oldest = sorted(known.by_id, key=lambda id: (known.by_id[id].seen_ns, id))
            for id in oldest[:many]:
                del known.by_id[id]

    def _ids(self, frame: Frame) -> list[int]:
        if "ids" not in frame:
            return [NO_TRACK_ID] * len(frame["boxes"])
        ids: list[int] = frame["ids"].tolist()
        return ids

    def _is_wanted(self, frame: Frame, row: int) -> bool:
        return self._classes is None or bool((self._classes == frame["classes"][row]).any())


def crop_places(
    boxes: NDArray[np.float32], width: int, height: int, margin: float
) -> NDArray[np.int64]:
    """Return the whole pixels (N, 4) xyxy that the crop of each box covers, inside the image.

    A box without an area, or outside the image, or with a corner that is no number, gets zeros.

    Args:
        boxes: (N, 4) xyxy in pixels.
        width: width of the image in pixels.
        height: height of the image in pixels.
        margin: part of its width and height by which a box is made larger on each side.
    """
    own = boxes.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        sides = own[:, 2:] - own[:, :2]
        good = np.isfinite(own).all(axis=1) & (sides > 0).all(axis=1)
        good &= (own[:, :2] < (width, height)).all(axis=1) & (own[:, 2:] > 0).all(axis=1)
    places = np.zeros((len(own), 4), np.int64)
    own, sides = own[good], sides[good] * margin
    limits = (width, height)
    places[good, :2] = np.clip(np.floor(own[:, :2] - sides), 0, limits)
    places[good, 2:] = np.clip(np.ceil(own[:, 2:] + sides), 0, limits)
    return places


def saved_tracks(track_bytes: int, room_bytes: int) -> int:
    """Return how many tracks of a size fit in a part of the room for the state of a stage."""
    return max(1, math.floor(room_bytes / track_bytes))


def _time_ns(frame: Frame) -> int:
    return round(frame.time_s * NS)


_encoder = msgspec.msgpack.Encoder()
