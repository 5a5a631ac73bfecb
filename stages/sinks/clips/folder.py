"""The folder of the clips: locked, cleaned up after a crash, and kept within its limits."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.errors import SetupError
from stages.sinks.clips.clip import ClipReport, stamp

NAME = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)_[A-Za-z][A-Za-z0-9_-]*\.(mp4|mov|avi|mkv|webm|jpg|json)")
"""Name of a file that belongs to a clip. No other file in the folder is ever deleted."""
UNFINISHED = "."
"""Prefix of the names of files until their clip is complete."""
LOCK = ".clips.lock"


class ClipFolder:
    """The folder of a sink, and those of streams in it.

    Args:
        folder: folder, as in the settings, with or without {stream}.
        keep_bytes: limit of the size of all clips together.
        keep_days: age in days at which a clip is deleted; None: no limit.
    """

    def __init__(self, folder: str, keep_bytes: int, keep_days: float | None) -> None:
        self._folder, self._keep_bytes, self._keep_days = folder, keep_bytes, keep_days
        self._lock = -1

    def open(self) -> None:
        """Create and lock the folder, and clean up after a crash.

        Raises:
            SetupError: the folder cannot be written, or another run writes clips there.
        """
        root = root_of(self._folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(root / LOCK, flags, 0o666)
        except OSError as error:
            raise SetupError(
                f"folder: cannot write in {str(root)!r} ({error.strerror}); choose another folder"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f"folder: another run writes its clips into {str(root)!r}; choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._recover()

    def close(self) -> None:
        """Release the folder. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def prune(self) -> None:
        """Delete the oldest clips until the others are within the limits.

        Raises:
            OSError: a file cannot be deleted.
        """
        clips: dict[tuple[str, str], list[os.DirEntry[str]]] = {}
        for folder in folders_of(self._folder):
            for entry in os.scandir(folder):
                if NAME.fullmatch(entry.name):
                    clips.setdefault((Path(entry.name).stem, str(folder)), []).append(entry)
        total = sum(_size(entry) for entries in clips.values() for entry in entries)
        oldest = ""
        if self._keep_days is not None:
            oldest = stamp(time.time_ns() - round(self._keep_days * 86400e9))
        for stem, place in sorted(clips):
            if total <= self._keep_bytes and stem >= oldest:
                break
            for entry in sorted(clips[stem, place], key=lambda entry: entry.name, reverse=True):
                total -= _size(entry)
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def _recover(self) -> None:
        """Rename the files of complete clips, and delete those of incomplete ones."""
        for folder in folders_of(self._folder):
            # The report is written last: with it, the clip is complete.
            for unfinished in folder.glob(f"{UNFINISHED}*.json"):
                if NAME.fullmatch(unfinished.name.removeprefix(UNFINISHED)):
                    with suppress(OSError, msgspec.DecodeError):
                        report = msgspec.json.decode(unfinished.read_bytes(), type=ClipReport)
                        names = [report.video, report.snapshot or "", unfinished.name[1:]]
                        finalize(folder, [name for name in names if NAME.fullmatch(name)])
            for entry in list(os.scandir(folder)):
                if entry.name[:1] == UNFINISHED and NAME.fullmatch(entry.name[1:]):
                    with suppress(OSError):
                        os.unlink(entry.path)


def finalize(folder: Path, names: Sequence[str]) -> None:
    """Rename the files of a complete clip, the report last, once they are safe on the disk."""
    for name in names:
        with suppress(FileNotFoundError):  # renamed already, before a crash
            descriptor = os.open(folder / (UNFINISHED + name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for name in names:
        with suppress(FileNotFoundError):
            os.replace(folder / (UNFINISHED + name), folder / name)


def root_of(folder: str) -> Path:
    """Return the folder itself; with {stream} in it, the part before that."""
    root = Path(folder)
    while "{stream}" in str(root):
        root = root.parent
    return root


def folders_of(folder: str) -> Iterator[Path]:
    """Yield every folder that may contain clips of a stream, also of an earlier run."""
    root = root_of(folder)
    rest = str(Path(folder).relative_to(root)) if Path(folder) != root else ""
    if not rest:
        yield root
        return
    for found in root.glob(glob.escape(rest).replace("{stream}", "*")):
        if found.is_dir():
            yield found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
