"""Address of a webhook, and redirections of it."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from pipeline.errors import SetupError
from pipeline.urls import login_advice


class RefusedError(Exception):
    """The server refuses the messages."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Url(NamedTuple):
    """Address that messages are posted to."""

    is_secure: bool
    host: str
    port: int
    target: str
    """Path and query."""
    authorization: str
    """Value of the header; empty: none."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.is_secure else 80
        port = "" if self.port == usual else f":{self.port}"
        return f"{'https' if self.is_secure else 'http'}://{host}{port}"


def parse_url(text: str) -> Url:
    """Parse an address.

    Raises:
        SetupError: it is no such address; the text is not shown, since it may contain credentials.
    """
    from urllib.parse import unquote_to_bytes, urlsplit

    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    userinfo, _, netloc = parts.netloc.rpartition("@")
    host = parts.hostname or ""
    host = netloc[netloc.lower().find(host) :][: len(host)]  # not in lower case: it names the spool
    is_plain = text.isascii() and text.isprintable() and " " not in text and "@" not in userinfo
    if parts.scheme not in ("http", "https") or not host or not is_plain or not is_host(host):
        advice = login_advice(text)
        raise SetupError(
            "url: expected https://HOST/PATH or http://HOST/PATH, in ASCII"
            + (f"; {advice}" if advice else "")
        )
    is_secure = parts.scheme == "https"
    try:
        port = parts.port if parts.port is not None else 443 if is_secure else 80
    except ValueError:
        port = 0
    if not port:
        raise SetupError("url: expected a port from 1 to 65535; correct it")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authorization = ""
    if userinfo:
        authorization = f"Basic {base64.b64encode(unquote_to_bytes(userinfo)).decode()}"
    return Url(is_secure, host, port, target, authorization)


def is_host(text: str) -> bool:
    """Return whether a text can be the name or the IP address of a host."""
    return re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text) is not None


def follow_redirect(url: Url, location: str, said: str) -> Url:
    """Return the address of a redirection within the same host.

    Args:
        url: address that was requested.
        location: header of the answer.
        said: status of the answer and its text, for messages.

    Raises:
        RefusedError: it leads to another host, or to no address.
    """
    if location.startswith("/") and not location.startswith("//"):
        location = url.origin + location
    try:
        found = parse_url(location)
    except SetupError:
        raise RefusedError(
            308,
            f"answered {said}, without an address to post to; set `url` to the final address",
        ) from None
    if (found.is_secure, found.host.lower(), found.port) != (
        url.is_secure,
        url.host.lower(),
        url.port,
    ):
        raise RefusedError(
            308,
            f"redirects to {found.origin}, which is not followed; if it is right, set `url` to it",
        )
    return found
