"""Capture: a video file, a folder of images, a webcam or an address -> frames."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import cv2
import numpy as np
from msgspec import Meta

from pipeline.config import hide_credentials
from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.graph import usable_cores
from pipeline.stage import Array, Settings, Source

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SEEK_FROM = 250
"""Pictures from which on seeking in a file is quicker than reading past them."""
SEEK_BEFORE_MS = 2000.0
HIGHEST_INDEX = 99
"""Of a webcam; OpenCV reads the hundreds as a choice of backend."""
MOST_LOST = 100
"""Damaged pictures in a row after which a file counts as ended."""
OPEN_TIMEOUT_MS = 4000
READ_TIMEOUT_MS = 5000


class CaptureSettings(Settings, frozen=True):
    """Where pictures come from; in the settings file these stand under `streams`."""

    source: Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=0)]
    """Webcam index (0), device (/dev/video2), video file, image, folder of images, or an
    address (rtsp://, http://)."""
    mode: Literal["auto", "live", "lossless"] = "auto"
    """lossless waits for a free slot and drops nothing; live never waits. auto: live for
    cameras and addresses, lossless for files. live on a file plays it at its own pace."""
    loop: bool = False
    """Begin again when a file or folder ends; for ever, or up to `frames`."""
    frames: Annotated[int, Meta(ge=1)] | None = None
    """End the stream after so many pictures."""
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    """Pictures per second of a folder of images (default 10), or of a file that does not say;
    asked of a webcam."""
    width: Annotated[int, Meta(ge=1)] | None = None
    """Asked of a webcam, in pixels."""
    height: Annotated[int, Meta(ge=1)] | None = None
    """Asked of a webcam, in pixels."""
    backend: Literal["auto", "opencv", "gstreamer"] = "auto"
    """What reads a camera or an address; files are OpenCV's. auto: OpenCV, which costs least;
    GStreamer for what OpenCV cannot decode, and where `pipeline` is given."""
    pipeline: Annotated[str, Meta(min_length=1)] | None = None
    """A GStreamer pipeline of your own, as for gst-launch-1.0, that ends in an appsink; `source`
    is then only the name that is shown."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How the pictures of an rtsp:// address travel."""
    stall_timeout_s: Annotated[float, Meta(ge=0.5, le=600)] = 5.0
    """A camera that gives no new picture for so long counts as dead, in seconds."""
    wait: bool = False
    """A camera or address that cannot be opened at the start is tried again and again, instead of
    ending the run: a daemon's way."""
    reconnect: bool = True
    """A camera or address that is lost is opened again; false: that ends the run."""


class Capture(Source):
    """Reads one stream. A file is read as fast as it is wanted; a camera sets its own pace."""

    gives = (Array("image", "uint8", (None, None, 3)),)

    Settings = CaptureSettings

    settings: CaptureSettings

    @classmethod
    def resolve(cls, settings: CaptureSettings) -> Mapping[str, Any]:
        """See that a file is there; tell whether the stream is live.

        Raises:
            SourceError: no such file, or a folder without images.
        """
        source = _normal(settings.source)
        if isinstance(source, int) and source > HIGHEST_INDEX:
            raise SourceError(f"camera {source}: no camera has so high an index")
        if isinstance(source, Path):
            try:
                str(source).encode()
                source.stat()
                if not os.access(source, os.R_OK):
                    raise SourceError(f"{source}: no permission to read")
                if source.is_dir() and not _images_in(source):
                    raise SourceError(f"{source}: the folder holds no image ({', '.join(IMAGES)})")
            except FileNotFoundError:
                raise SourceError(f"{source}: no such file, folder or device") from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise SourceError(f"{source}: cannot be read: {reason}") from None
        return {"live": _is_live(settings)}

    def open(self) -> None:
        """Open the source and see that it gives a picture.

        Raises:
            SourceError: it cannot be opened, or gives none.
        """
        self.live = _is_live(self.settings)
        self._pictures = _open(self.settings)
        self._pump: _Pump | None = None
        self._taken = 0
        self._decode_failures = 0
        self._offered: Frame | None = None
        self._filled: bool | None = None
        # A stream's clock must not start anew when capture does.
        self._origin_ns = self.facts.get("started_ns", 0) if self._is_camera() else None

    def close(self) -> None:
        """Close the source; a reading thread is ended first, or the interpreter would abort."""
        if getattr(self, "_pump", None) is not None:
            assert self._pump is not None
            self._pump.stop()
        if hasattr(self, "_pictures"):
            self._pictures.close()

    def skip(self, pictures: int, source_ns: int) -> None:
        """Go on behind the first so many pictures. A camera's are gone, a file's are passed by."""
        self._taken = pictures
        if self._is_camera():
            return
        # The pictures that a live source's viewer missed lie behind the newest frame.
        may_seek = pictures > SEEK_FROM and not self.settings.loop and not self.live
        if may_seek and self._pictures.seek(source_ns):
            return
        passed = 0
        while passed < pictures and self._pictures.grab():
            passed += 1 + self._pictures.lost
        if passed > pictures:
            self._pictures.again()
        elif passed < pictures and passed and self.settings.loop:
            # A whole round is known now: count the others instead of reading them.
            rounds, rest = divmod(pictures, passed)
            self._pictures.rewind(rounds)
            for _ in range(rest):
                self._pictures.grab()

    def start(self, notify: Callable[[], None]) -> None:
        """Live: begin to read in a thread."""
        if self.live:
            pace = not self._is_camera()
            self._pump = _Pump(self._pictures, self._advance, self._fill, notify, pace)
            self._pump.start()

    def offer(self, frame: Frame) -> None:
        """Fill a frame with the next picture, now (lossless) or when it comes (live)."""
        if self._pump is not None:
            self._pump.offer(frame)
            return
        self._filled = self._read(frame)

    def collect(self) -> bool | None:
        """Whether the frame is filled; None: not yet; False: the source has ended."""
        return self._pump.collect() if self._pump is not None else self._filled

    def missed(self) -> tuple[int, int]:
        """Pictures since the last call that (found no slot, could not be decoded)."""
        busy = self._pump.missed() if self._pump is not None else 0
        decode, self._decode_failures = self._decode_failures, 0
        return busy, decode

    def problem(self) -> str | None:
        """Why the source has ended too early, if it has."""
        return None if self._limit_reached() else self._pictures.problem()

    def report(self) -> Mapping[str, str]:
        """What reads the source."""
        return {"decoder": self._pictures.decoder} if hasattr(self, "_pictures") else {}

    def _is_camera(self) -> bool:
        return not isinstance(_normal(self.settings.source), Path) or _is_device(
            self.settings.source
        )

    def _limit_reached(self) -> bool:
        return self.settings.frames is not None and self._taken >= self.settings.frames

    def _read(self, frame: Frame) -> bool:
        while self._advance():
            if self._fill(frame):
                return True
        return False

    def _advance(self) -> bool:
        """Go to the next picture; False at the end."""
        if self._limit_reached():
            return False
        more = self._pictures.grab()
        if not more and self.settings.loop and self._taken:
            self._pictures.rewind()
            more = self._pictures.grab()
        if more:
            self._taken += 1 + self._pictures.lost
            self._decode_failures += self._pictures.lost
        return more

    def _fill(self, frame: Frame) -> bool:
        """Put the picture into the frame; a picture that cannot be decoded is counted."""
        header = frame.header
        header.captured_ns, header.wall_ns = time.monotonic_ns(), time.time_ns()
        header.source_ns = self._pictures.source_ns
        if self._origin_ns is not None and header.source_ns >= 0:
            header.source_ns += self._pictures.first_ns - self._origin_ns
        header.used = 0
        header.arrays.clear()
        if self._pictures.retrieve(frame):
            return True
        self._decode_failures += 1
        return False


class _Pictures(Protocol):
    """A source of pictures, one after the other."""

    decoder: str
    source_ns: int
    """Time of the picture in the stream, from 0; -1: unknown."""
    first_ns: int
    """Monotonic time at which the first picture came."""

    lost: int
    """Pictures passed over by the last `grab` because they are damaged."""

    def grab(self) -> bool: ...
    def retrieve(self, frame: Frame) -> bool: ...
    def rewind(self, rounds: int = 1) -> None:
        """Begin again, as if a file had been played so many times in all since the last time."""

    def again(self) -> None:
        """Give the last picture once more."""

    def seek(self, source_ns: int) -> bool:
        """Go to the picture of exactly this time, if it can be found without reading them all."""

    def problem(self) -> str | None: ...
    def close(self) -> None: ...


class _Video:
    """Whatever cv2.VideoCapture reads: files, webcams, addresses."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._settings = settings
        self._source = _normal(settings.source)
        self._name = hide_credentials(str(self._source))
        if isinstance(self._source, int):
            self._name = f"camera {self._source}"
        self._is_file = isinstance(self._source, Path) and not _is_device(settings.source)
        self.source_ns = -1
        self.first_ns = 0
        self.lost = 0
        self._offset_ns = 0
        self._broken_at = _truncated(self._source) if isinstance(self._source, Path) else None
        self._open()

    def _open(self) -> None:
        self._capture = self._connect()
        if not self._capture.isOpened():
            raise SourceError(f"{self._name}: {self._cannot()}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._fps = fps if 0 < fps < 1000 else self._settings.fps or 25.0
        self._index = -1
        self._start_ms: float | None = None
        self._shape: tuple[int, int] = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        self.decoder = f"OpenCV {self._capture.getBackendName()}"
        # The first picture is the proof that it is one.
        self._primed = bool(self._capture.grab())
        if not self._primed:
            self._capture.release()
            raise SourceError(f"{self._name}: opened, but gives no picture")

    def _connect(self) -> cv2.VideoCapture:
        source = self._source
        if isinstance(source, int) or _is_device(self._settings.source):
            backend = cv2.CAP_V4L2 if os.name == "posix" else cv2.CAP_ANY
            capture = cv2.VideoCapture(source if isinstance(source, int) else str(source), backend)
            for prop, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, self._settings.width),
                (cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height),
                (cv2.CAP_PROP_FPS, self._settings.fps),
            ):
                if value is not None:
                    capture.set(prop, value)
            return capture
        threads = 1 if not self._is_file or usable_cores() <= 4 else 0
        params = [cv2.CAP_PROP_N_THREADS, threads]
        if not self._is_file:
            params += [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                READ_TIMEOUT_MS,
            ]
        if isinstance(source, Path):
            source = source.absolute()  # or FFmpeg takes 12:30.avi for a protocol
        return cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, params)

    def _cannot(self) -> str:
        if self._is_file:
            return "cannot be read as a video"
        if isinstance(self._source, str):
            return "cannot be opened: wrong address or password, or nobody answers"
        return "no camera there, or another program uses it"

    def grab(self) -> bool:
        self.lost = 0
        if self._primed:
            self._primed = False
        else:
            # OpenCV says the same of a damaged picture and of the end: only the end lasts.
            while not self._capture.grab():
                if not self._is_file or self.lost == MOST_LOST:
                    self.lost = 0
                    return False
                self.lost += 1
        self._index += 1 + self.lost
        if not self.first_ns:
            self.first_ns = time.monotonic_ns()
        self.source_ns = self._timestamp_ns()
        return True

    def _timestamp_ns(self) -> int:
        at_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._start_ms is None:
            self._start_ms = at_ms
        in_file_ns = round((at_ms - self._start_ms) * 1e6)
        if in_file_ns <= 0 and self._index > 0:
            # No timestamps: a camera's pictures are as old as they come, a file's evenly spaced.
            if not self._is_file:
                return time.monotonic_ns() - self.first_ns
            in_file_ns = round(self._index / self._fps * 1e9)
        return self._offset_ns + in_file_ns

    def retrieve(self, frame: Frame) -> bool:
        target = frame.empty("image", (*self._shape, 3), np.uint8)
        done, picture = self._capture.retrieve(target)
        if not done or picture is None:
            return False
        if picture.ctypes.data != target.ctypes.data:
            # Other size or type than before: OpenCV has made an array of its own.
            picture = _as_bgr(picture)
            self._shape = (picture.shape[0], picture.shape[1])
            frame.header.used = 0
            frame.put("image", picture)
        return True

    def rewind(self, rounds: int = 1) -> None:
        if self._is_file:
            round_ns = self.source_ns - self._offset_ns + round(1e9 / self._fps)
            self._offset_ns += rounds * round_ns
            self._capture.release()
            self._open()

    def again(self) -> None:
        self._primed, self._index = True, self._index - 1

    def seek(self, source_ns: int) -> bool:
        self.grab()
        assert self._start_ms is not None
        # Containers seek to a key frame, by rules of their own: aim before the picture, then go
        # on to it by its timestamp. Any doubt, and the file is read from its beginning instead.
        self._capture.set(
            cv2.CAP_PROP_POS_MSEC, max(0.0, self._start_ms + source_ns / 1e6 - SEEK_BEFORE_MS)
        )
        while self._capture.grab():
            self._index += 1
            at_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            self.source_ns = round((at_ms - self._start_ms) * 1e6)
            if self.source_ns >= source_ns:
                break
        if self.source_ns == source_ns > 0:
            return True
        self._capture.release()
        self._open()
        return False

    def problem(self) -> str | None:
        if not self._is_file:
            return f"{self._name}: stopped giving pictures"
        if self._broken_at is not None:
            return f"{self._name}: the file is truncated ({self._broken_at}); read to its end"
        return None

    def close(self) -> None:
        self._capture.release()


class _Folder:
    """A folder of images in the order of their names, or one image."""

    decoder = "OpenCV imread"
    lost = 0

    def __init__(self, path: Path, fps: float) -> None:
        self._paths = _images_in(path) if path.is_dir() else [path]
        if all(cv2.imread(str(image), cv2.IMREAD_COLOR) is None for image in self._paths):
            what = "holds no image that can be read" if path.is_dir() else "is no image"
            raise SourceError(f"{path}: {what}")
        self._fps = fps
        self._next = 0
        self._count = 0
        self.source_ns = -1
        self.first_ns = 0

    def grab(self) -> bool:
        if self._next == len(self._paths):
            return False
        self._next += 1
        self.source_ns = round(self._count / self._fps * 1e9)
        self._count += 1
        return True

    def retrieve(self, frame: Frame) -> bool:
        picture = cv2.imread(str(self._paths[self._next - 1]), cv2.IMREAD_COLOR)
        if picture is None:
            return False
        frame.put("image", picture)
        return True

    def rewind(self, rounds: int = 1) -> None:
        self._next = 0
        self._count += (rounds - 1) * len(self._paths)

    def again(self) -> None:
        self._next -= 1
        self._count -= 1

    def seek(self, source_ns: int) -> bool:
        return False

    def problem(self) -> str | None:
        return None

    def close(self) -> None:
        pass


class _Pump(threading.Thread):
    """Reads a live source without a pause, so that no old picture waits anywhere.

    The picture that comes while a frame is offered goes into it; the others are gone and counted.
    """

    def __init__(
        self,
        pictures: _Pictures,
        advance: Callable[[], bool],
        fill: Callable[[Frame], bool],
        notify: Callable[[], None],
        pace: bool,
    ) -> None:
        super().__init__(name="pump", daemon=True)
        self._pictures, self._advance, self._fill = pictures, advance, fill
        self._notify, self._pace = notify, pace
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._offered: Frame | None = None
        self._filled = False
        self._over = False
        self._error: Exception | None = None
        self._busy = 0

    def offer(self, frame: Frame) -> None:
        with self._lock:
            self._offered, self._filled = frame, False

    def collect(self) -> bool | None:
        with self._lock:
            if self._error is not None:
                raise self._error
            return True if self._filled else False if self._over else None

    def missed(self) -> int:
        with self._lock:
            busy, self._busy = self._busy, 0
            return busy

    def stop(self) -> None:
        self._stopping.set()
        self.join(READ_TIMEOUT_MS / 1000 + 1)

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._error = error
        else:
            with self._lock:
                self._over = True
        if not self._stopping.is_set():
            self._notify()

    def _run(self) -> None:
        start_ns = None
        while not self._stopping.is_set() and self._advance():
            if self._pace:
                if start_ns is None:  # after a crash, the first one is not that of the file
                    start_ns = time.monotonic_ns() - self._pictures.source_ns
                due_s = (start_ns + self._pictures.source_ns - time.monotonic_ns()) / 1e9
                if self._stopping.wait(max(0.0, due_s)):
                    return
            with self._lock:
                frame, self._offered = self._offered, None
                if frame is None:
                    self._busy += 1
            if frame is None:
                continue
            if self._fill(frame):
                with self._lock:
                    self._filled = True
                self._notify()
            else:
                with self._lock:
                    self._offered = frame


def _open(settings: CaptureSettings) -> _Pictures:
    source = _normal(settings.source)
    if isinstance(source, Path) and (source.is_dir() or source.suffix.lower() in IMAGES):
        return _Folder(source, settings.fps or 10.0)
    return _Video(settings)


def _normal(source: str | int) -> int | str | Path:
    """Webcam index, address, or path."""
    if isinstance(source, int) or source.isdecimal():
        return int(source)
    return source if "://" in source else Path(source).expanduser()


def _is_device(source: str | int) -> bool:
    return str(source).startswith("/dev/")


def _is_live(settings: CaptureSettings) -> bool:
    if settings.mode != "auto":
        return settings.mode == "live"
    return not isinstance(_normal(settings.source), Path) or _is_device(settings.source)


def _images_in(folder: Path) -> list[Path]:
    """Its images, in the order a person expects: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [
            (int(part or 0) if part.isdecimal() else -1, part)
            for part in re.split(r"(\d+)", path.name.lower())
        ]

    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=key)


def _as_bgr(picture: Any) -> Any:
    """A picture of one, three or four channels as (height, width, 3) uint8 BGR."""
    if picture.dtype != np.uint8:
        picture = (picture >> 8 if picture.dtype == np.uint16 else picture.clip(0, 255)).astype(
            np.uint8
        )
    if picture.ndim == 2 or picture.shape[2] == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 4:
        return cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
    return picture


def _truncated(path: Path) -> str | None:
    """How much of an mp4 or avi file is missing, by what its own headers say; None: nothing.

    Players read such files without a word and stop where the bytes do.
    """
    size = path.stat().st_size if path.is_file() else 0
    with path.open("rb") if size >= 16 else open(os.devnull, "rb") as file:
        head = file.read(16)
        if head[:4] == b"RIFF":
            want = 8 + int.from_bytes(head[4:8], "little")
            return f"{size} of {want} bytes" if want > size else None
        at = 0
        while head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof"):
            box = int.from_bytes(head[:4], "big")
            if box == 1:
                box = int.from_bytes(head[8:16], "big")
            if box == 0:
                return None  # up to the end of the file
            at += max(box, 8)
            if at > size:
                return f"{size} of {at} bytes"
            file.seek(at)
            head = file.read(16)
    return None
