"""A clip: its images, its objects and its report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from numpy.typing import NDArray

from stages.details import Attribute
from stages.detections import Object

Key = tuple[str, int | None]
"""Identity of an object in a clip: its track id, or its label if it has none."""


def key_of(found: Object) -> Key:
    """Return the identity of an object in a clip."""
    return ("", found.id) if found.id is not None else (found.label, None)


def stamp(unix_ns: int) -> str:
    """Return a time as in the names of clips: 20261121T080000.123Z, so that names are in order."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{rest_ns // 1_000_000:03d}Z"


class ClipImage(NamedTuple):
    """An image that may become part of a clip."""

    jpeg: bytes
    seq: int
    """Number of its frame in the stream."""
    time_s: float
    """Seconds into the stream."""
    wall_ns: int
    """Unix time of its capture."""
    size: tuple[int, int]
    """Width and height of the captured frame."""
    arrays: Mapping[str, NDArray[Any]]
    """What is drawn on it: see `copy_detections`."""
    scores: Mapping[Key, float]
    """Scores of the objects of interest in it."""

    @property
    def size_bytes(self) -> int:
        """Memory of the image and its arrays."""
        return len(self.jpeg) + sum(array.nbytes for array in self.arrays.values())


class ClipObject(msgspec.Struct, rename={"number": "class"}):
    """An object that appeared in a clip."""

    id: int | None
    """Track id; null: all objects of this label that have none."""
    label: str
    number: int
    """Number of its class."""
    score: float
    """Best score."""
    box: tuple[float, ...]
    """Box with the best score: x1, y1, x2, y2 in pixels of the captured frame."""
    from_s: float
    """Seconds into the stream at which it was first seen."""
    to_s: float
    """Seconds into the stream at which it was last seen in the clip."""
    attributes: dict[str, Attribute] | msgspec.UnsetType = msgspec.UNSET
    """Name of a stage -> the last class that its model gave the object; left out without any."""

    @classmethod
    def of(cls, found: Object, time_s: float) -> ClipObject:
        """Return an object that is seen for the first time."""
        return cls(
            found.id,
            found.label,
            found.number,
            found.score,
            found.box,
            time_s,
            time_s,
            found.attributes,
        )

    def see(self, found: Object, time_s: float) -> None:
        """Note that it is seen again."""
        self.to_s = time_s
        if found.attributes is not msgspec.UNSET:
            self.attributes = found.attributes
        if found.score > self.score:
            self.score, self.box = found.score, found.box


class Clip:
    """A clip that is being recorded, as the stage and then the recorder see it.

    Args:
        stream: name of its stream.
        folder: folder of its files.
        wall_ns: Unix time of its beginning, which names it.
        start_s: seconds into the stream at which it begins.
        size: width and height of the captured frames, pixels.
    """

    def __init__(
        self, stream: str, folder: Path, wall_ns: int, start_s: float, size: tuple[int, int]
    ) -> None:
        self.stream, self.folder, self.start_s = stream, folder, start_s
        self.stem = f"{stamp(wall_ns)}_{stream}"
        self.size = size
        self.objects: dict[Key, ClipObject] = {}
        """Objects that appeared in it."""
        self.best: ClipImage | None = None
        """Image of the snapshot: the one with the best score of one of them."""
        self.best_score = -1.0
        self.lost = 0
        """Number of images for which there was no room in memory."""
        self.cut = False
        """Whether it reached the longest duration while the event continued."""


class ClipReport(msgspec.Struct):
    """Content of the .json file beside a clip."""

    stream: str
    video: str
    """Name of the video file."""
    snapshot: str | None
    """Name of the snapshot file."""
    started_at: str
    """Wall-clock time of capture of the first image, ISO 8601, UTC."""
    ended_at: str
    """Wall-clock time of capture of the last image."""
    start_s: float
    """Seconds into the stream of the first image."""
    end_s: float
    """Seconds into the stream of the last image."""
    first_frame: int
    """Number of the first frame in its stream, from 0."""
    last_frame: int
    snapshot_frame: int | None
    pictures: int
    """Number of images of the video, which has a steady rate: some images stand for several frames,
    some are repeated."""
    fps: float
    lost: int
    """Number of frames that are missing because they came faster than they could be written."""
    cut: bool
    """Whether the event continued when the clip reached the longest duration."""
    width: int
    """Width of the captured frames, in whose pixels boxes are measured."""
    height: int
    objects: list[ClipObject]
