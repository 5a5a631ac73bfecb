"""Log of the FFmpeg inside OpenCV: the only place where it says why it cannot read a source."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import cv2

from stages.capture.source import CLOSED, SourceProblem, http_error, network_problem

LEVEL_ERROR, LEVEL_VERBOSE = 16, 40
"""Log levels of FFmpeg."""
MAX_BLOCK = 32
"""Pixels by which the coded size may exceed that of the images."""

_STATUS = re.compile(r"(?:method \w+ failed:|HTTP error) (\d\d\d)")
"""The error status of a server, in FFmpeg's log."""
_KINDS = (
    (r"Failed to resolve hostname", "unknown_host"),
    (r"Connection refused", "refused"),
    (r"No route to host|Network (is )?unreachable|Host is down|Host unreachable", "unreachable"),
    (r"timed out|Immediate exit requested", "timeout"),
    (r"[Cc]ould not find (codec|decoder)|Protocol not found|Invalid data found", "unsupported"),
    (r"End of file|reset by peer|Broken pipe|ends prematurely", "closed"),
)
"""Other texts in FFmpeg's log -> kind of problem."""


class FfmpegLog:
    """FFmpeg's log on file descriptor 2, where it would show passwords to everyone.

    A pipe takes the place of the descriptor while any object of this class is in use. Nothing
    waits for its reader: what does not fit is lost.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _users: ClassVar[int] = 0
    _saved: ClassVar[int] = -1
    _out: ClassVar[int] = -1

    def __init__(self) -> None:
        self._used = True
        with FfmpegLog._lock:
            FfmpegLog._users += 1
            if FfmpegLog._users > 1:
                return
            sys.stderr.flush()
            FfmpegLog._out, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            FfmpegLog._saved = os.dup(2)
            os.dup2(pipe, 2)
            os.close(pipe)
            configure_ffmpeg_log()
            set_ffmpeg_level(LEVEL_VERBOSE)

    def take(self) -> str:
        """Return what was logged since the last call."""
        logged = b""
        with FfmpegLog._lock, contextlib.suppress(BlockingIOError):
            while self._used and (more := os.read(FfmpegLog._out, 65536)):
                logged += more
        return logged.decode(errors="replace")

    def close(self) -> None:
        """Restore the descriptor, if this is its last user."""
        with FfmpegLog._lock:
            if not self._used:
                return
            self._used = False
            FfmpegLog._users -= 1
            if not FfmpegLog._users:
                set_ffmpeg_level(LEVEL_ERROR)
                os.dup2(FfmpegLog._saved, 2)
                os.close(FfmpegLog._saved)
                os.close(FfmpegLog._out)


@cache
def configure_ffmpeg_log() -> None:
    """Make FFmpeg log to descriptor 2, and not through OpenCV, which writes to standard output.

    OpenCV decides that when it uses FFmpeg first, by variables of the environment; it may have
    done so already, for a file.
    """
    level, skip = "OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_SKIP_LOG_CALLBACK"
    saved = {name: os.environ.get(name) for name in (level, skip)}
    os.environ[skip] = "1"  # from OpenCV 4.13 on; earlier ones do the same if no level is set
    os.environ.pop(level, None)
    if tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 13):
        os.environ[level] = "24"  # warnings: HTTP's errors are some
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
    """Return the library of FFmpeg inside OpenCV that holds its log; None: it was not found."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.rpartition(" ")[2]
            if "/libavutil" in path and "opencv" in path:
                return ctypes.CDLL(path)
    return None


def set_ffmpeg_level(level: int) -> None:
    """Set FFmpeg's log level; OpenCV's own setting for it would send the log elsewhere."""
    if (library := _libavutil()) is not None:
        library.av_log_set_level(level)


def has_other_size(logged: str, shape: tuple[int, int]) -> bool:
    """Return whether FFmpeg's log says that images have another size than (height, width).

    A decoder of H.264 says which one, in whole blocks. The others say nothing; then the conversion
    says that it does not fit, if the images have become higher.
    """
    if "Slice parameters" in logged:
        return True
    for width, height in re.findall(r"Reinit context to (\d+)x(\d+)", logged):
        more = int(height) - shape[0], int(width) - shape[1]
        if not all(0 <= side < MAX_BLOCK for side in more):
            return True
    return False


def classify_error(logged: str, address: str, default: str) -> SourceProblem:
    """Return the problem behind FFmpeg's log, without its text, which holds passwords.

    Args:
        logged: by FFmpeg.
        address: that was opened.
        default: the kind, if the log holds no known text.
    """
    # If one of a host's several addresses has answered, the failures of the others do not matter.
    status = _STATUS.search(logged)
    if status is not None:
        return http_error(int(status[1]), address)
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, logged)), default)
    if kind in ("unknown_host", "refused", "unreachable", "timeout"):
        return network_problem(kind, address)
    texts = {
        "unsupported": "OpenCV cannot decode the stream",
        "closed": CLOSED[1],
        "failed": "cannot be opened; check that the address is one of a video stream",
    }
    return kind, texts.get(kind, "")
