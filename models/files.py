"""Files of a user's, looked at before they are opened: of a known kind, and of a bounded size."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from models.errors import CardError, ModelError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path, kind: str, max_bytes: int, error: type[ModelError]) -> BufferedReader:
    """Open a regular file to read it.

    Nothing else is opened: to open a named pipe waits for whoever writes to it, to read a device
    may never end, and to open one may already change it.

    Args:
        path: of the file.
        kind: its role, for messages: "model", "card".
        max_bytes: that it may have.
        error: raised where it cannot be read.

    Raises:
        ModelError: of the class `error`; missing, no regular file, or too large.
    """
    try:
        _check(path, os.stat(path), kind, max_bytes, error)
        # It may have become something else since: then opening it must not wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as problem:
        raise error(f"{path}: the {kind} cannot be read: {problem.strerror}") from None
    except ValueError:  # a NUL, or a lone surrogate
        raise error(f"{path}: the {kind} cannot be read: no file has such a name") from None
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
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{path}: the {kind} cannot be read: Is a directory")
    for is_kind, what in _KINDS:
        if is_kind(found.st_mode):
            raise error(f"{path}: the {kind} cannot be read: expected a file, found {what}")
    if found.st_size > max_bytes:
        raise error(
            f"{path}: the {kind} is too large (found {found.st_size:,} bytes, at most "
            f"{max_bytes:,})"
        )


def user_path(text: str) -> Path:
    """Make a path of what a user wrote, who may begin it with `~` or `~name`.

    Raises:
        CardError: there is no such home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CardError(
            f"{text}: the home folder is not known; write the path without `~`"
        ) from None
