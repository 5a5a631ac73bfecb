"""Places of images: names from annotation files never lead out of the data set."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from models.datasets.image_size import IMAGE_SUFFIXES
from models.datasets.reading import read_lines
from models.errors import DataError
from models.text import shown

VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"))
MAX_DEPTH = 16
LABEL_FILES = ("classes.txt", "labels.txt", "obj.names")
"""Files with the name of a class per line, in the folder of a data set."""

_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(text: str, where: object) -> str:
    """Return a name from an annotation file as a relative path with `/`.

    Args:
        text: the name as the file has it; `\\` separates folders too.
        where: the file, for the message.

    Raises:
        DataError: it is absolute, or leads out of the data set.
    """
    name = posixpath.normpath(text.replace("\\", "/"))
    hostile = name.startswith(("/", "../")) or name in ("", ".", "..") or "\0" in name
    if hostile or _DRIVE.match(name):
        raise DataError(
            f"{where}: the name of a file leaves the data set (found {text!r}); write a path "
            "relative to the folder of images"
        )
    return name


def find_first(folders: Iterable[Path], name: str) -> Path | None:
    """Return the first file of a name in a list of folders."""
    for folder in folders:
        path = f"{folder}/{name}"
        if os.path.isfile(path):
            return Path(path)
    return None


def entries(folder: Path, suffix: str = "") -> list[Path]:
    """Return the entries of a folder, sorted, without hidden ones; none if there is no folder.

    Args:
        folder: the folder.
        suffix: end of their names, in lower case.
    """
    return [folder / name for name in _names(folder) if name.lower().endswith(suffix)]


def _names(folder: Path) -> list[str]:
    """Return the names of the entries of a folder, sorted, without hidden ones."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
    return [name for name in names if not name.startswith(".")]


def folders_of(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted."""
    return [path for path in entries(folder) if os.path.isdir(path)]


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files below a folder with one of some suffixes, sorted in each folder.

    Links to folders are followed, each folder once.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, 0)]
    while waiting:
        at, depth = waiting.pop()
        try:
            found = os.stat(at)
        except (OSError, ValueError):
            continue
        if (found.st_dev, found.st_ino) in seen or depth > MAX_DEPTH:
            continue
        seen.add((found.st_dev, found.st_ino))
        below = []
        for entry in _scan(at):
            if os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
                yield at / entry.name
            elif entry.is_dir():
                below.append((at / entry.name, depth + 1))
        waiting += reversed(below)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder with their kinds, sorted, without hidden ones."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                (entry for entry in found if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError:
        return []


def images_below(folder: Path) -> list[Path]:
    """Return the images below a folder."""
    return list(walk(folder, IMAGE_SUFFIXES))


def is_image(path: Path) -> bool:
    """Return whether a file is called as an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def has_images(folder: Path) -> bool:
    """Return whether a folder itself holds an image."""
    return any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in _names(folder))


def after_folder(name: str, folder: str) -> str:
    """Return the part of a relative path after the last folder of a name, or all of it."""
    parts = PurePosixPath(name).parts
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == folder:
            return "/".join(parts[at + 1 :])
    return name


def own_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels that a file in the folder of a data set lists, one a line.

    The label map of CVAT (`labelmap.txt`: "name:colour:parts:actions") is read too, without its
    background.
    """
    path = find_first([folder], "labelmap.txt")
    if path is not None:
        lines = [text for _, text in read_lines(path, "list of labels") if text[0] != "#"]
        names = [shown(line.split(":")[0], 100) for line in lines]
        return tuple(name for name in names if name != "background")
    for name in LABEL_FILES:
        path = find_first([folder], name)
        if path is not None:
            return tuple(shown(text, 100) for _, text in read_lines(path, "list of labels"))
    return ()
