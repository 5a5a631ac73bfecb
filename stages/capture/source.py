"""Kind of a source, by what is there, and the texts that say why a source does not work.

The texts are the same for every backend.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from pathlib import Path
from typing import Literal

from pipeline.urls import login_advice
from stages.addresses import STANDARD_INPUT, parse_source, shown_host

SourceProblem = tuple[str, str]
"""Kind (see `pipeline/status.py`), and a text that does not name the source; ("", ""): none."""

CLOSED: SourceProblem = ("closed", "connection closed by the other side")
ENDED: SourceProblem = ("closed", "stream ended by the other side")
WEB_PAGE = "the address is a web page; find the address of the video stream in the camera's manual"
UDP_HINT = "; check that the firewall allows UDP, or try `transport: tcp`"

TIMED_SCHEMES = frozenset(
    ("rtsp", "rtsps", "rtspt", "rtspu", "rtp", "srtp", "rtmp", "rtmps", "rtmpt", "srt", "mms")
)
"""Schemes whose protocol sends a timestamp with each image. Behind the others (http, tcp, udp)
there may be a container without any, for which libraries invent some."""

SourceKind = Literal["device", "address", "pipe", "recorded", "unusable"]
"""A webcam; an address; a stream that is read once from begin to end (a FIFO, a socket, standard
input); a file or a folder; a device or terminal that gives no images."""

_WEBCAM = re.compile(r"/dev/(video\d+$|v4l/)")
"""Paths of webcams, also while none is plugged in."""
_VIDEO4LINUX = 81
"""Major number of the devices of webcams."""
_TERMINALS = (4, 5, *range(136, 144))
"""Major numbers of terminals."""


def kind_of(source: str | int) -> SourceKind:
    """Return the kind of a source; of a path by what is there, never by its name alone."""
    parsed = parse_source(source)
    if isinstance(parsed, int):
        return "device"
    if isinstance(parsed, str):
        return "address"
    try:
        status = parsed.stat()
    except (OSError, ValueError):
        return "device" if _is_named_as_webcam(parsed) else "recorded"
    if stat.S_ISCHR(status.st_mode):
        is_webcam = os.major(status.st_rdev) == _VIDEO4LINUX or _is_named_as_webcam(parsed)
        return "device" if is_webcam else "unusable"
    if stat.S_ISBLK(status.st_mode):
        return "unusable"
    is_pipe = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
    return "pipe" if is_pipe else "recorded"


def _is_named_as_webcam(path: Path) -> bool:
    try:
        return _WEBCAM.match(os.path.realpath(path)) is not None
    except (OSError, ValueError):
        return False


def is_device(source: str | int) -> bool:
    """Return whether the source is a webcam."""
    return kind_of(source) == "device"


def is_recorded(source: str | int) -> bool:
    """Return whether the source is a file, or a folder of images."""
    return kind_of(source) == "recorded"


def is_pipe(source: str | int) -> bool:
    """Return whether the source is read once, from begin to end: a FIFO, a socket, stdin."""
    return kind_of(source) == "pipe"


def unusable_text(source: str) -> str:
    """Return why a device or terminal cannot be a source."""
    if source in STANDARD_INPUT:
        return "not a file or a pipe; redirect one into it, as in `... < clip.mp4`"
    path = Path(os.path.expanduser(source))
    status = path.stat()  # not opened: opening may block, or start a hardware watchdog
    if stat.S_ISBLK(status.st_mode):
        return "a disk is not a video source; use a file on it, or /dev/videoN"
    if os.major(status.st_rdev) in _TERMINALS:
        return "a terminal is not a video source; use a file, a camera or an address"
    return "this device is not a camera; cameras are /dev/video0, /dev/video1 and so on"


def device_problem(device: Path) -> SourceProblem:
    """Return why a webcam gives no image."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return "no_device", f"no camera at {device}; check that it is plugged in"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "failed", f"no permission for {device}; add the user to the group video"
        if error.errno != errno.EBUSY:
            return "failed", f"{device} cannot be opened: {error.strerror}"
    return "failed", f"no image from {device}; another program uses it, or it is not a camera"


def connection_problem(error: Exception, address: str) -> SourceProblem | None:
    """Return why a connection failed, by the error of the socket; None for other errors."""
    import ssl

    host, at = shown_host(address)
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {host} is not trusted ({error.verify_message})"
        return "failed", f"{text}; `backend: opencv` does not check it"
    if isinstance(error, ssl.SSLError):
        return "failed", f"TLS handshake with {at} failed; try http://"
    if isinstance(error, socket.gaierror | UnicodeError):
        return network_problem("unknown_host", address)
    if isinstance(error, ConnectionRefusedError):
        return network_problem("refused", address)
    if isinstance(error, TimeoutError):
        return network_problem("timeout", address)
    if isinstance(error, OSError) and error.errno in (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
    ):
        return network_problem("unreachable", address)
    return None


def network_problem(kind: str, address: str) -> SourceProblem:
    """Return the problem of a host that cannot be reached.

    Args:
        kind: "unknown_host", "refused", "unreachable" or "timeout".
        address: address, as the user wrote it.
    """
    host, at = shown_host(address)
    texts = {
        "unknown_host": f"host {host} cannot be resolved; check its name and the DNS server",
        "refused": f"{at} refused the connection; check the port, and that the camera is on",
        "unreachable": f"no route to {host}; check the network",
        "timeout": f"{at} does not answer; check that the camera is on",
    }
    text = texts[kind] if host != "..." else "the host in the address is ambiguous"
    advice = login_advice(address)
    return kind, f"{text}; {advice}" if advice else text


def http_error(status: int, address: str) -> SourceProblem:
    """Return the problem of a server's error status; RTSP and HTTP share their numbers."""
    _, at = shown_host(address)
    if status == 401 and "@" not in address:
        return "unauthorized", "login required; put USER:PASSWORD@ before the host's name"
    if status == 401:
        advice = login_advice(address)
        return "unauthorized", "wrong user or password" + (f"; {advice}" if advice else "")
    if status == 403:
        return "unauthorized", "the user has no access to this stream; check its rights"
    if status in (404, 410):
        return "not_found", f"no such stream at {at}; check the path in the address"
    if status == 461:
        return "unsupported", "transport not supported by the camera; try the other `transport`"
    return "failed", f"{at} answers with error {status}"
