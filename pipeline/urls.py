"""The part of an address that may be shown: scheme, host, port and a plain path.

Addresses contain credentials in more forms than any list can name: before an @, after a ?, in the
path of some cameras. So only parts that are known to be harmless are shown.
"""

from __future__ import annotations

import os
import re

HIDDEN = "(address hidden)"
"""Shown in place of a text that may be an address without its scheme."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://", re.ASCII)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.*-]*)(?::\d{1,5})?")
_PLAIN_PATH = re.compile(r"/[^\s=@:?#&;%\\]*")
_LOCAL_PATH = re.compile(r"(?:/(?!/)|\.{1,2}/|~/)[^@]*|[^@=:?#]*")

_WORD = r"[^\s'\"<>|]"
_IN_TEXT = re.compile(
    rf"(?P<address>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://(?:.*\S@(?=[\w\[]))?{_WORD}*)"
    rf"|(?P<login>(?<!{_WORD})[^\s'\"<>|/:@][^\s'\"<>|:@]*:{_WORD}*@[\w\[]{_WORD}*)"
    rf"|(?P<query>\?{_WORD}*={_WORD}*)"
    rf"|(?P<pair>(?<![\w-])[\w-]*(?:pass|pw|token|secret)[\w-]*={_WORD}+)",
    re.IGNORECASE,
)

ENCODE = "write # as %23, / as %2F, ? as %3F, @ as %40, % as %25 and a space as %20"
"""Advice about users and passwords in addresses."""


def display_url(address: object) -> str:
    """Return the part of an address that may be shown.

    A path of this machine and the index of a camera are shown whole. A text that is neither, and
    has no scheme, may be an address that was mistyped, and is hidden.

    Args:
        address: address, as the user wrote it.
    """
    text = str(address)
    found = _SCHEME.match(text)
    if found is None:
        is_path = _LOCAL_PATH.fullmatch(text) or os.path.lexists(text)
        return text if is_path else HIDDEN
    shown, rest = found[0], text[found.end() :]
    authority, path = _split(rest)
    host = authority.rpartition("@")[2]
    # An @ further back may end a password with a / in it: what looks like the host is a part of it.
    if "@" in path or not _HOST.fullmatch(host):
        return f"{shown}..."
    return f"{shown}{host}{path if not path or _PLAIN_PATH.fullmatch(path) else '/...'}"


def redact(text: str) -> str:
    """Return a text with `display_url` in place of each address in it.

    For texts of libraries and as a second line of defence in logs. Where an address ends cannot be
    known if its password holds spaces, so all of a line before its last @ is left out.
    """
    return _IN_TEXT.sub(_redacted, text)


def login_advice(address: str) -> str:
    """Return how to write user and password, if some of their characters may end them too early.

    Args:
        address: address, as the user wrote it.

    Returns:
        "" if there is nothing to advise.
    """
    found = _SCHEME.match(address)
    authority, path = _split(address[found.end() :]) if found else ("", "")
    login = authority.rpartition("@")[0]
    if "@" in path or re.search(r"[@\s]|%(?![0-9A-Fa-f]{2})", login):
        return f"in a user or password, {ENCODE}"
    return ""


def is_broken(address: str) -> bool:
    """Return whether an address has an @ that cannot be the end of its login."""
    found = _SCHEME.match(address)
    authority, path = _split(address[found.end() :]) if found else ("", "")
    before = path.rpartition("@")[0]
    return (
        "@" in path and "@" not in authority and ("#" in before or not _HOST.fullmatch(authority))
    )


def display_pipeline(line: str) -> str:
    """Return the names of the elements of a GStreamer pipeline; properties may hold passwords."""
    plain = re.sub(r"\"(?:\\.|[^\"\\])*\"|'[^']*'", "", line)
    if re.search("[\"']", plain):
        return "(pipeline hidden)"
    parts = (part.split(None, 1) for part in re.split(r"\s!\s", f" {plain} "))
    names = [
        part[0] if re.fullmatch(r"[a-z][a-z0-9_]*", part[0]) else "?" for part in parts if part
    ]
    return " ! ".join(names)


def _split(rest: str) -> tuple[str, str]:
    """Split the text after a scheme into authority and rest, at the first / ? # or backslash."""
    end = re.search(r"[/?#\\]", rest)
    return (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])


def _redacted(match: re.Match[str]) -> str:
    text = match[0]
    if match["query"]:
        return "?..."
    if match["pair"]:
        return f"{text.partition('=')[0]}=..."
    plain = text.rstrip(".,;:)]}")
    if "]" not in plain.rpartition("[")[2] and "[" in plain:
        plain = text[: len(plain) + 1]  # the bracket belongs to an IPv6 address
    if match["login"]:
        return HIDDEN + text[len(plain) :]
    return display_url(plain) + text[len(plain) :]
