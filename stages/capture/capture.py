"""Capture: a video file, a folder of images, a webcam or an address -> frames."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, cast

from msgspec import Meta

from pipeline.errors import SetupError, SourceError
from pipeline.frame import Frame
from pipeline.stage import Array, Resolved, Resources, Settings, Source, SourceInfo
from pipeline.status import SourceState
from pipeline.urls import display_url, is_broken, login_advice
from stages.capture.image_folder import IMAGES, images_in
from stages.capture.live_reader import Live, Missed, fill
from stages.capture.opencv_file import CodecError, open_recorded
from stages.capture.opencv_live import OpenCVVideo
from stages.capture.opencv_pipe import PipeVideo
from stages.capture.reader import Pictures, Recorded
from stages.capture.source import (
    STANDARD_INPUT,
    is_device,
    is_pipe,
    is_recorded,
    kind_of,
    lacks_host,
    normal,
    scheme_of,
    unusable_text,
)
from stages.capture.source_clock import SourceClock

SEEK_FROM = 1000
"""Pictures from which on a file is sought in; up to there it takes no time to read past them."""
HIGHEST_INDEX = 99
"""Of a webcam; OpenCV reads the hundreds as a choice of backend."""


class CaptureSettings(Settings, frozen=True):
    """Where pictures come from; in the settings file these stand under `streams`."""

    source: Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=0)]
    """Webcam index (0), device (/dev/video2), video file, image, folder of images, an address
    (rtsp://, http://), or a pipe: a FIFO, a socket, or - for standard input."""
    mode: Literal["auto", "live", "lossless"] = "auto"
    """lossless waits for a free slot and drops nothing; live never waits. auto: live for
    cameras and addresses, lossless for files and pipes. live on these plays them at their own
    pace."""
    loop: bool = False
    """Begin again when a file or folder ends; for ever, or up to `frames`."""
    frames: Annotated[int, Meta(ge=1)] | None = None
    """End the stream after so many pictures."""
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    """Pictures per second of a folder of images (default 10), or of a file or a pipe that does not
    say; asked of a webcam; how often an address that answers with one picture is asked for the next
    (default 5)."""
    sequence: bool = False
    """The images of a folder are the frames of a film: they are tracked. false: each is a picture
    of its own."""
    width: Annotated[int, Meta(ge=1)] | None = None
    """Asked of a webcam, in pixels."""
    height: Annotated[int, Meta(ge=1)] | None = None
    """Asked of a webcam, in pixels."""
    backend: Literal["auto", "opencv", "gstreamer"] = "auto"
    """What reads a camera or an address; files and pipes are OpenCV's. auto: OpenCV, which costs
    least; GStreamer for what OpenCV cannot decode, and where `pipeline` is given."""
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
    def resolve(cls, settings: CaptureSettings) -> Resolved:
        """See that a file is there; tell whether the stream is live.

        Raises:
            SetupError: settings that contradict each other.
            SourceError: no such file, or a folder without images.
        """
        source = normal(settings.source)
        if isinstance(source, int) and source > HIGHEST_INDEX:
            raise SourceError(f"camera {source}: no camera has so high an index")
        address = display_url(settings.source)
        if settings.pipeline is None and is_broken(str(settings.source)):
            raise SourceError(f"{address}: {login_advice(str(settings.source))}")
        if settings.pipeline is None and lacks_host(settings.source):
            raise SourceError(f"{address}: the host is missing, as in rtsp://HOST/PATH")
        if settings.pipeline is not None and settings.backend == "opencv":
            raise SetupError("pipeline: is GStreamer's; remove it, or `backend: opencv`")
        if settings.backend == "gstreamer" and _has_path(settings):
            raise SetupError(
                "backend: files and pipes are read by OpenCV; remove it, or write a `pipeline` of "
                "your own"
            )
        if settings.pipeline is not None or settings.backend == "gstreamer":
            from stages.capture.gstreamer import check

            check(settings)
        may_wait = settings.wait and is_device(settings.source)
        if isinstance(source, Path) and settings.pipeline is None and not may_wait:
            _check_path(source, settings)
        info = SourceInfo(
            display_url(settings.source),
            (settings.source, settings.pipeline),
            _is_live(settings),
            settings.frames,
        )
        return Resolved((info,))

    @classmethod
    def resources(cls, settings: CaptureSettings) -> Resources:
        """Declare the file, or the images of a folder."""
        source = normal(settings.source)
        if not isinstance(source, Path) or not _is_recorded(settings):
            return Resources()
        return Resources(reads=tuple(images_in(source)) if source.is_dir() else (source,))

    def open(self) -> None:
        """Open the source and see that it gives a picture.

        A live source that may be waited for is not opened here, but by its reading thread.

        Raises:
            SourceError: it cannot be opened, or gives none.
        """
        self.live = _is_live(self.settings)
        self._name = _name(self.settings)
        self._missed = Missed()
        self._taken = 0
        self._reader: Live | None = None
        self._offered: Frame | None = None
        self._filled: bool | None = None
        self._broken = ""
        """Why a file cannot be begun again."""
        self._paused = False
        self._pictures: Pictures | None = None
        # A stream's clock must not start anew when capture does.
        self._last_ns = -1
        # A pipe that was being read is not written from its beginning again: it is opened at once.
        again = self.context.restarted and not _is_pipe(self.settings)
        if not _is_recorded(self.settings) and (self.settings.wait or again):
            return
        try:
            self._pictures = self._connect()
        except SourceError as error:
            raise SourceError(f"{self._name}: {error}", error.kind) from None
        if self._pictures.still and not self.context.restarted:
            self.context.log.info(
                "separate images, which are not tracked (id null); if they are the frames of a "
                "film, set `sequence: true`"
            )
        if isinstance(self._pictures, PipeVideo) and not self._pictures.timed:
            self.context.log.warning(
                "%s holds no time stamps; frames get the time of their arrival, set `fps` for "
                "the rate of a recording",
                self._name,
            )

    def close(self) -> None:
        """Close the source; a reading thread is ended first, or the interpreter would abort."""
        if getattr(self, "_reader", None) is not None:
            assert self._reader is not None
            self._reader.stop()
        elif getattr(self, "_pictures", None) is not None:
            assert self._pictures is not None
            self._pictures.close()

    def skip(self, pictures: int, source_ns: int) -> None:
        """Go on behind the first so many pictures. A camera's are gone, a file's are passed by."""
        self._taken, self._last_ns = pictures, source_ns
        if not _is_recorded(self.settings):
            return
        file = cast(Recorded, self._pictures)
        # The pictures that a live source's viewer missed lie behind the newest frame.
        may_seek = pictures > SEEK_FROM and not self.settings.loop and not self.live
        if may_seek and file.seek(pictures, source_ns):
            return
        passed = 0
        while passed < pictures and file.grab():
            passed += 1 + file.lost
        if passed > pictures:
            file.again()
        elif passed < pictures and passed and self.settings.loop:
            # A whole round is known now: count the others instead of reading them.
            rounds, rest = divmod(pictures, passed)
            file.rewind(rounds)
            for _ in range(rest):
                file.grab()

    def start(self, notify: Callable[[], None]) -> None:
        """Begin to read a camera, or a file that is played live, in a thread."""
        recorded = _is_recorded(self.settings)
        if recorded and not self.live:
            return
        self._reader = Live(
            self._connect,
            self._missed,
            notify,
            first=self._pictures,
            advance=self._advance,
            clock=None if recorded else SourceClock(self.context.started_ns, self._last_ns),
            newest=self.live,
            reconnect=self.settings.reconnect and not _has_path(self.settings),
            stall_timeout_s=self.settings.stall_timeout_s,
        )
        self._reader.start()

    def offer(self, frame: Frame) -> None:
        """Fill a frame with the next picture, now (a lossless file) or when it comes."""
        if self._reader is not None:
            self._reader.offer(frame)
            return
        self._offered, self._filled = frame, None
        if not self._paused:
            self._filled = self._read(frame)

    def collect(self) -> bool | None:
        """Whether the frame is filled; None: not yet; False: the source has ended.

        Raises:
            StuckSource: the library that reads the source does not return.
        """
        if self._reader is not None:
            return self._reader.collect()
        if self._filled is None and self._offered is not None and not self._paused:
            self._filled = self._read(self._offered)
        return self._filled

    def pause(self) -> None:
        """Give no pictures until `resume`; a camera is let go of meanwhile."""
        self._paused = True
        if self._reader is not None:
            self._reader.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        if self._reader is not None:
            self._reader.resume()

    @property
    def condition(self) -> SourceState:  # type: ignore[override]
        """How the source is doing."""
        if getattr(self, "_reader", None) is not None:
            assert self._reader is not None
            return self._reader.condition
        if not hasattr(self, "_pictures") or self._pictures is None:
            return SourceState("opening")
        return SourceState(
            "paused" if self._paused else "ended" if self._filled is False else "live"
        )

    def missed(self) -> tuple[int, int]:
        """Pictures since the last call that (found no slot, could not be decoded)."""
        return self._missed.take()

    def problem(self) -> str | None:
        """Why the source has ended too early, if it has."""
        if self._limit_reached():
            return None
        if self._broken:
            text = self._broken
        elif self._reader is not None:
            text = self._reader.problem
        else:
            text = self._pictures.trouble()[1] if self._pictures is not None else ""
        return f"{self._name}: {text}" if text else None

    def info(self) -> Mapping[str, str]:
        """What reads the source; for a camera, worth asking again whenever it becomes live."""
        decoder = ""
        if getattr(self, "_reader", None) is not None:
            assert self._reader is not None
            decoder = self._reader.decoder
        elif getattr(self, "_pictures", None) is not None:
            assert self._pictures is not None
            decoder = self._pictures.decoder
        return {"decoder": decoder} if decoder else {}

    def _connect(self) -> Pictures:
        settings = self.settings
        source = normal(settings.source)
        if _is_recorded(settings):
            assert isinstance(source, Path)
            recorded = _open_recorded(source, settings)
            recorded.still = recorded.still and not settings.sequence
            return recorded
        if _is_pipe(settings):
            assert isinstance(source, Path)
            return PipeVideo(source, settings)
        if settings.pipeline is not None or settings.backend == "gstreamer":
            return self._behind_what_was_taken(_gstreamer(settings))
        try:
            return self._behind_what_was_taken(_opencv(settings))
        except SourceError as error:
            if settings.backend == "opencv" or error.kind != "unsupported":
                raise
            try:
                return self._behind_what_was_taken(_gstreamer(settings))
            except (SetupError, ImportError):
                raise error from None

    def _behind_what_was_taken(self, video: Pictures) -> Pictures:
        """After a crash, pass over what was taken before it, if the source has an end."""
        for _ in range(self._taken if video.finite else 0):
            video.grab()
        return video

    def _limit_reached(self) -> bool:
        return self.settings.frames is not None and self._taken >= self.settings.frames

    def _read(self, frame: Frame) -> bool:
        """Fill a frame with the next picture of a file that can be decoded; False: its end."""
        pictures = self._pictures
        assert pictures is not None
        while self._advance(pictures):
            came_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            if fill(frame, pictures, came_ns, wall_ns, pictures.source_ns):
                return True
            self._missed.add(decode=1)
        return False

    def _advance(self, pictures: Pictures) -> bool:
        """Go to the next picture; False at the end."""
        if self._limit_reached():
            return False
        more = pictures.grab()
        if not more and self.settings.loop and self._taken and _is_recorded(self.settings):
            try:
                cast(Recorded, pictures).rewind()
            except SourceError as error:  # it was replaced or removed while it was played
                self._broken = str(error)
                return False
            more = pictures.grab()
        if more:
            self._taken += 1 + pictures.lost + pictures.skipped
            self._missed.add(busy=pictures.skipped, decode=pictures.lost)
        return more


def _opencv(settings: CaptureSettings) -> Pictures:
    if scheme_of(settings.source) in ("http", "https"):
        from stages.capture.http_snapshot import open_http

        return open_http(settings)
    return OpenCVVideo(settings)


def _open_recorded(path: Path, settings: CaptureSettings) -> Recorded:
    """Open a file with OpenCV; with GStreamer if it is installed, and OpenCV lacks the codec."""
    try:
        return open_recorded(path, settings.fps)
    except CodecError:
        if settings.backend == "opencv":
            raise
        from stages.capture.gstreamer import missing_gstreamer

        if missing_gstreamer():
            raise
        from stages.capture.gstreamer_file import GStreamerFile

        with suppress(SetupError, ImportError):
            return GStreamerFile(settings)
        raise


def _gstreamer(settings: CaptureSettings) -> Pictures:
    from stages.capture.gstreamer import GStreamerVideo

    return GStreamerVideo(settings)


def _name(settings: CaptureSettings) -> str:
    if settings.source in STANDARD_INPUT:
        return "standard input"
    source = normal(settings.source)
    return f"camera {source}" if isinstance(source, int) else display_url(source)


def _is_recorded(settings: CaptureSettings) -> bool:
    return settings.pipeline is None and is_recorded(settings.source)


def _is_pipe(settings: CaptureSettings) -> bool:
    return settings.pipeline is None and is_pipe(settings.source)


def _has_path(settings: CaptureSettings) -> bool:
    """Whether it is a file, a folder or a pipe: it has an end, and is not opened again."""
    return _is_recorded(settings) or _is_pipe(settings)


def _is_live(settings: CaptureSettings) -> bool:
    return settings.mode == "live" or (settings.mode == "auto" and not _has_path(settings))


def _check_path(path: Path, settings: CaptureSettings) -> None:
    try:
        str(path).encode()
        path.stat()
        if kind_of(settings.source) == "unusable":
            raise SourceError(f"{_name(settings)}: {unusable_text(str(settings.source))}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path}: no permission to read")
        if path.is_dir() and not images_in(path):
            raise SourceError(f"{path}: the folder holds no image ({', '.join(IMAGES)})")
    except FileNotFoundError:
        raise SourceError(f"{display_url(path)}: no such file, folder or device") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path can hold such characters"
        raise SourceError(f"{display_url(path)}: cannot be read: {reason}") from None
