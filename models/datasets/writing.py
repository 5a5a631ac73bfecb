"""Files of a data set that is written: nothing is replaced, images are linked or copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from models.datasets.base import DataSet, DataTask
from models.datasets.places import safe_name
from models.errors import DataError


def new_folder(data: DataSet, folder: Path, format: str, tasks: Iterable[DataTask]) -> None:
    """Make the folder of a data set.

    Raises:
        DataError: the format cannot hold its task, or the folder holds files.
    """
    able = tuple(tasks)
    if data.task not in able:
        raise DataError(
            f"{format}: the format holds {' or '.join(able)} (found {data.task}); choose another "
            "with `--format NAME`"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holds = next(folder.iterdir(), None)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be made: {error.strerror}") from None
    if holds is not None:
        raise DataError(f"{folder}: the folder holds files (found {holds.name}); name a new one")


def place(source: Path, folder: Path, name: str) -> None:
    """Put a file into a data set, as a hard link where the file system has it, or as a copy.

    Raises:
        DataError: there is one of its name, its name leaves the folder, or it cannot be copied.
    """
    target = folder / safe_name(name, folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise DataError(f"{target}: two files of the data set would have this name")
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise DataError(f"{target}: {source} cannot be copied: {error.strerror}") from None


def write_file(folder: Path, name: str, content: str | bytes) -> None:
    """Write a file of annotations.

    Raises:
        DataError: there is one of its name, its name leaves the folder, or it cannot be written.
    """
    target = folder / safe_name(name, folder)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise DataError(f"{target}: two files of the data set would have this name") from None
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}") from None


def stem_of(name: str) -> str:
    """Return the name of an image without its suffix."""
    return name[: len(name) - len(Path(name).suffix)]


def decimal(value: float) -> str:
    """Return a number of pixels to a thousandth, without zeros at its end."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
