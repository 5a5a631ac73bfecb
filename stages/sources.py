"""What a source is, by how it is written, and what is said where it does not work.

Whoever reads it, OpenCV or GStreamer, the words are the same: they are for a person at night.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pipeline.urls import display_url, login_advice

Trouble = tuple[str, str]
"""Kind (see `Condition`), and words that do not name the source."""

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Scheme of an address -> port, where the address names none."""


def normal(source: str | int) -> int | str | Path:
    """What a source is: index of a webcam, address, or path."""
    if isinstance(source, int) or source.isdecimal():
        return int(source)
    # Path.expanduser raises where there is no such user, or no home; the name may be a file's.
    return source if "://" in source else Path(os.path.expanduser(source))


def is_device(source: str | int) -> bool:
    """Whether it is a webcam."""
    return isinstance(normal(source), int) or str(source).startswith("/dev/")


def is_recorded(source: str | int) -> bool:
    """Whether it is a file, or a folder of images."""
    return isinstance(normal(source), Path) and not is_device(source)


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


def network_trouble(kind: str, address: str) -> Trouble:
    """That the host of an address is not reached, or is lost."""
    host, at = _shown(address)
    texts = {
        "unknown_host": f"there is no host {host}, or no name server answers",
        "refused": f"nothing listens at {at}: is the camera up, and the port right?",
        "unreachable": f"there is no way to {host}: is the network up?",
        "timeout": f"{at} does not answer",
    }
    text = texts[kind] if host != "..." else "it is not clear where the host begins"
    advice = login_advice(address)
    return kind, f"{text}; {advice}" if advice else text


def _shown(address: str) -> tuple[str, str]:
    """Host, and host with port, as they may be shown: of a wrong address they may be secret."""
    host, port = host_of(display_url(address))
    return host, f"{host}:{port}" if port and host != "..." else host


def refusal(status: int, address: str) -> Trouble:
    """That a server has answered with an error; RTSP and HTTP share their numbers."""
    _, at = _shown(address)
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
