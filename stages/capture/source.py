"""What a source is, by how it is written, and what is said where it does not work.

Whoever reads it, OpenCV or GStreamer, the words are the same: they are for a person at night.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from functools import cache
from pathlib import Path
from typing import Literal

from pipeline.config import is_number
from pipeline.urls import display_url, login_advice

Trouble = tuple[str, str]
"""Kind (see `SourceState`), and words that do not name the source."""

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Scheme of an address -> port, where the address names none."""


WEB_PAGE = "is a web page, not a video; the camera's manual has the address of its stream"

TIMED_SCHEMES = frozenset(
    ("rtsp", "rtsps", "rtspt", "rtspu", "rtp", "srtp", "rtmp", "rtmps", "rtmpt", "srt", "mms")
)
"""Schemes whose protocol sends a time stamp with each picture. Behind the others (http, tcp, udp)
there may be a container without any, for which libraries invent some."""

SourceKind = Literal["device", "address", "pipe", "recorded", "unusable"]
"""A webcam; an address; something that is read once from begin to end (a FIFO, a socket, standard
input); a file or a folder; a device or terminal that gives no pictures."""

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""How standard input is written as a source."""

_WEBCAM = re.compile(r"/dev/(video\d+$|v4l/)")
"""Where webcams are, also while none is plugged in."""
_VIDEO4LINUX = 81
"""The major number of the devices of webcams."""
_TERMINALS = (4, 5, *range(136, 144))
"""The major numbers of terminals."""


def normal(source: str | int) -> int | str | Path:
    """What a source is: index of a webcam, address, or path."""
    if isinstance(source, int) or is_number(source):
        return int(source)
    if source in STANDARD_INPUT:
        return Path(f"/dev/fd/{_standard_input()}")
    if source.lower().startswith("file:///"):
        from urllib.parse import unquote

        return Path(unquote(source[len("file://") :]))
    return source if "://" in source else Path(os.path.expanduser(source))


@cache
def _standard_input() -> int:
    """Return a descriptor of standard input that workers inherit; their own is /dev/null.

    The supervisor asks first, when it checks the settings, so every worker knows the number.
    """
    return os.dup(0)


def kind_of(source: str | int) -> SourceKind:
    """What kind of source it is; a path by what is there, never by its name alone."""
    where = normal(source)
    if isinstance(where, int):
        return "device"
    if isinstance(where, str):
        return "address"
    try:
        status = where.stat()
    except (OSError, ValueError):
        return "device" if _is_named_as_webcam(where) else "recorded"
    if stat.S_ISCHR(status.st_mode):
        is_webcam = os.major(status.st_rdev) == _VIDEO4LINUX or _is_named_as_webcam(where)
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


def unusable_text(source: str) -> str:
    """Say why a device is no source of pictures."""
    if source in STANDARD_INPUT:
        return "is no file and no pipe; redirect one into it, as in `... < clip.mp4`"
    path = Path(os.path.expanduser(source))
    status = path.stat()  # it is not opened: that alone may block, or start a watchdog
    if stat.S_ISBLK(status.st_mode):
        return "is a disk, not a source of pictures; give a file on it, or /dev/videoN"
    if os.major(status.st_rdev) in _TERMINALS:
        return "is a terminal, not a source of pictures"
    return "is a device, but no camera; cameras are at /dev/video0 and so on"


def is_device(source: str | int) -> bool:
    """Whether it is a webcam."""
    return kind_of(source) == "device"


def is_recorded(source: str | int) -> bool:
    """Whether it is a file, or a folder of images."""
    return kind_of(source) == "recorded"


def is_pipe(source: str | int) -> bool:
    """Whether it is read once, from begin to end: a FIFO, a socket, standard input."""
    return kind_of(source) == "pipe"


def scheme_of(source: str | int | Path) -> str:
    """The scheme of an address, in small letters; "": it is no address."""
    scheme, mark, _ = str(source).partition("://")
    return scheme.lower() if mark else ""


def device_path(source: str | int | Path) -> Path:
    """Where a webcam is."""
    return Path(f"/dev/video{source}" if isinstance(source, int) else str(source))


def host_of(address: str) -> tuple[str, int | None]:
    """Host and port of an address, as libraries read it; ("?", None): it has none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        return parts.hostname or "?", parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return "?", None


def lacks_host(source: str | int) -> bool:
    """Whether it is an address that needs a host and has none."""
    from urllib.parse import urlsplit

    scheme, mark, _ = str(source).partition("://")
    if not mark or scheme.lower() not in PORTS:
        return False
    try:
        return not urlsplit(str(source)).hostname
    except ValueError:
        return False  # something else is the matter with it


def device_trouble(device: Path) -> Trouble:
    """Why a webcam gives no picture."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return "no_device", f"no camera at {device}: is it plugged in?"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "failed", f"no permission for {device}: add the user to the group video"
        if error.errno != errno.EBUSY:
            return "failed", f"{device} cannot be opened: {error.strerror}"
    return "failed", f"{device} gives no picture: another program uses it, or it is no camera"


def without_login(address: str) -> tuple[str, str | None, str]:
    """Take user and password out of an address, decoded; None: it has none."""
    from urllib.parse import unquote

    scheme, _, rest = address.partition("://")
    host, *path = re.split(r"(?=[/?#])", rest, maxsplit=1)
    login, at, host = host.rpartition("@")
    user, _, password = login.partition(":")
    bare = f"{scheme}://{host}{''.join(path)}"
    return bare, unquote(user) if at else None, unquote(password)


def connection_trouble(error: Exception, address: str) -> Trouble | None:
    """Why a connection has failed, by the error of the socket; None: it is another reason."""
    import ssl

    host, at = shown_host(address)
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {host} is not trusted ({error.verify_message})"
        return "failed", f"{text}; `backend: opencv` does not check it"
    if isinstance(error, ssl.SSLError):
        return "failed", f"{at} does not speak TLS as expected: try http://"
    if isinstance(error, socket.gaierror | UnicodeError):
        return network_trouble("unknown_host", address)
    if isinstance(error, ConnectionRefusedError):
        return network_trouble("refused", address)
    if isinstance(error, TimeoutError):
        return network_trouble("timeout", address)
    if isinstance(error, OSError) and error.errno in (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
    ):
        return network_trouble("unreachable", address)
    return None


def network_trouble(kind: str, address: str) -> Trouble:
    """That the host of an address is not reached, or is lost."""
    host, at = shown_host(address)
    texts = {
        "unknown_host": f"there is no host {host}, or no name server answers",
        "refused": f"nothing listens at {at}: is the camera up, and the port right?",
        "unreachable": f"there is no way to {host}: is the network up?",
        "timeout": f"{at} does not answer",
    }
    text = texts[kind] if host != "..." else "it is not clear where the host begins"
    advice = login_advice(address)
    return kind, f"{text}; {advice}" if advice else text


def shown_host(address: str) -> tuple[str, str]:
    """Host, and host with port, as they may be shown: of a wrong address they may be secret."""
    host, port = host_of(display_url(address))
    return host, f"{host}:{port}" if port and host != "..." else host


def refusal(status: int, address: str) -> Trouble:
    """That a server has answered with an error; RTSP and HTTP share their numbers."""
    _, at = shown_host(address)
    if status == 401 and "@" not in address:
        text = "it wants a user and a password: put USER:PASSWORD@ before the host's name"
        return "unauthorized", text
    if status == 401:
        advice = login_advice(address)
        return "unauthorized", "wrong user or password" + (f"; {advice}" if advice else "")
    if status == 403:
        return "unauthorized", "the user has no right to this stream"
    if status in (404, 410):
        return "not_found", f"{at} has no such stream: check the path in the address"
    if status == 461:
        return "unsupported", "the camera does not send this way: try the other `transport`"
    return "failed", f"{at} answers with error {status}"
