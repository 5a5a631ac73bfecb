"""Reading with OpenCV: webcams, and addresses through FFmpeg; `opencv_file.py` reads files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.capture.clock_rate import ForwardClock
from stages.capture.live_reader import FIRST_PICTURE_S
from stages.capture.opencv_video import Video
from stages.capture.source import (
    TIMED_SCHEMES,
    Trouble,
    device_path,
    device_trouble,
    is_device,
    network_trouble,
    normal,
    refusal,
    scheme_of,
)

if TYPE_CHECKING:
    from stages.capture.capture import CaptureSettings

OPEN_TIMEOUT_S = 4.0
ANALYZE_US = 2_500_000
"""For so much of the stream FFmpeg may wait for a whole picture before it counts as open."""
LEFT_OVER_S = 0.5
"""After so long a silence, a picture that comes with the end was left over in the decoder."""
OPENING = threading.Lock()
"""The options of an address stand in the environment while it is opened, and its sockets are those
that are new after it."""
MAX_BLOCK = 32
"""Pixels by which the coded size may exceed that of the pictures."""
LEVEL_ERROR, LEVEL_VERBOSE = 16, 40
"""FFmpeg's numbers for how much it says."""
NEVER_COUNTED = 1e9
"""Frames from which on a count is none: what FFmpeg makes up for a stream without an end."""


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
            settings: of the stream.
            rate_known: see `Pictures`; None: by the scheme of the address.
            open_timeout_s: longest wait for an address to answer with a part of a video.

        Raises:
            SourceError: it cannot be opened, or is a webcam that gives no picture.
        """
        self._settings, self._open_timeout_s = settings, open_timeout_s
        self._source = normal(settings.source)
        self._is_device = is_device(settings.source)
        scheme_known = self._is_device or scheme_of(settings.source) in TIMED_SCHEMES
        self.rate_known = scheme_known if rate_known is None else rate_known
        if scheme_of(settings.source).startswith("rtsp") and settings.transport == "udp":
            self.silence_hint = ": does a firewall let UDP in? Or try `transport: tcp`"
        self.source_ns = -1
        self._forward = ForwardClock()
        self._index = -1
        self._trouble = ("", "")
        self._interrupted = self._resized = False
        self._sockets: dict[int, int] = {}
        self._primed = False
        self._words = _Words()
        try:
            if self._is_device:
                self._open_device()
            else:
                self._open_address(str(self._source))
            self._measure()
            count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self._count = round(count) if not self._is_device and 0 < count < NEVER_COUNTED else 0
            self.finite = self._count > 0
            if self._is_device:
                # A webcam that another program uses can be opened all the same.
                self._primed = self._grab_device(OPEN_TIMEOUT_S)
                if not self._primed:
                    raise SourceError(self._trouble[1], self._trouble[0])
        except BaseException:
            self.close()
            raise

    def _open_device(self) -> None:
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        source = self._source if isinstance(self._source, int) else str(self._source)
        self._capture = cv2.VideoCapture(source, backend)
        if not self._capture.isOpened():
            kind, text = device_trouble(device_path(self._source))
            raise SourceError(text, kind)
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, self._settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._settings.height),
            (cv2.CAP_PROP_FPS, self._settings.fps),
        ):
            if value is not None:
                self._capture.set(prop, value)

    def _open_address(self, address: str) -> None:
        # One decoder thread: each more holds back one more picture.
        params = [cv2.CAP_PROP_N_THREADS, 1]
        params += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(self._open_timeout_s * 1000)]
        read_s = max(FIRST_PICTURE_S, self._settings.stall_timeout_s)
        params += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_s * 1000)]
        started = time.monotonic()
        with OPENING, ffmpeg_options(f"rtsp_transport;{self._settings.transport}"):
            before = _sockets()
            self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, params)
            self._sockets = {n: fd for n, fd in _sockets().items() if n not in before}
        if not self._capture.isOpened():
            late = time.monotonic() - started > self._open_timeout_s * 0.9
            kind, text = _told_apart(self._words.take(), address, "timeout" if late else "failed")
            raise SourceError(text, kind)
        self._words.take()  # of a host's several addresses one may have refused

    def grab(self) -> bool:
        """Go to the next picture; False at the end."""
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
        """Decode the last picture into the frame; False: it cannot be decoded."""
        # OpenCV says that it has converted a picture of another size, and gives the last one.
        return super().retrieve(frame) and not (not self._is_device and self._has_other_size())

    def _has_other_size(self) -> bool:
        """Whether the pictures have another size than at first, which OpenCV does not follow."""
        if not self._resized and has_other_size(self._words.take(), self._shape):
            self._resized = True
            self._trouble = "closed", "the size of its pictures has changed"
        return self._resized

    def _grab_device(self, patience_s: float) -> bool:
        """Grab from a webcam; if that fails, find out why."""
        until = time.monotonic() + patience_s
        while not self._interrupted:
            asked = time.monotonic()
            if self._capture.grab():
                return True
            # OpenCV gives up on a silent webcam after a second, which lets us be interrupted.
            if time.monotonic() - asked < LEFT_OVER_S:
                self._trouble = device_trouble(device_path(self._source))
                return False
            if time.monotonic() >= until:
                break
        self._trouble = "frozen", f"no picture has come for {patience_s:g} s"
        return False

    def _grab_address(self) -> bool:
        """Grab from an address; if that fails, find out why."""
        started = time.monotonic()
        more = bool(self._capture.grab())
        took_s = time.monotonic() - started
        if more and (took_s < LEFT_OVER_S or self.finite):
            return True
        kind, text = _told_apart(self._words.take(), str(self._source), "")
        if more and not kind:
            return True  # nothing but slow
        if self.finite and self._index + 1 >= self._count * 0.98:  # counted from its duration
            kind, text = "", ""
        elif self.finite:
            kind = kind or "closed"
            text = f"ended after {self._index + 1} of {self._count} pictures"
        elif kind in ("", "closed"):
            kind, text = "closed", "the other side has ended the stream"
        self._trouble = kind, text
        return False

    def trouble(self) -> tuple[str, str]:
        """Kind and words of what ended it too early."""
        return self._trouble

    def interrupt(self) -> None:
        """Have a grab that waits return: a connection is ended under it."""
        self._interrupted = True
        for inode, fd in list(self._sockets.items()):
            _shut_down(fd, inode)

    def close(self) -> None:
        """Let go of it."""
        self._sockets = {}
        if hasattr(self, "_capture"):
            self._capture.release()
        self._words.close()


class _Words:
    """What FFmpeg says on file descriptor 2, where else a password would be shown to everyone.

    A pipe takes the place of the descriptor while any object of this class is in use. Nothing
    waits for its reader: what does not fit is lost.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _users: ClassVar[int] = 0
    _saved: ClassVar[int] = -1
    _out: ClassVar[int] = -1

    def __init__(self) -> None:
        self._used = True
        with _Words._lock:
            _Words._users += 1
            if _Words._users > 1:
                return
            sys.stderr.flush()
            _Words._out, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            _Words._saved = os.dup(2)
            os.dup2(pipe, 2)
            os.close(pipe)
            _have_ffmpeg_speak()
            set_ffmpeg_level(LEVEL_VERBOSE)

    def take(self) -> str:
        """What has been said since the last time."""
        said = b""
        with _Words._lock, contextlib.suppress(BlockingIOError):
            while self._used and (more := os.read(_Words._out, 65536)):
                said += more
        return said.decode(errors="replace")

    def close(self) -> None:
        """Give the descriptor back."""
        with _Words._lock:
            if not self._used:
                return
            self._used = False
            _Words._users -= 1
            if not _Words._users:
                set_ffmpeg_level(LEVEL_ERROR)
                os.dup2(_Words._saved, 2)
                os.close(_Words._saved)
                os.close(_Words._out)


@cache
def _have_ffmpeg_speak() -> None:
    """Have FFmpeg speak on descriptor 2, and not through OpenCV, which writes to standard output.

    OpenCV decides that when it uses FFmpeg first, by variables of the environment; it may have
    done so already, for a file.
    """
    loud, skip = "OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_SKIP_LOG_CALLBACK"
    saved = {name: os.environ.get(name) for name in (loud, skip)}
    os.environ[skip] = "1"  # known from OpenCV 4.13 on; earlier ones do it if no level is set
    os.environ.pop(loud, None)
    if tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 13):
        os.environ[loud] = "24"  # warnings: HTTP's errors are some
    cv2.VideoCapture(os.devnull, cv2.CAP_FFMPEG).release()
    for name, value in saved.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    library = _libavutil()
    if library is not None:
        library.av_log_set_callback(ctypes.cast(library.av_log_default_callback, ctypes.c_void_p))


@cache
def _libavutil() -> Any:
    """The library of FFmpeg inside OpenCV that holds its log; None: it is not known where."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.rpartition(" ")[2]
            if "/libavutil" in path and "opencv" in path:
                return ctypes.CDLL(path)
    return None


def set_ffmpeg_level(level: int) -> None:
    """Set how much FFmpeg says; OpenCV's own setting for it would have it say it elsewhere."""
    if (library := _libavutil()) is not None:
        library.av_log_set_level(level)


def has_other_size(said: str, shape: tuple[int, int]) -> bool:
    """Whether FFmpeg has said that pictures now have another size than (height, width).

    A decoder of H.264 says which one, in whole blocks. The others say nothing; then the conversion
    says that it does not fit, if the pictures have become higher.
    """
    if "Slice parameters" in said:
        return True
    for width, height in re.findall(r"Reinit context to (\d+)x(\d+)", said):
        more = int(height) - shape[0], int(width) - shape[1]
        if not all(0 <= side < MAX_BLOCK for side in more):
            return True
    return False


@contextlib.contextmanager
def ffmpeg_options(*options: str) -> Iterator[None]:
    """Put options for FFmpeg, as NAME;VALUE, where OpenCV looks for them when it opens a source."""
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    own = os.environ.get(name)
    # Without a guess at the frame rate, which is of no use, the first picture comes 0.7 s sooner.
    # Where the next whole picture is far away, FFmpeg stops to look for one before it is too late.
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
    """Inode -> descriptor of all sockets of this process; none where there is no /proc."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[status.st_ino] = int(name)
    return found


def _shut_down(fd: int, inode: int) -> None:
    """End a TCP connection under the library that waits for it, if it is still the same one."""
    with contextlib.suppress(OSError):
        own = os.dup(fd)
        with socket.socket(fileno=own) as connection:
            if os.fstat(own).st_ino == inode and connection.type == socket.SOCK_STREAM:
                connection.shutdown(socket.SHUT_RDWR)


_STATUS = re.compile(r"(?:method \w+ failed:|HTTP error) (\d\d\d)")
"""The status of an answer that FFmpeg did not like, in what it says."""

_KINDS = (
    (r"Failed to resolve hostname", "unknown_host"),
    (r"Connection refused", "refused"),
    (r"No route to host|Network (is )?unreachable|Host is down|Host unreachable", "unreachable"),
    (r"timed out|Immediate exit requested", "timeout"),
    (r"[Cc]ould not find (codec|decoder)|Protocol not found|Invalid data found", "unsupported"),
    (r"End of file|reset by peer|Broken pipe|ends prematurely", "closed"),
)
"""What else it says -> what that means."""


def _told_apart(said: str, address: str, otherwise: str) -> Trouble:
    """Kind and words of what went wrong; of what FFmpeg said, which holds passwords, nothing.

    Args:
        said: by FFmpeg.
        address: that was to be opened.
        otherwise: the kind, if FFmpeg has said nothing that is known.
    """
    # Of a host's several addresses one has answered: that weighs more than that another did not.
    status = _STATUS.search(said)
    if status is not None:
        return refusal(int(status[1]), address)
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, said)), otherwise)
    if kind in ("unknown_host", "refused", "unreachable", "timeout"):
        return network_trouble(kind, address)
    texts = {
        "unsupported": "OpenCV cannot decode what comes",
        "closed": "the other side has closed the connection",
        "failed": "cannot be opened: nothing that OpenCV reads, or no stream at this address",
    }
    return kind, texts.get(kind, "")
