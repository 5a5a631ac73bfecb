"""The annotated video, one file per stream.

A file is complete once its stream has ended. Of one that was cut off by a crash, an .mp4 or .mov
cannot be played, as its index is written last; an .mkv or .avi plays up to there. After a crash
the video goes on in a new part (out.part2.mp4), and so it does when the picture changes its size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Settings, Stage
from stages.annotate import Annotator
from stages.lines import check_writable, stream_path
from stages.objects import OBJECTS, labels_of

CODECS = {
    ".mp4": ("mp4v", "vp09"),
    ".mov": ("mp4v", "MJPG"),
    ".avi": ("mp4v", "XVID", "MJPG", "FFV1"),
    ".mkv": ("mp4v", "XVID", "MJPG", "FFV1", "VP80", "VP90"),
    ".webm": ("VP80", "VP90"),
}
"""What OpenCV's wheels write that players read. H.264 is not among it: they hold no encoder."""

FPS_FRAMES = 12
"""Frames of a live source from which `fps: auto` works out the rate. They wait in memory until
then, and a crash loses them."""
FPS_FRAMES_OF_A_FILE = 3
"""The same of a file, whose times are exact."""
FPS_BYTES = 64 << 20
"""As many bytes of pictures wait at most."""
FPS_UNKNOWN = 25.0

Codec = Literal["auto", "mp4v", "vp09", "VP80", "VP90", "XVID", "MJPG", "FFV1"]

SMALLEST = 16
"""Pictures smaller than this, or of odd sides, are made larger by repeating their edge: OpenCV
would cut off a row or a column, and its encoders refuse or crash on a few pixels."""

SPACE_BYTES = 16 << 20
"""The disk counts as full when it has no room for this much, which the index at the end of a file
needs, and for the raw pictures until the next look. OpenCV does not say when writing fails."""
SPACE_FRAMES = 8
"""Frames between two looks."""


class VideoSettings(Settings, frozen=True):
    """Settings of the video sink."""

    path: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="File to write; {stream} stands for the stream's name, which is added "
            "where there are several streams. Its ending chooses the container.",
        ),
    ]
    codec: Codec = "auto"
    """auto: the first that fits the file's ending. vp09 and VP90 take half a second per frame."""
    fps: Annotated[float, msgspec.Meta(ge=1, le=240)] | Literal["auto"] = "auto"
    """auto: worked out from the times of the first frames. Every frame is one picture of the
    video, so where frames are dropped the rate is that of those delivered."""
    annotate: bool = True
    """Draw boxes, tags and trails."""


class Video(Stage):
    """Writes each frame as one picture of its stream's video."""

    Settings = VideoSettings
    takes = (Array("image", "uint8", (None, None, 3)), *OBJECTS)
    ordered = True

    settings: VideoSettings

    def __init__(self, settings: VideoSettings, facts: Mapping[str, Any]) -> None:
        super().__init__(settings, facts)
        self._streams: Collection[str] = facts.get("streams", ())
        self._annotator = Annotator(labels_of(facts))
        self._live = bool(facts.get("live", True))
        self._start_ns = time.time_ns() - time.monotonic_ns() + facts.get("started_ns", 0)
        """Of the run, by the wall clock."""
        self._files: dict[str, _File] = {}

    @classmethod
    def resolve(cls, settings: VideoSettings) -> Mapping[str, Any]:
        """See that the ending, the codec and the place fit.

        Raises:
            SetupError: they do not.
        """
        codec_for(settings.path, settings.codec)
        check_writable(settings.path)
        return {}

    def process(self, frame: Frame) -> None:
        """Write the picture of a frame.

        Raises:
            RunError: the disk is full, or the file cannot be made.
        """
        image = self._annotator.draw(frame) if self.settings.annotate else frame["image"]
        self._file(frame.stream).write(image, frame.time_s)

    def end(self, stream: str) -> None:
        """Complete the stream's file."""
        self._file(stream).end()
        self._annotator.forget(stream)

    def close(self) -> None:
        """Complete all files."""
        failures = []
        for file in self._files.values():
            try:
                file.end()
            except RunError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def state(self, stream: str) -> bytes:
        """The number of the part that is being written, and the frame rate once known."""
        file = self._file(stream)
        return msgspec.json.encode((file.part, file.fps))

    def restore(self, stream: str, state: bytes) -> None:
        """Go on in the next part, as nothing can be added to a file that was cut off."""
        file = self._file(stream)
        file.part, file.fps = msgspec.json.decode(state, type=tuple[int, float | None])
        # A predecessor that was told to end has completed a file after its state was saved.
        while file.was_made_since(self._start_ns, file.part + 1):
            file.part += 1

    def _file(self, stream: str) -> _File:
        if stream not in self._files:
            path = stream_path(self.settings.path, stream, self._streams)
            fps = None if self.settings.fps == "auto" else self.settings.fps
            codec = codec_for(self.settings.path, self.settings.codec)
            enough = FPS_FRAMES if self._live else FPS_FRAMES_OF_A_FILE
            self._files[stream] = _File(path, codec, fps, enough)
        return self._files[stream]


class _File:
    """The video of one stream, in one part or more."""

    def __init__(self, path: str, codec: str, fps: float | None, enough: int) -> None:
        self.part = 0
        """Of the file that is open, or was open last; from 1."""
        self.fps = fps
        """None: not known yet."""
        self._path = Path(path)
        self._codec = codec
        self._enough = enough
        self._open: VideoFile | None = None
        self._shape: tuple[int, ...] = ()
        self._waiting: list[NDArray[np.uint8]] = []
        self._times_s: list[float] = []

    def write(self, image: NDArray[np.uint8], time_s: float) -> None:
        """Add a picture, (H, W, 3) uint8 BGR."""
        if self.fps is not None:
            self._write(image)
            return
        self._waiting.append(image.copy())
        self._times_s.append(time_s)
        many = len(self._waiting) >= self._enough
        if many or sum(waiting.nbytes for waiting in self._waiting) > FPS_BYTES:
            self._write_waiting()

    def was_made_since(self, wall_ns: int, part: int) -> bool:
        """Whether the file of a part is not one of an earlier run."""
        try:
            return part_path(self._path, part).stat().st_mtime_ns >= wall_ns
        except OSError:
            return False

    def end(self) -> None:
        """Write what waits and complete the file. May be called again."""
        if self._waiting:
            self._write_waiting()
        if self._open is not None:
            self._open.close()
            self._open = None

    def _write_waiting(self) -> None:
        self.fps = fps_of(self._times_s)
        waiting, self._waiting = self._waiting, []
        for image in waiting:
            self._write(image)

    def _write(self, image: NDArray[np.uint8]) -> None:
        if self._open is None or image.shape != self._shape:
            self._open_next(image)
        assert self._open is not None
        self._open.write(image)

    def _open_next(self, image: NDArray[np.uint8]) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        self.part += 1
        self._shape = image.shape
        height, width = image.shape[:2]
        assert self.fps is not None
        path = part_path(self._path, self.part)
        self._open = VideoFile(path, self._codec, self.fps, width, height)


class VideoFile:
    """One video file, of pictures of one size.

    Args:
        path: its ending chooses the container, one of `CODECS`; its folder is made.
        codec: one that the container takes.
        fps: pictures per second.
        width: of the pictures, in pixels.
        height: likewise.

    Raises:
        RunError: the disk is full, or the file cannot be made.
    """

    def __init__(self, path: Path, codec: str, fps: float, width: int, height: int) -> None:
        self.path = path
        self.written = 0
        """Pictures."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {str(path)!r} ({error.strerror})") from None
        self._check_space(3 * width * height)
        self._right, self._below = (
            max(SMALLEST, side + side % 2) - side for side in (width, height)
        )
        fourcc = cv2.VideoWriter.fourcc(*codec)
        size = width + self._right, height + self._below
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, size)
        if not self._writer.isOpened():
            raise RunError(
                f"cannot write {str(path)!r}: OpenCV could not start a {codec} video of "
                f"{width}x{height}; choose another codec or path"
            )

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add a picture, (height, width, 3) uint8 BGR.

        Raises:
            RunError: the disk is full.
        """
        if self.written % SPACE_FRAMES == 0:
            self._check_space(image.nbytes)
        if self._right or self._below:
            edges = 0, self._below, 0, self._right
            self._writer.write(cv2.copyMakeBorder(image, *edges, cv2.BORDER_REPLICATE))
        else:
            self._writer.write(image)
        self.written += 1

    def close(self) -> None:
        """Complete the file."""
        self._writer.release()

    def _check_space(self, picture_bytes: int) -> None:
        try:
            disk = os.statvfs(self.path.parent)
        except OSError as error:
            raise RunError(f"cannot write {str(self.path)!r} ({error.strerror})") from None
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < SPACE_BYTES + SPACE_FRAMES * picture_bytes:
            raise RunError(
                f"cannot write {str(self.path)!r}: only {free_bytes >> 20} MB are left on "
                "the disk; free some space or choose another path"
            )


def codec_for(path: str, codec: str) -> str:
    """The codec to write a file with.

    Args:
        path: name of the file.
        codec: as in the settings.

    Raises:
        SetupError: the file's ending is not known, or takes no such codec.
    """
    ending = Path(path).suffix.lower()
    if ending not in CODECS:
        raise SetupError(
            f"path: {path!r} must end in one of {', '.join(CODECS)}; "
            "the ending chooses the container"
        )
    if codec == "auto":
        return CODECS[ending][0]
    if codec not in CODECS[ending]:
        raise SetupError(f"codec: {ending} takes {' or '.join(CODECS[ending])}, not {codec}")
    return codec


def part_path(path: Path, part: int) -> Path:
    """The file of a part: out.mp4, then out.part2.mp4, out.part3.mp4 ..."""
    return path if part == 1 else path.with_name(f"{path.stem}.part{part}{path.suffix}")


def fps_of(times_s: Sequence[float]) -> float:
    """The frame rate that fits the times of the first frames: from their median distance.

    Returns:
        Pictures per second, from 1 to 240; 25 where the times say nothing.
    """
    apart_s = [later - before for before, later in pairwise(times_s)]
    typical_s = median(apart_s) if apart_s else 0.0
    return min(max(round(1 / typical_s, 3), 1.0), 240.0) if typical_s > 0 else FPS_UNKNOWN
