"""One video file: its encoder and container, behind a thread and a short queue."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.context import Log
from pipeline.errors import RunError, SetupError
from stages.sinks.video.avi import Avi
from stages.sinks.video.encoder import encoder_for
from stages.sinks.video.matroska import Matroska
from stages.sinks.video.mp4 import Mp4
from stages.sinks.video.packet import Encoder, Packet
from stages.sinks.video.track import Container, Track, exact_rate

CODECS = {
    ".mp4": ("vp09", "mp4v"),
    ".mov": ("vp09", "mp4v", "MJPG"),
    ".avi": ("mp4v", "XVID", "MJPG", "FFV1"),
    ".mkv": ("VP90", "VP80", "mp4v", "XVID", "MJPG", "FFV1"),
    ".webm": ("VP90", "VP80"),
}
"""Codecs of each container; the first is `auto`. VP9 is the codec that browsers play and OpenCV's
wheels can encode: they have no encoder for H.264. No browser plays an .avi."""

Codec = Literal["auto", "mp4v", "vp09", "VP80", "VP90", "XVID", "MJPG", "FFV1"]

MIN_SIDE = 16
"""Side in pixels to which smaller images are extended by repeating their edge, as are odd sides:
encoders cut off a row or a column, and refuse or crash on a few pixels."""
MAX_WAITING = 2
"""Images that wait for the encoder; a crash loses them."""
MIN_FREE_BYTES = 16 << 20
"""The disk counts as full when it has no room for this, which the index at the end of a file needs,
and for the raw images until the next check."""
CHECK_IMAGES = 8
"""Images between two checks of the disk."""


class _ImageToEncode(NamedTuple):
    image: NDArray[np.uint8]
    repeats: int
    """Number of times that the image before it is repeated first."""


class VideoFile:
    """One video file, of images of one size at a steady rate. It can be played at any moment.

    A thread encodes and writes; `write` waits for it only if `MAX_WAITING` images wait.

    Args:
        path: path of the file; its suffix chooses the container, one of `CODECS`. Its folder is
            created.
        codec: one of the codecs of the container.
        fps: images per second.
        width: width of the images, in pixels.
        height: height of the images, in pixels.

    Raises:
        RunError: the disk is full, or the file cannot be created.
    """

    def __init__(self, path: Path, codec: str, fps: float, width: int, height: int) -> None:
        self.path, self._codec, self._fps = path, codec, fps
        self.written = 0
        """Number of images, including those that wait and those that are repeated."""
        self._unchecked = 0
        """Number of images that may be written until the next check of the disk."""
        self._descriptor = -1
        self._failure: Exception | None = None
        self._encoder: Encoder | None = None
        self._container: Container | None = None
        self._right, self._below = (
            max(MIN_SIDE, side + side % 2) - side for side in (width, height)
        )
        self._size = width + self._right, height + self._below
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_space(3 * width * height)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise RunError(f"cannot write {str(path)!r}: it is not a file; choose another path")
            os.ftruncate(self._descriptor, 0)
            self._encoder = self._new_encoder()
        except (OSError, RunError) as error:
            self._release()
            raise self._describe(error) from None
        self._queue: Queue[_ImageToEncode | None] = Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._start()

    @property
    def is_full(self) -> bool:
        """Whether the file has become as long as its format allows."""
        return self._container is not None and self._container.is_full

    @property
    def is_busy(self) -> bool:
        """Whether the next `write` would wait."""
        return self._queue.full()

    def write(
        self, image: NDArray[np.uint8], repeats: int = 0, beat: Callable[[], None] | None = None
    ) -> None:
        """Add an image, (height, width, 3) uint8 BGR, which must not be changed afterwards.

        Args:
            image: the image.
            repeats: number of times that the image before it is repeated first.
            beat: called repeatedly while the encoder is waited for: the heartbeat of the worker.

        Raises:
            RunError: the disk is full, or has failed.
        """
        if self._unchecked <= 0:
            self._check_space(image.nbytes)
            self._unchecked = CHECK_IMAGES
        self._unchecked -= 1
        self._put(_ImageToEncode(image, repeats if self.written else 0), beat)
        self.written += 1 + (repeats if self.written else 0)

    def restart(self, fps: float) -> None:
        """Discard the images, and begin the same file at another rate.

        Raises:
            RunError: the disk has failed.
        """
        self._end_thread()
        self._raise_failure()
        assert self._encoder is not None
        self._encoder.close()
        self._container, self._fps = None, fps
        self.written = 0
        try:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._encoder = self._new_encoder()
        except (OSError, RunError) as error:
            raise self._describe(error) from None
        self._start()

    def close(self) -> None:
        """Complete the file. May be called twice.

        Raises:
            RunError: the disk is full, or has failed; the images before that can be played.
        """
        if self._descriptor < 0:
            return
        self._end_thread()
        try:
            if self._encoder is not None:
                self._add(self._encoder.close())
            if self._container is not None and self._failure is None:
                self._container.finish()
        except OSError as error:
            self._failure = self._failure or error
        finally:
            self._release()
        self._raise_failure()

    def _put(self, item: _ImageToEncode, beat: Callable[[], None] | None) -> None:
        self._raise_failure()
        while beat is not None and self._queue.full() and self._failure is None:
            beat()
            with self._room:
                self._room.wait_for(lambda: not self._queue.full(), 0.1)
        self._queue.put(item)

    def _start(self) -> None:
        self._room = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        """Encode and write until the end; after a failure only empty the queue."""
        while (item := self._queue.get()) is not None:
            with self._room:
                self._room.notify()
            if self._failure is not None:
                continue
            try:
                self._encode(item)
            except Exception as error:  # of any kind: the stage raises it
                self._failure = error

    def _encode(self, item: _ImageToEncode) -> None:
        assert self._encoder is not None
        for _ in range(item.repeats):
            self._add(self._encoder.repeat())
        self._add(self._encoder.encode(self._pad(item.image)))

    def _pad(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not (self._right or self._below):
            return image
        edges = 0, self._below, 0, self._right
        return cv2.copyMakeBorder(image, *edges, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)

    def _add(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self._container is None:
                self._container = self._new_container()
            self._container.write(packet)

    def _new_encoder(self) -> Encoder:
        return encoder_for(self._codec, *self._size, self._fps)

    def _new_container(self) -> Container:
        assert self._encoder is not None
        track = Track(self._codec, self._encoder.config, *self._size, exact_rate(self._fps))
        suffix = self.path.suffix.lower()
        if suffix == ".avi":
            return Avi(self._descriptor, track)
        if suffix in (".mkv", ".webm"):
            return Matroska(self._descriptor, track, suffix == ".webm")
        return Mp4(self._descriptor, track)

    def _release(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._describe(failure) from None

    def _describe(self, error: Exception) -> Exception:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            advice = "free some space or choose another path" if full else "choose another path"
            reason = error.strerror or str(error)
            return RunError(f"cannot write {str(self.path)!r} ({reason}); {advice}")
        if isinstance(error, RunError) and not str(error).startswith("cannot write"):
            return RunError(f"cannot write {str(self.path)!r}: {error}")
        return error

    def _check_space(self, image_bytes: int) -> None:
        disk = os.statvfs(self.path.parent)
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < MIN_FREE_BYTES + CHECK_IMAGES * image_bytes:
            raise RunError(
                f"cannot write {str(self.path)!r}: only {free_bytes >> 20} MB are left on "
                "the disk; free some space or choose another path"
            )


def codec_for(path: str, codec: str) -> str:
    """Return the codec of a file.

    Args:
        path: name of the file.
        codec: codec, as in the settings.

    Raises:
        SetupError: the suffix of the file is unknown, or its container does not take the codec.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CODECS:
        raise SetupError(
            f"path: expected a name that ends in {', '.join(CODECS)} (found {path!r}); the ending "
            "chooses the container"
        )
    if codec == "auto":
        return CODECS[suffix][0]
    if codec not in CODECS[suffix]:
        raise SetupError(
            f"codec: expected {' or '.join(CODECS[suffix])} for {suffix} (found {codec}); choose "
            "one, or auto"
        )
    return codec


def warn_of_codec(codec: str, log: Log) -> None:
    """Log that browsers do not play a codec, if they do not."""
    if codec not in ("vp09", "VP80", "VP90"):
        log.warning(
            "browsers do not play %s; if you need that, choose codec: auto and .mp4 or .webm", codec
        )
