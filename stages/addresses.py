"""Parts of a source as it is written: index of a webcam, address or path; host, port and login.

Nothing here looks at the disk or the network.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from pipeline.config import is_number
from pipeline.urls import display_url

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Scheme of an address -> port, where the address names none."""

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""Spellings of standard input as a source."""


def parse_source(source: str | int) -> int | str | Path:
    """Return the index of a webcam, an address, or a path."""
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

    The supervisor calls this first, when it checks the settings, so every worker has the number.
    """
    return os.dup(0)


def device_path(source: str | int | Path) -> Path:
    """Return the path of a webcam."""
    return Path(f"/dev/video{source}" if isinstance(source, int) else str(source))


def scheme_of(source: str | int | Path) -> str:
    """Return the scheme of an address in lower case; "" if the source is not an address."""
    scheme, mark, _ = str(source).partition("://")
    return scheme.lower() if mark else ""


def host_of(address: str) -> tuple[str, int | None]:
    """Return host and port of an address, as libraries read it; ("?", None) if it has none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        return parts.hostname or "?", parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return "?", None


def shown_host(address: str) -> tuple[str, str]:
    """Return the host, and the host with its port, as they may be shown.

    In a wrong address the host may be a part of the password; it is "..." then.
    """
    host, port = host_of(display_url(address))
    return host, f"{host}:{port}" if port and host != "..." else host


def lacks_host(source: str | int) -> bool:
    """Return whether the source is an address that needs a host and has none."""
    from urllib.parse import urlsplit

    if scheme_of(source) not in PORTS:
        return False
    try:
        return not urlsplit(str(source)).hostname
    except ValueError:
        return False  # wrong in another way, which is reported when it is opened


def split_login(address: str) -> tuple[str, str | None, str]:
    """Split an address into itself without login, user and password, both decoded.

    Returns:
        Address, user (None: it has no login) and password.
    """
    from urllib.parse import unquote

    scheme, _, rest = address.partition("://")
    host, *path = re.split(r"(?=[/?#])", rest, maxsplit=1)
    login, at, host = host.rpartition("@")
    user, _, password = login.partition(":")
    bare = f"{scheme}://{host}{''.join(path)}"
    return bare, unquote(user) if at else None, unquote(password)
