"""Splits of a data set: the parts for training, validation and tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from models.errors import DataError
from models.text import shown

_SAME = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))
"""Names of the same split."""

SPLITS = frozenset(name for names in _SAME for name in names)
"""Names of folders that are splits."""


def split_of(name: str) -> str | None:
    """Return the first folder of a relative path that is a split; None: there is none."""
    for part in PurePosixPath(name).parts[:-1]:
        if part.lower() in SPLITS:
            return part
    return None


def choose(found: Iterable[str], wanted: str | None, where: object) -> list[str]:
    """Return the splits to read, sorted.

    Args:
        found: the splits that are there.
        wanted: the one to read, also by another usual name of it; None: all of them.
        where: the data set, for the message.

    Raises:
        DataError: the split is not there.
    """
    names = sorted(set(found))
    if wanted is None or wanted in names:
        return names if wanted is None else [wanted]
    for same in _SAME:
        if wanted in same:
            match = [name for name in names if name.lower() in same]
            if match:
                return match
    if not names:
        raise DataError(f"{where}: there are no splits (found none of {wanted!r}); name no split")
    there = ", ".join(shown(name, 40) for name in names[:8])
    raise DataError(f"{where}: there is no split {wanted!r} (found {there}); name one of them")
