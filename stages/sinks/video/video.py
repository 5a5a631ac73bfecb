"""The annotated video, one file per stream, at the speed of its source.

A video has a steady rate: if frames are missing, the image before is repeated, and if they come
faster than the rate, some are left out. A file can be played at any moment, also when its writer
was killed: then the video continues in a new part (out.part2.mp4), as it does when the size of the
images changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.frame import Frame
from pipeline.graph.resources import part_path, stream_path
from pipeline.stage import Array, Context, Output, Resolved, Resources, Settings, Stage
from stages.detections import RESULTS
from stages.drawing.annotator import annotator_of
from stages.sinks.files.output_path import check_writable, expand_home
from stages.sinks.video.rate import FPS_UNKNOWN, Pace, declared_rate, rate_of
from stages.sinks.video.video_file import Codec, VideoFile, codec_for, warn_of_codec

TRIAL_S = 1.0
TRIAL_FRAMES = 12
"""`fps: auto` measures the rate over this time of the source, and over this number of frames. They
are written immediately, at the rate that the source declares, and again if another one fits."""
MAX_TRIAL_BYTES = 64 << 20
"""Limit of the images that are kept for that."""


class VideoSettings(Settings, frozen=True):
    """Settings of the video sink."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """File to write; {stream} stands for the stream's name, which is added if there are several
    streams. Its suffix chooses the container."""
    codec: Codec = "auto"
    """Codec of the video. auto: VP9 in .mp4, .mov, .mkv and .webm, which browsers play; mp4v in
    .avi."""
    fps: Annotated[float, msgspec.Meta(ge=1, le=240)] | Literal["auto"] = "auto"
    """Images per second. auto: the rate that the source declares, if the times of its first second
    confirm it, else the measured rate of these frames. The video always plays at the speed of its
    source."""
    annotate: bool = True
    """Draw boxes, tags and trails."""

    def __post_init__(self) -> None:
        expand_home(self, path=self.path)


class Video(Stage):
    """Writes the frames of each stream into a video."""

    Settings = VideoSettings
    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS)
    ordered = True

    settings: VideoSettings

    def __init__(self, settings: VideoSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._streams: Collection[str] = context.streams
        self._annotator = annotator_of(context)
        self._live = bool(context.live)
        self._start_ns = time.time_ns() - time.monotonic_ns() + context.started_ns
        """Start of the run, Unix time."""
        self._files: dict[str, _File] = {}

    @classmethod
    def resolve(cls, settings: VideoSettings) -> Resolved:
        """Check the suffix, the codec, and that the file can be written.

        Raises:
            SetupError: the suffix is unknown, the codec does not fit it, or the file cannot be
                written.
        """
        codec_for(settings.path, settings.codec)
        check_writable(settings.path)
        return Resolved()

    @classmethod
    def resources(cls, settings: VideoSettings) -> Resources:
        """Declare the files and their parts."""
        return Resources(writes=(Output(Path(settings.path), per_stream=True, parts=True),))

    def open(self) -> None:
        """Warn of a codec that browsers do not play."""
        warn_of_codec(codec_for(self.settings.path, self.settings.codec), self.context.log)

    def process(self, frame: Frame) -> None:
        """Write the image of a frame.

        Raises:
            RunError: the disk is full, or the file cannot be created.
        """
        image = self._annotator.draw(frame) if self.settings.annotate else frame["image"]
        # The array belongs to the annotator or to the slot: the encoder's thread needs a copy.
        self._file(frame.stream).write(image.copy(), frame.time_s, frame.header.fps)

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

    def counters(self) -> Mapping[str, int]:
        """Return the numbers of images repeated, and of frames left out, to keep the speed."""
        files = self._files.values()
        return {
            "repeated": sum(file.repeated for file in files),
            "left_out": sum(file.left_out for file in files),
        }

    def state(self, stream: str) -> bytes:
        """Return the number of the part that is being written, and the frame rate if known."""
        file = self._file(stream)
        return msgspec.json.encode((file.part, file.fps))

    def restore(self, stream: str, state: bytes) -> None:
        """Continue in the next part, since an incomplete file cannot be continued."""
        file = self._file(stream)
        file.part, file.fps = msgspec.json.decode(state, type=tuple[int, float | None])
        # The process before, if it was asked to end, completed a file after its state was saved.
        while file.was_made_since(self._start_ns, file.part + 1):
            file.part += 1
        # If it was killed before its first image, its last file is empty.
        while file.part and file.is_empty(file.part):
            file.part -= 1

    def _file(self, stream: str) -> _File:
        if stream not in self._files:
            path = stream_path(Path(self.settings.path), stream, self._streams)
            fps = None if self.settings.fps == "auto" else self.settings.fps
            codec = codec_for(self.settings.path, self.settings.codec)
            self._files[stream] = _File(path, codec, fps, not self._live, lambda: self.beat())
        return self._files[stream]


class _File:
    """The video of one stream, in one part or more.

    Args:
        path: path of the first part.
        codec: codec of all parts.
        fps: images per second; None: to be measured.
        waits: whether to wait for the encoder; else frames are left out while it is busy.
        beat: called repeatedly while the encoder is waited for.
    """

    def __init__(
        self, path: Path, codec: str, fps: float | None, waits: bool, beat: Callable[[], None]
    ) -> None:
        self.part = 0
        """Number of the file that is open, or was open last, from 1; 0: none was."""
        self.fps = fps
        """Images per second; None: not known yet."""
        self.repeated = 0
        self.left_out = 0
        self._path, self._codec, self._waits, self._beat = path, codec, waits, beat
        self._open: VideoFile | None = None
        self._shape: tuple[int, ...] = ()
        self._pace = Pace(FPS_UNKNOWN)
        self._trial: list[tuple[NDArray[np.uint8], float]] = []
        """Image and time of the frames from which the rate is measured."""
        self._declared_fps = 0.0
        self._trial_fps = FPS_UNKNOWN
        """Rate at which they are written in the meantime."""

    def write(self, image: NDArray[np.uint8], time_s: float, declared_fps: float) -> None:
        """Add the image of a frame.

        Args:
            image: (H, W, 3) uint8 BGR, which must not be changed afterwards.
            time_s: time of the frame, seconds into its stream.
            declared_fps: rate that its source declares; 0: none.
        """
        if self.fps is None and image.shape != self._shape and self._trial:
            self._settle()
        if self.fps is None:
            if not self._trial:
                self._declared_fps = declared_fps
                self._trial_fps = declared_rate(declared_fps) or FPS_UNKNOWN
            self._trial.append((image, time_s))
        self._write(image, time_s, self._waits)
        if self._trial and self._is_enough():
            self._settle()

    def was_made_since(self, wall_ns: int, part: int) -> bool:
        """Return whether the file of a part was written since then, not by an earlier run."""
        try:
            return part_path(self._path, part).stat().st_mtime_ns >= wall_ns
        except OSError:
            return False

    def is_empty(self, part: int) -> bool:
        """Return whether the file of a part has no content."""
        try:
            return part_path(self._path, part).stat().st_size == 0
        except OSError:
            return False

    def end(self) -> None:
        """Complete the file. May be called again."""
        try:
            if self._trial:
                self._settle()
        finally:
            opened, self._open = self._open, None
            if opened is not None:
                opened.close()

    def _is_enough(self) -> bool:
        kept_bytes = sum(image.nbytes for image, _ in self._trial)
        spanned_s = self._trial[-1][1] - self._trial[0][1]
        many = len(self._trial) >= TRIAL_FRAMES and not 0 <= spanned_s < TRIAL_S
        return many or kept_bytes > MAX_TRIAL_BYTES

    def _settle(self) -> None:
        """Decide on the rate; if it is not the one in use, write the images again."""
        trial, self._trial = self._trial, []
        self.fps = rate_of([time_s for _, time_s in trial], self._declared_fps)
        if self._open is None or self.fps == self._trial_fps:
            return
        self._open.restart(self.fps)
        self._pace = Pace(self.fps)
        self.repeated = self.left_out = 0
        for image, time_s in trial:
            self._write(image, time_s, True)

    def _write(self, image: NDArray[np.uint8], time_s: float, waits: bool) -> None:
        if self._open is None or image.shape != self._shape or self._open.is_full:
            self._open_next(image)
        assert self._open is not None
        repeats = self._pace.repeats(time_s)
        if repeats is None or (self._open.is_busy and not waits):
            self.left_out += 1
            return
        self._open.write(image, repeats, self._beat)
        self._pace.take(time_s, repeats)
        self.repeated += repeats

    def _open_next(self, image: NDArray[np.uint8]) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()
        self.part += 1
        self._shape = image.shape
        height, width = image.shape[:2]
        fps = self.fps if self.fps is not None else self._trial_fps
        self._pace = Pace(fps)
        path = part_path(self._path, self.part)
        self._open = VideoFile(path, self._codec, fps, width, height)
