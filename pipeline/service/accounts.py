"""The account of the service: a user of its own, or the owner of the files it has to read."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.config import ROOT
from pipeline.errors import SetupError

HOMES = ("/home", "/root", "/run/user")
HIDDEN = ("/tmp", "/var/tmp")
"""Folders that the service does not see, as it has its own (PrivateTmp)."""


class Account(msgspec.Struct, frozen=True):
    """The user that runs the service."""

    user: str
    """User name; empty: a user that exists only while the service runs (DynamicUser)."""
    home: bool
    """Whether a file that it reads is in a home folder."""


def account_for(paths: Sequence[Path]) -> Account:
    """Return the account that can read some files: a user of its own, or their owner.

    Raises:
        SetupError: neither can.
    """
    for path in paths:
        if any(_is_below(path, folder) for folder in HIDDEN):
            raise SetupError(
                f"{path}: the service does not see /tmp; move it, to /opt or /etc for example"
            )
    home = any(_is_below(path, folder) for path in paths for folder in HOMES)
    barred = _barred(paths, -1, frozenset())
    if barred is None:
        return Account("", home)
    owner = (ROOT / "run.py").stat().st_uid
    if owner:
        user = _user_of(owner)
        groups = frozenset(os.getgrouplist(user.pw_name, user.pw_gid)) if user else frozenset()
        barred = _barred(paths, owner, groups) if user else barred
        if user is not None and barred is None:
            return Account(user.pw_name, home)
    reader = "a service" if not owner else f"neither a user of its own nor {user_name(owner)}"
    raise SetupError(
        f"{barred}: {reader} can{'not' * (not owner)} read it; install Eyeline where others can "
        f"read it (/opt/eyeline), or allow it with chmod o+rX {barred}"
    )


def _barred(paths: Sequence[Path], uid: int, gids: frozenset[int]) -> Path | None:
    """Return the first file, or folder on its path, that a user cannot read or pass."""
    for path in paths:
        # Both paths: a link in one folder may lead to a file in another.
        for way in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):
            for part in (*reversed(way.parents), way):
                if not _may(part, uid, gids, stat.S_IXOTH if part != way else stat.S_IROTH):
                    return part
    return None


def _may(path: Path, uid: int, gids: frozenset[int], bit: int) -> bool:
    try:
        held = path.stat()
    except OSError:
        return False
    shift = 6 if held.st_uid == uid else 3 if held.st_gid in gids else 0
    return bool(held.st_mode & (bit << shift))


def _is_below(path: Path, folder: str) -> bool:
    return any(Path(way).is_relative_to(folder) for way in (path, os.path.realpath(path)))


def user_name(uid: int) -> str:
    """Return the name of a user id, or the number itself."""
    user = _user_of(uid)
    return str(uid) if user is None else user.pw_name


def _user_of(uid: int) -> pwd.struct_passwd | None:
    """Return the account of a user id, if it has one."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None
