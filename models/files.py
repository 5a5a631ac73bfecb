"""Users' files, checked before they are opened (regular, of a bounded size), and their folders."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from models.errors import CacheError, CardError, ModelError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""Test for a kind of file -> its name in messages."""


def open_file(path: Path, kind: str, max_bytes: int, error: type[ModelError]) -> BufferedReader:
    """Open a regular file to read it.

    Other kinds are refused: opening a named pipe waits for a writer, reading a device may never
    end, and opening one may already change it.

    Args:
        path: path of the file.
        kind: its role, for messages: "model", "card".
        max_bytes: size limit.
        error: class of the error for a file that cannot be read.

    Raises:
        ModelError: of the class `error`; missing, no regular file, or too large.
    """
    try:
        _check(path, os.stat(path), kind, max_bytes, error)
        # The path may name another file by now: then opening it must not block.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as failure:
        raise error(f"{path}: the {kind} cannot be read: {failure.strerror}") from None
    except ValueError:  # a NUL, or a lone surrogate
        raise error(f"{path}: the {kind} cannot be read: no file can have this name") from None
    file = os.fdopen(fd, "rb")
    try:
        _check(path, os.fstat(fd), kind, max_bytes, error)
    except BaseException:
        file.close()
        raise
    return file


def _check(
    path: Path, found: os.stat_result, kind: str, max_bytes: int, error: type[ModelError]
) -> None:
    """Refuse a file that is not regular, or too large."""
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{path}: the {kind} cannot be read: Is a directory")
    for is_kind, name in _KINDS:
        if is_kind(found.st_mode):
            raise error(f"{path}: the {kind} is not a regular file (found {name})")
    if found.st_size > max_bytes:
        raise error(
            f"{path}: the {kind} is too large (found {found.st_size:,} bytes, at most "
            f"{max_bytes:,})"
        )


def user_path(text: str) -> Path:
    """Make a path of a user's text, which may begin with `~` or `~name`.

    Raises:
        CardError: the home folder of that user is unknown.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CardError(f"{text}: the home folder is unknown; write the path without `~`") from None


def cache_folder() -> Path:
    """Return the folder of downloaded weights and built engines: EYELINE_CACHE, or the user's.

    Raises:
        CacheError: there is no such folder.
    """
    own = os.environ.get("EYELINE_CACHE")
    if own:
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(users or Path.home() / ".cache") / "eyeline"
    except RuntimeError:  # HOME is not set, and the user is not in the system's user database
        raise CacheError(
            "the home folder is unknown, so there is no folder for weights and engines; set "
            "EYELINE_CACHE to a folder"
        ) from None
