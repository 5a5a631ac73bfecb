"""Reading of a source that is read once, from begin to end: a FIFO, a socket, standard input.

    ffmpeg -i rtsp://... -c copy -f mpegts - | python run.py --source -

FFmpeg reads from a descriptor that never blocks: it then polls every millisecond, and notices
`interrupt`. A blocking read could sit in the kernel for as long as the writer is silent.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import stat
import threading
import time
from pathlib import Path

import cv2

from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.graph.placement import usable_cores
from stages.capture.ffmpeg_log import FfmpegLog, has_other_size
from stages.capture.opencv_live import OPENING, ffmpeg_options
from stages.capture.opencv_video import Video
from stages.capture.settings import CaptureSettings
from stages.capture.source import SourceProblem
from stages.capture.source_clock import ForwardClock
from stages.capture.watchdog import FIRST_IMAGE_S

OPEN_TIMEOUT_S = 4.0
"""Longest wait for a program to open the other end of a FIFO."""
STEP_S = 0.02
SHORT_HEAD_S = 0.2
"""Longest wait for `HEAD_BYTES`, once the first byte has come."""
HEAD_BYTES = 512
"""Bytes that are read ahead, to see which container it is."""

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)$")
_CONTAINERS = (
    re.compile(rb"\x47.{187}\x47", re.DOTALL),  # MPEG-TS
    re.compile(rb"\x00\x00\x01\xba"),  # MPEG-PS
    re.compile(rb"FLV|\x1aE\xdf\xa3|OggS|RIFF|\x30\x26\xb2\x75"),  # FLV, Matroska, Ogg, AVI, ASF
    re.compile(rb"....(ftyp|moov|mdat|styp|moof)", re.DOTALL),  # MP4
    re.compile(rb"YUV4MPEG2 |NUT|nut/multimedia"),
)
"""First bytes of containers that have timestamps. Others (bare H.264, JPEG after JPEG) have none,
and FFmpeg would assume 25 images per second."""


class PipeVideo(Video):
    """A pipe that FFmpeg reads."""

    finite = True

    def __init__(self, path: Path, settings: CaptureSettings) -> None:
        """Open it and wait for its first bytes.

        Args:
            path: path of the FIFO or socket, or /dev/fd/N.
            settings: settings of the stream.

        Raises:
            SourceError: no program writes to it, or it writes no video.
        """
        super().__init__()
        self._stall_s = max(FIRST_IMAGE_S, settings.stall_timeout_s)
        self._fps = settings.fps
        self._clock = ForwardClock()
        self._index = -1
        self._problem: SourceProblem = ("", "")
        self._lock = threading.Lock()
        self._log: FfmpegLog | None = None
        self._fd = open_pipe(path)
        try:
            head = _first_bytes(self._fd, FIRST_IMAGE_S)
            self._has_stamps = any(begin.match(head) for begin in _CONTAINERS)
            self.untimed = not self._has_stamps and self._fps is None
            self._log = FfmpegLog()
            threads = 1 if usable_cores() <= 4 else 0
            params = [cv2.CAP_PROP_N_THREADS, threads]
            for name in (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC):
                params += [name, round(self._stall_s * 1000)]
            with OPENING, ffmpeg_options():
                self._capture = cv2.VideoCapture(f"pipe:{self._fd}", cv2.CAP_FFMPEG, params)
            if not self._capture.isOpened():
                raise SourceError("holds no video that OpenCV can read", "failed")
            self._measure()
        except BaseException:
            self.close()
            raise

    def grab(self) -> bool:
        """Go to the next image; False at the end."""
        started = time.monotonic()
        if not self._capture.grab():
            if time.monotonic() - started >= self._stall_s * 0.9:
                text = f"no new image for {self._stall_s:g} s"
                self._problem = "frozen", text
            return False
        if self._has_other_size():
            return False
        self._index += 1
        self.source_ns = self._time_ns()
        return True

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it cannot be decoded."""
        return super().retrieve(frame) and not self._has_other_size()

    def _has_other_size(self) -> bool:
        """Return whether images have another size than at first; a pipe cannot be opened again."""
        if self._log is not None and has_other_size(self._log.take(), self._shape):
            text = "the size of the images changes, which is not supported in a pipe"
            self._problem = "unsupported", text
        return bool(self._problem[0])

    def _time_ns(self) -> int:
        if self._has_stamps:
            return self._clock.time_ns(self._stamp_ns())
        return -1 if self._fps is None else round(self._index / self._fps * 1e9)

    def end_reason(self) -> SourceProblem:
        """Return why it ended too early; ("", ""): it did not."""
        return self._problem

    def interrupt(self) -> None:
        """Make a waiting grab return: it reads the end of /dev/null in place of the pipe."""
        with self._lock:
            if self._fd >= 0:
                null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                os.dup2(null, self._fd, inheritable=False)
                os.close(null)

    def close(self) -> None:
        """Close it; its writer gets SIGPIPE."""
        super().close()
        if self._log is not None:
            self._log.close()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


def open_pipe(path: Path) -> int:
    """Open a pipe for reading, without waiting for it, and return a descriptor of its own.

    Raises:
        SourceError: it cannot be opened.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode):
            # Opened again: to make it non-blocking must not affect others who share it.
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        inherited = _DESCRIPTOR.match(str(path))
        if inherited:
            fd = os.dup(int(inherited[1]))
        else:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(OPEN_TIMEOUT_S)
                connection.connect(str(path))
                fd = os.dup(connection.fileno())
        os.set_blocking(fd, False)
        return fd
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"cannot be opened: {reason}", "failed") from None


def _first_bytes(fd: int, patience_s: float) -> bytes:
    """Wait for the first bytes and return them, without taking them out of the pipe.

    Raises:
        SourceError: no byte comes.
    """
    began = time.monotonic()
    has_writer = False
    while True:
        head = _peek(fd)
        has_writer = has_writer or head is not None
        waited_s = time.monotonic() - began
        # A container is recognized by less, but a writer may begin with a few bytes.
        if head and (len(head) >= HEAD_BYTES or waited_s > SHORT_HEAD_S):
            return head
        if not has_writer and waited_s > OPEN_TIMEOUT_S:
            text = f"no program has opened it for writing within {OPEN_TIMEOUT_S:g} s"
            raise SourceError(text, "timeout")
        if waited_s > patience_s:
            raise SourceError(f"no data within {patience_s:g} s", "frozen")
        time.sleep(STEP_S)


def _peek(fd: int) -> bytes | None:
    """Return the bytes that wait in a pipe, and leave them; None: it has had no writer yet.

    Raises:
        SourceError: its writer has closed it, and nothing is left.
    """
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as connection:
                head = connection.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        else:
            head = _copy_of_head(fd)
            if not head and not _is_hung_up(fd):
                return None
    except BlockingIOError:
        return b""
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", "failed") from None
    if not head:
        raise SourceError("ended before its first byte", "failed")
    return head


def _copy_of_head(fd: int) -> bytes:
    """Copy the first bytes of a pipe with tee(2), which Python has no function for."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        length = ctypes.CDLL(None, use_errno=True).tee(fd, writer, HEAD_BYTES, 0)
        if length < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return os.read(reader, HEAD_BYTES) if length else b""
    finally:
        os.close(reader)
        os.close(writer)


def _is_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
