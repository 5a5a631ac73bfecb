"""Paths that sinks write to: standard output, home folders, checks before the start."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import msgspec

from pipeline.errors import SetupError

STDOUT = "-"
"""As a path: standard output."""
STANDARD_OUTPUT = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def is_standard_output(path: str) -> bool:
    """Return whether a path stands for standard output."""
    return path in STANDARD_OUTPUT


def expand_home(settings: msgspec.Struct, **path: str | None) -> None:
    """Replace a leading `~` or `~user` in a setting by the home folder, if there is one.

    Called in `__post_init__` of the settings, so that every reader of the setting gets one path.

    Args:
        settings: the settings, which are frozen.
        path: settings by their names; None: not set.
    """
    for name, value in path.items():
        if value is not None and value.startswith("~"):
            msgspec.structs.force_setattr(settings, name, _expanded(value))


def check_local(setting: str, path: str) -> None:
    """Refuse an address, and a path below the home folder of a user that does not exist.

    Raises:
        SetupError: it is an address, or there is no such user, or it has no home folder.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise SetupError(
            f"{setting}: expected a path of this machine, found an address; write the name of a "
            "file or folder"
        )
    user, slash, _ = path.partition("/")
    if user.startswith("~") and slash and _expanded(user) == user:
        raise SetupError(
            f"{setting}: no home folder is known for {user!r}; write the whole path, or ./{path}"
        )


def _expanded(path: str) -> str:
    try:
        return os.path.expanduser(path)
    except ValueError:  # no user has a name with a NUL in it
        return path


def check_writable(path: str) -> None:
    """Check that a file can be written. Nothing is created: `open` creates missing folders.

    Of a path with `{stream}` only the part before it is checked.

    Raises:
        SetupError: the path is a directory, or may not be written.
    """
    check_local("path", path)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SetupError(f"path: {path!r} is not valid text") from None
    if "\0" in path:
        raise SetupError(f"path: {path!r} has a NUL character in it; choose another name")
    file = Path(path)
    while "{stream}" in str(file.parent):
        file = file.parent
    try:
        if path.endswith("/") or file.is_dir():
            raise SetupError(f"path: {path!r} is a directory; give the name of a file in it")
        if file.exists():
            if not os.access(file, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            try_folder(file.parent)
    except OSError as error:
        raise SetupError(
            f"path: cannot write {path!r} ({error.strerror}); choose another path"
        ) from None


def try_folder(folder: Path) -> None:
    """Check that files can be created in a folder, or that a missing folder could be created.

    Raises:
        OSError: they cannot.
        ValueError: the name contains a NUL character.
    """
    if "\0" in str(folder):
        raise ValueError("a NUL character in a name")
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    # os.access is not enough: only creating a file shows a read-only or full disk.
    tempfile.TemporaryFile(dir=nearest).close()
