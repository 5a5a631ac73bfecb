"""The files of a clip that is being recorded: video, snapshot and report."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.frame import Frame
from stages.drawing.annotator import Annotator
from stages.sinks.clips.clip import Clip, ClipImage, ClipReport
from stages.sinks.clips.folder import UNFINISHED, finalize
from stages.sinks.files.events import utc_ms
from stages.sinks.video.rate import fps_of
from stages.sinks.video.video_file import VideoFile

SNAPSHOT_QUALITY = 90
RATE_IMAGES = 12
"""Number of images from which the frame rate is measured; a clip with fewer has the highest."""


class ClipFile:
    """Writes the files of a clip under hidden names, and renames them when all are complete.

    Args:
        clip: clip to write.
        suffix: suffix of the video, such as ".mp4".
        codec: codec of the video.
        max_fps: most images per second.
        annotator: draws boxes, tags and trails; None: nothing is drawn.
    """

    def __init__(
        self, clip: Clip, suffix: str, codec: str, max_fps: float, annotator: Annotator | None
    ) -> None:
        self.clip = clip
        self.skipped = 0
        """Number of images that were not written because the run ends."""
        self._suffix, self._codec, self._max_fps = suffix, codec, max_fps
        self._annotator = annotator
        self._fps = 0.0
        self._waiting: list[ClipImage] = []
        """First images, until the frame rate is known."""
        self._video: VideoFile | None = None
        self._shape = (0, 0)
        """Height and width of the video."""
        self._first: ClipImage | None = None
        self._last: ClipImage | None = None
        self._snapshot: tuple[ClipImage, NDArray[np.uint8]] | None = None
        """Best image so far, and its pixels as drawn."""

    @property
    def path(self) -> Path:
        """Path of the video, when it is complete."""
        return self.clip.folder / (self.clip.stem + self._suffix)

    def write(self, image: ClipImage) -> None:
        """Write an image at its time; until then, the one before is shown.

        Raises:
            RunError: the disk is full, or the file cannot be created.
        """
        self._waiting.append(image)
        if self._video is not None or len(self._waiting) >= RATE_IMAGES:
            self._write_waiting()

    def complete(self, snapshot: bool) -> bool:
        """Complete the clip; False: it has no image.

        Args:
            snapshot: whether to write the best image as a .jpg.

        Raises:
            RunError: the video cannot be read back.
            OSError: the disk is full.
        """
        self._write_waiting()
        if self._video is None or self._first is None or self._last is None:
            return False
        self._video.close()
        if not is_readable(self._video.path, self._video.written):
            raise RunError(
                f"cannot write {str(self.path)!r}: the video cannot be read back; the disk may be "
                "full"
            )
        clip, names = self.clip, [self.path.name]
        best = clip.best if snapshot else None
        if best is not None:
            names.append(f"{clip.stem}.jpg")
            kept = self._snapshot
            image = kept[1] if kept is not None and kept[0] is best else self._draw(best)
            quality = [cv2.IMWRITE_JPEG_QUALITY, SNAPSHOT_QUALITY]
            self._save(names[-1], cv2.imencode(".jpg", image, quality)[1].tobytes())
        report = ClipReport(
            stream=clip.stream,
            video=self.path.name,
            snapshot=names[-1] if best is not None else None,
            started_at=utc_ms(self._first.wall_ns),
            ended_at=utc_ms(self._last.wall_ns),
            start_s=round(self._first.time_s, 6),
            end_s=round(self._last.time_s, 6),
            first_frame=self._first.seq,
            last_frame=self._last.seq,
            snapshot_frame=best.seq if best is not None else None,
            pictures=self._video.written,
            fps=self._fps,
            lost=clip.lost + self.skipped,
            cut=clip.cut,
            width=clip.size[0],
            height=clip.size[1],
            objects=list(clip.objects.values()),
        )
        names.append(f"{clip.stem}.json")
        self._save(names[-1], msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        finalize(clip.folder, names)
        return True

    def discard(self) -> None:
        """Close and delete all files of the clip."""
        with suppress(RunError):
            if self._video is not None:
                self._video.close()
        for suffix in (self._suffix, ".jpg", ".json"):
            with suppress(OSError):
                self._unfinished(self.clip.stem + suffix).unlink()

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._first is None and waiting:
            self._first = waiting[0]
            self._fps = self._max_fps
            if len(waiting) >= RATE_IMAGES:
                self._fps = min(self._fps, fps_of([image.time_s for image in waiting]))
        for image in waiting:
            self._write_one(image)

    def _write_one(self, image: ClipImage) -> None:
        assert self._first is not None
        pixels = self._draw(image)
        if self._video is None:
            height, width = pixels.shape[:2]
            self._shape = height, width
            path = self._unfinished(self.path.name)
            self._video = VideoFile(path, self._codec, self._fps, width, height)
        elif pixels.shape[:2] != self._shape:
            pixels = cv2.resize(pixels, self._shape[::-1]).astype(np.uint8, copy=False)
        due = round((image.time_s - self._first.time_s) * self._fps)
        pixels = pixels.copy()  # the annotator draws the next one into the same array
        if image is self.clip.best:
            self._snapshot = image, pixels
        if self._video.written <= due:
            self._video.write(pixels, due - self._video.written)
        self._last = image

    def _draw(self, image: ClipImage) -> NDArray[np.uint8]:
        jpeg = np.frombuffer(image.jpeg, np.uint8)
        pixels: Any = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        if self._annotator is None:
            return pixels  # type: ignore[no-any-return]
        frame = Frame.of(self.clip.stream, image.seq, image.time_s, image=pixels, **image.arrays)
        frame.header.width, frame.header.height = image.size
        return self._annotator.draw(frame)

    def _save(self, name: str, data: bytes) -> None:
        path = self._unfinished(name)
        path.write_bytes(data)
        if path.stat().st_size != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unfinished(self, name: str) -> Path:
        return self.clip.folder / (UNFINISHED + name)


def is_readable(path: Path, images: int) -> bool:
    """Return whether a video that was just written can be read to its end.

    OpenCV does not report errors of writing.
    """
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened() or capture.get(cv2.CAP_PROP_FRAME_COUNT) < images - 1:
            return False
        capture.set(cv2.CAP_PROP_POS_FRAMES, images - 1)
        return bool(capture.grab())
    finally:
        capture.release()
