"""Sources that a request to the status page may open as a stream.

A client with the token operates the page, but does not own the machine. A source can be a file of
the machine, or a host that only the machine can reach, and a GStreamer pipeline can also write. So
a request may open only the sources that the settings list, and by default they list none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import SetupError
from stages.addresses import PORTS, device_path, parse_source

SCHEMES = (*PORTS, "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
"""Schemes of addresses that can be listed; others can mean files or programs."""

KEYS = (
    *("source", "mode", "loop", "frames", "fps", "width", "height", "backend", "transport"),
    *("stall_timeout_s", "wait", "reconnect", "slots", "max_age_ms", "sequence"),
)
"""Settings of a stream that a request may contain. Only `source` among them names a file, host or
program; a new setting is refused in requests until it is listed here."""

ANY = "*"
"""Stands for any host, part of a host, or port."""

_ENTRY = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\*|[\w*-]+(?:\.[\w*-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>\d{1,5}|\*))?"
    r"(?P<path>/[^\s?#\\]*)?",
    re.IGNORECASE | re.ASCII,
)
# Only addresses that every parser reads in the same way: no user or password with a raw `/` or
# `@`, after which FFmpeg could find another host than this pattern does.
_SOURCE = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?:[^\s/?#@\\\[\]]*@)?"
    r"(?P<host>[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[^\s?#\\@]*)?(?:[?#][^\s\\@]*)?",
    re.IGNORECASE | re.ASCII,
)

_UPWARDS = re.compile(r"(?:/|%2f|%5c)(?:\.|%2e){2}(?:/|%2f|%5c|$)", re.IGNORECASE)
"""`..` as a part of a path, also percent-encoded."""


class NotAllowedError(Exception):
    """A request asks for more than the settings allow; the text is sent to the client."""


class _Address(NamedTuple):
    """An entry of the list that is an address."""

    scheme: str
    host: str
    port: str
    path: str

    def allows(self, source: re.Match[str]) -> bool:
        """Return whether the entry covers an address."""
        scheme = source["scheme"].lower()
        port = source["port"] or str(PORTS.get(scheme, ""))
        return (
            scheme == self.scheme
            and _host_fits(self.host, source["host"].lower())
            and (self.port == ANY or int(port or 0) == int(self.port or 0))
            and _path_fits(self.path, source["path"] or "/")
        )


class AllowedSources:
    """Sources that requests may open.

    Args:
        entries: entries of the settings: addresses, files, folders, cameras of the machine.
        pipelines: whether a request may contain a GStreamer pipeline.

    Raises:
        SetupError: an entry is invalid.
    """

    def __init__(self, entries: Sequence[str], pipelines: bool) -> None:
        self._addresses = [_address(entry) for entry in entries if "://" in entry]
        self._paths = [_path(entry) for entry in entries if "://" not in entry]
        self._pipelines = pipelines

    def __bool__(self) -> bool:
        """Return whether requests may add streams at all."""
        return bool(self._addresses or self._paths or self._pipelines)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that a request may add a stream with these settings.

        Raises:
            NotAllowedError: the source or a setting is not allowed.
        """
        for key in settings:
            if key not in KEYS and not (key == "pipeline" and self._pipelines):
                allows = (
                    "; `pipelines: true` of the web stage allows it" if key == "pipeline" else ""
                )
                raise NotAllowedError(f"{key[:64]!r} cannot be set by a request{allows}")
        if settings.get("pipeline") is None and not self._may_open(settings.get("source")):
            raise NotAllowedError(
                "source: not allowed in a request; add it, or its host or folder, to `sources` of "
                "the web stage"
            )

    def _may_open(self, source: Any) -> bool:
        if isinstance(source, bool) or not isinstance(source, int | str):
            return False
        if "://" in str(source):
            match = _SOURCE.fullmatch(str(source))
            return match is not None and any(entry.allows(match) for entry in self._addresses)
        if not self._paths:
            return False
        try:
            path = _local(source)
        except (OSError, ValueError, RuntimeError):  # NUL, name too long, unknown user after ~
            return False
        return any(path == entry or path.is_relative_to(entry) for entry in self._paths)


def _address(entry: str) -> _Address:
    match = _ENTRY.fullmatch(entry)
    if match is None or match["scheme"].lower() not in SCHEMES:
        raise SetupError(
            "sources: expected SCHEME://HOST:PORT/PATH without user and password, with a scheme of "
            f"{', '.join(SCHEMES)} (found another)"
        )
    host, path = match["host"].lower(), match["path"] or "/"
    if host != ANY and any(ANY in part and part != ANY for part in host.split(".")):
        raise SetupError(f"sources: expected * for a whole part of the host, found {host}")
    scheme = match["scheme"].lower()
    return _Address(scheme, host, match["port"] or str(PORTS.get(scheme, "")), path)


def _path(entry: str) -> Path:
    try:
        return _local(entry)
    except (OSError, ValueError, RuntimeError):
        raise SetupError(
            "sources: expected addresses, paths or numbers of cameras (found another)"
        ) from None


def _local(source: str | int) -> Path:
    """Return the file, folder or device that a source names, with links resolved."""
    named = parse_source(source)
    path = device_path(named) if isinstance(named, int) else Path(named)
    return path.resolve()


def _host_fits(pattern: str, host: str) -> bool:
    if pattern in (ANY, host):
        return True
    if host.startswith("[") and pattern.startswith("["):
        return _ipv6(host) is not None and _ipv6(host) == _ipv6(pattern)
    wanted, given = pattern.split("."), host.split(".")
    if len(wanted) != len(given):
        return False
    if all(part == ANY or part.isdecimal() for part in wanted) and not _is_ipv4(host):
        return False  # 192.168.1.* does not cover a host name such as 192.168.1.evil
    return all(part in (ANY, own) for part, own in zip(wanted, given, strict=True))


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _ipv6(host: str) -> ipaddress.IPv6Address | None:
    try:
        return ipaddress.IPv6Address(host.strip("[]"))
    except ValueError:
        return None


def _path_fits(wanted: str, path: str) -> bool:
    if wanted == "/":
        return True
    if _UPWARDS.search(path):
        return False
    return path == wanted or path.startswith(wanted.rstrip("/") + "/")
