"""Reading with OpenCV: webcams, and addresses through FFmpeg; `opencv_file.py` reads files."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import cv2

from pipeline.errors import SourceError
from stages.live import FIRST_PICTURE_S
from stages.opencv_video import Video
from stages.sources import (
    Trouble,
    device_path,
    device_trouble,
    is_device,
    network_trouble,
    normal,
    refusal,
)

if TYPE_CHECKING:
    from stages.capture import CaptureSettings

OPEN_TIMEOUT_S = 4.0
LEFT_OVER_S = 0.5
"""After so long a silence, a picture that comes with the end was left over in the decoder."""
HEARD_EVERY = 64
"""Pictures from one time to the next that what FFmpeg has said is thrown away."""
NEVER_COUNTED = 1e9
"""Frames from which on a count is none: what FFmpeg makes up for a stream without an end."""


class OpenCVVideo(Video):
    """A webcam, or an address that FFmpeg reads."""

    _opening = threading.Lock()
    """The options of an address stand in the environment while it is opened, and its sockets are
    those that are new after it."""

    def __init__(self, settings: CaptureSettings) -> None:
        """Open it.

        Raises:
            SourceError: it cannot be opened, or is a webcam that gives no picture.
        """
        self._settings = settings
        self._source = normal(settings.source)
        self._is_device = is_device(settings.source)
        self.source_ns = -1
        self._index = -1
        self._trouble = ("", "")
        self._interrupted = False
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
        params += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(OPEN_TIMEOUT_S * 1000)]
        read_s = max(FIRST_PICTURE_S, self._settings.stall_timeout_s)
        params += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_s * 1000)]
        started = time.monotonic()
        with self._opening, _ffmpeg_options(self._settings.transport):
            before = _sockets()
            self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, params)
            self._sockets = {n: fd for n, fd in _sockets().items() if n not in before}
        if not self._capture.isOpened():
            late = time.monotonic() - started > OPEN_TIMEOUT_S * 0.9
            kind, text = _told_apart(self._words.take(), address, "timeout" if late else "failed")
            raise SourceError(text, kind)

    def grab(self) -> bool:
        """Go to the next picture; False at the end."""
        if self._primed:
            self._primed = False
        elif self._is_device:
            if not self._grab_device(self._settings.stall_timeout_s):
                return False
        elif self._interrupted or not self._grab_address():
            return False
        self._index += 1
        if self._index % HEARD_EVERY == 0:
            self._words.take()  # or what is said last finds no room
        self.source_ns = self._stamp_ns()
        if self.source_ns <= 0 and self._index > 0:
            self.source_ns = -1  # no timestamps
        return True

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
            _have_ffmpeg_speak()
            sys.stderr.flush()
            _Words._out, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            _Words._saved = os.dup(2)
            os.dup2(pipe, 2)
            os.close(pipe)

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
                os.dup2(_Words._saved, 2)
                os.close(_Words._saved)
                os.close(_Words._out)


def _have_ffmpeg_speak() -> None:
    """Set how loud FFmpeg is, and that it speaks on descriptor 2; heeded at its first use only."""
    loud = "OPENCV_FFMPEG_LOGLEVEL"
    if tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 13):
        os.environ["OPENCV_FFMPEG_SKIP_LOG_CALLBACK"] = "1"
        os.environ[loud] = "24"  # warnings: HTTP's errors are some
    else:
        # As soon as a level is set, these write to standard output, which may be a sink's.
        os.environ.pop(loud, None)


@contextlib.contextmanager
def _ffmpeg_options(transport: str) -> Iterator[None]:
    """Put FFmpeg's options for an address where OpenCV looks for them while it opens one."""
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    own = os.environ.get(name)
    # Without a guess at the frame rate, which nobody needs, the first picture comes 0.7 s sooner.
    options = f"rtsp_transport;{transport}|fpsprobesize;0"
    os.environ[name] = f"{options}|{own}" if own else options
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
