"""Labelled data sets: a format is one file with a reader and a writer, and one line here.

A format is a module with three functions: `is_format(path)` looks at names and heads of files,
`read(path, split)` gives a `DataSet`, and `write(data, folder)` writes one.
"""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Protocol, cast

from models.datasets.base import DataSet
from models.errors import DataError, DataFaults
from models.text import shown

FORMATS = {
    "coco": "models.datasets.coco",
    "yolo": "models.datasets.yolo",
    "voc": "models.datasets.voc",
    "folders": "models.datasets.folders",
    "semantic": "models.datasets.semantic",
    "mot": "models.datasets.mot",
    "cvat": "models.datasets.cvat",
    "label_studio": "models.datasets.label_studio",
    "pennfudan": "models.datasets.pennfudan",
}
"""Name -> module, imported when it is needed. A new format is one file and one line here."""


class Format(Protocol):
    """A module of a format."""

    def is_format(self, path: Path) -> bool:
        """Return whether a file or folder looks as one of this format."""

    def read(self, path: Path, split: str | None) -> DataSet:
        """Read a data set."""

    def write(self, data: DataSet, folder: Path) -> None:
        """Write a data set to a new folder."""


def load(name: str) -> Format:
    """Import the module of a format.

    Raises:
        DataError: there is no such format.
    """
    if name not in FORMATS:
        raise DataError(f"format: unknown (found {name!r}); known formats: {', '.join(FORMATS)}")
    return cast(Format, importlib.import_module(FORMATS[name]))


def read(
    path: Path | str, format: str = "auto", split: str | None = None, keep_faults: bool = False
) -> DataSet:
    """Read a labelled data set.

    Args:
        path: its folder, annotation file, or clip.
        format: a name of `FORMATS`; auto: the only one that fits.
        split: the part to read, such as "val"; None: all.
        keep_faults: whether a data set with wrong files of annotations is returned, with a line for
            each in `faults`, so that `models.datasets.check` lists them beside others.

    Raises:
        DataFaults: files of annotations are wrong; each fault is listed.
        DataError: it is missing or wrong, or no format, or several, fit.
    """
    data = _read(Path(path), format, split)
    if data.faults and not keep_faults:
        raise DataFaults(data.faults)
    return data


def _read(path: Path, format: str, split: str | None) -> DataSet:
    """Read a labelled data set, with its faults."""
    try:
        if not path.exists():
            raise DataError(f"{path}: the data set is not there; name a file or folder")
        return load(recognise(path) if format == "auto" else format).read(path, split)
    except OSError as error:
        raise DataError(f"{path}: the data set cannot be read: {error.strerror}") from None


def write(data: DataSet, folder: Path | str, format: str) -> None:
    """Write a labelled data set to a new folder; images are linked or copied into it.

    Args:
        data: the data set.
        folder: the folder, which is made; one that holds files is refused.
        format: a name of `FORMATS`.

    Raises:
        DataError: the format cannot hold the data set, or the folder cannot be written.
    """
    folder = Path(folder)
    try:
        load(format).write(data, folder)
    except OSError as error:
        raise DataError(f"{folder}: the data set cannot be written: {error.strerror}") from None


def recognise(path: Path) -> str:
    """Return the name of the only format that fits a file or folder.

    Raises:
        DataError: none, or several, fit.
    """
    fit = [name for name in FORMATS if load(name).is_format(path)]
    if len(fit) == 1:
        return fit[0]
    if fit:
        raise DataError(
            f"{path}: several formats of data sets fit (found {', '.join(fit)}); choose one with "
            "`--format NAME`"
        )
    raise DataError(
        f"{path}: no format of data sets fits (looked for {', '.join(FORMATS)}; found "
        f"{_holds(path)}); name one with `--format NAME`"
    )


def _holds(path: Path) -> str:
    """Return a short list of the content of a folder."""
    if not path.is_dir():
        return f"a file {shown(path.suffix, 20)}".strip()
    below = sorted(path.iterdir())
    folders = [f"{entry.name}/" for entry in below if entry.is_dir()]
    kinds = Counter(entry.suffix or entry.name for entry in below if not entry.is_dir())
    files = [f"{count} {kind}" for kind, count in kinds.most_common(3)]
    return shown(", ".join([*folders[:4], *files]) or "nothing", 100)
