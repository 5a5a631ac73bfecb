"""Reading with OpenCV: webcams, and addresses through FFmpeg; `opencv_file.py` reads files."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator

import cv2

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.addresses import device_path, parse_source, scheme_of
from stages.capture.ffmpeg_log import FfmpegLog, classify_error, has_other_size
from stages.capture.opencv_video import Video
from stages.capture.settings import CaptureSettings
from stages.capture.source import (
    ENDED,
    TIMED_SCHEMES,
    UDP_HINT,
    SourceProblem,
    device_problem,
    is_device,
)
from stages.capture.source_clock import ForwardClock
from stages.capture.watchdog import FIRST_IMAGE_S

OPEN_TIMEOUT_S = 4.0
ANALYZE_US = 2_500_000
"""Microseconds of the stream in which FFmpeg looks for a whole image before it counts as open."""
LEFT_OVER_S = 0.5
"""Silence after which an image that comes with the end was left over in the decoder."""
OPENING = threading.Lock()
"""Held while a source is opened: its options stand in the environment then, and its sockets are
those that are new after it."""
MIN_UNCOUNTED = 1e9
"""Frames from which on a count is not one: FFmpeg invents it for a stream without an end."""


class OpenCVVideo(Video):
    """A webcam, or an address that FFmpeg reads."""

    def __init__(
        self,
        settings: CaptureSettings,
        rate_known: bool | None = None,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        """Open it.

        Args:
            settings: settings of the stream.
            rate_known: see `Reader`; None: by the scheme of the address.
            open_timeout_s: longest wait for an address to answer with a part of a video.

        Raises:
            SourceError: it cannot be opened, or is a webcam that gives no image.
        """
        super().__init__()
        self._settings, self._open_timeout_s = settings, open_timeout_s
        self._source = parse_source(settings.source)
        self._is_device = is_device(settings.source)
        scheme_known = self._is_device or scheme_of(settings.source) in TIMED_SCHEMES
        self.rate_known = scheme_known if rate_known is None else rate_known
        if scheme_of(settings.source).startswith("rtsp") and settings.transport == "udp":
            self.silence_hint = UDP_HINT
        self._forward = ForwardClock()
        self._index = -1
        self._problem: SourceProblem = ("", "")
        self._interrupted = self._resized = False
        self._sockets: dict[int, int] = {}
        self._primed = False
        self._log = FfmpegLog()
        try:
            if self._is_device:
                self._open_device()
            else:
                self._open_address(str(self._source))
            self._measure()
            count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self._count = round(count) if not self._is_device and 0 < count < MIN_UNCOUNTED else 0
            self.finite = self._count > 0
            if self._is_device:
                # A webcam that another program uses can be opened all the same.
                self._primed = self._grab_device(OPEN_TIMEOUT_S)
                if not self._primed:
                    raise SourceError(self._problem[1], self._problem[0])
        except BaseException:
            self.close()
            raise

    def _open_device(self) -> None:
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        source = self._source if isinstance(self._source, int) else str(self._source)
        self._capture = cv2.VideoCapture(source, backend)
        if not self._capture.isOpened():
            kind, text = device_problem(device_path(self._source))
            raise SourceError(text, kind)
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, self._settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height),
            (cv2.CAP_PROP_FPS, self._settings.fps),
        ):
            if value is not None:
                self._capture.set(prop, value)

    def _open_address(self, address: str) -> None:
        # One decoder thread: each more holds back one more image.
        params = [cv2.CAP_PROP_N_THREADS, 1]
        params += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(self._open_timeout_s * 1000)]
        read_s = max(FIRST_IMAGE_S, self._settings.stall_timeout_s)
        params += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_s * 1000)]
        started = time.monotonic()
        with OPENING, ffmpeg_options(f"rtsp_transport;{self._settings.transport}"):
            before = _sockets()
            self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, params)
            self._sockets = {n: fd for n, fd in _sockets().items() if n not in before}
        if not self._capture.isOpened():
            late = time.monotonic() - started > self._open_timeout_s * 0.9
            kind, text = classify_error(self._log.take(), address, "timeout" if late else "failed")
            raise SourceError(text, kind)
        self._log.take()  # one of a host's several addresses may have refused

    def grab(self) -> bool:
        """Go to the next image; False at the end."""
        if self._primed:
            self._primed = False
        elif self._is_device:
            if not self._grab_device(self._settings.stall_timeout_s):
                return False
        elif self._interrupted or not self._grab_address():
            return False
        if not self._is_device and self._has_other_size():
            return False
        self._index += 1
        self.source_ns = self._stamp_ns()
        if self.source_ns <= 0 and self._index > 0 and not self._forward.is_running:
            self.source_ns = -1  # no timestamps
        elif self.finite:
            self.source_ns = self._forward.time_ns(self.source_ns)
        return True

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it cannot be decoded."""
        # OpenCV says that it has converted an image of another size, and returns the last one.
        return super().retrieve(frame) and not (not self._is_device and self._has_other_size())

    def _has_other_size(self) -> bool:
        """Return whether images have another size than at first, which OpenCV does not follow."""
        if not self._resized and has_other_size(self._log.take(), self._shape):
            self._resized = True
            self._problem = "closed", "the size of the images has changed"
        return self._resized

    def _grab_device(self, patience_s: float) -> bool:
        """Grab from a webcam; if that fails, find out why."""
        until = time.monotonic() + patience_s
        while not self._interrupted:
            started = time.monotonic()
            if self._capture.grab():
                return True
            # OpenCV returns from a silent webcam after a second, so that we can be interrupted.
            if time.monotonic() - started < LEFT_OVER_S:
                self._problem = device_problem(device_path(self._source))
                return False
            if time.monotonic() >= until:
                break
        self._problem = "frozen", f"no image for {patience_s:g} s"
        return False

    def _grab_address(self) -> bool:
        """Grab from an address; if that fails, find out why."""
        started = time.monotonic()
        more = bool(self._capture.grab())
        took_s = time.monotonic() - started
        if more and (took_s < LEFT_OVER_S or self.finite):
            return True
        problem = classify_error(self._log.take(), str(self._source), "")
        if more and not problem[0]:
            return True  # nothing but slow
        if self.finite and self._index + 1 >= self._count * 0.98:  # counted from its duration
            problem = "", ""
        elif self.finite:
            text = f"ended after {self._index + 1} of {self._count} images"
            problem = problem[0] or "closed", text
        elif problem[0] in ("", "closed"):
            problem = ENDED
        self._problem = problem
        return False

    def end_reason(self) -> SourceProblem:
        """Return why it ended too early; ("", ""): it did not."""
        return self._problem

    def interrupt(self) -> None:
        """Make a waiting grab return: its connection is shut down."""
        self._interrupted = True
        for inode, fd in list(self._sockets.items()):
            shutdown_socket(fd, inode)

    def close(self) -> None:
        """Release it."""
        self._sockets = {}
        super().close()
        self._log.close()


@contextlib.contextmanager
def ffmpeg_options(*options: str) -> Iterator[None]:
    """Put options for FFmpeg, as NAME;VALUE, where OpenCV looks for them when it opens a source."""
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    own = os.environ.get(name)
    # Without a guess at the frame rate, which is of no use, the first image comes 0.7 s sooner.
    # Where the next whole image is far away, FFmpeg stops looking for one before it is too late.
    line = "|".join((*options, "fpsprobesize;0", f"analyzeduration;{ANALYZE_US}"))
    os.environ[name] = f"{line}|{own}" if own else line
    try:
        yield
    finally:
        if own is None:
            del os.environ[name]
        else:
            os.environ[name] = own


def _sockets() -> dict[int, int]:
    """Return inode -> descriptor of all sockets of this process; {} where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = int(name)
    return found


def shutdown_socket(fd: int, inode: int) -> None:
    """Shut down a TCP connection of a library, if its descriptor is still the same socket."""
    with contextlib.suppress(OSError):
        own = os.dup(fd)
        with socket.socket(fileno=own) as connection:
            if os.fstat(own).st_ino == inode and connection.type == socket.SOCK_STREAM:
                connection.shutdown(socket.SHUT_RDWR)
