"""The YAML file of a YOLO data set: names of classes, and the images of its splits."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from models.datasets.places import entries, folders_of, images_below, is_image
from models.datasets.reading import read_head, read_lines, read_yaml
from models.datasets.splits import SPLITS, split_of
from models.errors import DataError
from models.text import shown

_KEYS = ("train", "val", "valid", "test")
MAX_NAMES = 100_000
MAX_KEYPOINTS = 10_000
_USUAL = ("data.yaml", "data.yml", "dataset.yaml")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a YAML file."""

    root: Path = Path()
    """Folder that the paths are relative to."""
    names: tuple[str, ...] = ()
    splits: dict[str, list[Path]] = {}
    """Split -> its images; splits that are not there are left out."""
    stated: dict[str, str] = {}
    """Split -> its text in the file."""
    keypoints: tuple[int, int] | None = None
    """Number of keypoints after the box of a line, and numbers of each, 2 or 3; None: a line is a
    box or a polygon."""


def is_yaml(path: Path) -> bool:
    """Return whether a file is a YAML file with names of classes or splits."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    keys = set(re.findall(rb"^[\"']?(\w+)[\"']?\s*:", read_head(path), re.MULTILINE))
    return b"names" in keys or {b"train", b"val"} <= keys


def find_yaml(folder: Path) -> Path | None:
    """Return the YAML file of a folder.

    Raises:
        DataError: there are several, and none has a usual name.
    """
    found = [path for path in entries(folder) if path.is_file() and is_yaml(path)]
    for name in _USUAL:
        if folder / name in found:
            return folder / name
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise DataError(f"{folder}: several YAML files of YOLO (found {names}); give one of them")
    return found[0] if found else None


def read_settings(path: Path) -> Settings:
    """Read a YAML file, and list the images of its splits.

    Raises:
        DataError: it is wrong, or a path leaves the data set.
    """
    values = read_yaml(path)
    names = _names(path, values)
    stated = {key: values[key] for key in _KEYS if values.get(key)}
    # Absolute: a relative root such as `.` would hold every path, even one that leads up.
    root = here = Path(os.path.abspath(path.parent))
    if (own := values.get("path")) is not None:
        root = Path(os.path.normpath(here / str(own)))
        if not os.path.isdir(root):  # the data set has been moved
            root = here
    splits = {}
    for key, value in stated.items():
        images = _images(path, root, value if isinstance(value, list) else [value])
        if images is not None:
            splits[key] = images
    return Settings(
        root=root,
        names=names,
        splits=splits,
        stated={key: shown(value, 60) for key, value in stated.items()},
        keypoints=_keypoints(path, values.get("kpt_shape")),
    )


def _keypoints(path: Path, value: object) -> tuple[int, int] | None:
    """Return the number of keypoints, and of numbers of each."""
    if value is None:
        return None
    match value:
        case [int(points), 2 | 3 as columns] if 0 < points <= MAX_KEYPOINTS:
            return points, columns
    raise DataError(
        f"{path}: kpt_shape: not the number of points and 2 or 3 (found {shown(value, 40)}); "
        "write `kpt_shape: [17, 3]`"
    )


def _names(path: Path, values: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes; numbers where only the number of classes is stated."""
    names = values.get("names")
    if isinstance(names, list):
        return tuple(shown(name, 100) for name in names)
    if isinstance(names, dict):
        try:
            by_number = {int(key): shown(name, 100) for key, name in names.items()}
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{path}: names: a key is not a number; write `0: person`") from None
        if by_number and not 0 <= min(by_number) <= max(by_number) < MAX_NAMES:
            raise DataError(f"{path}: names: a number is out of bounds (found {max(by_number)})")
        return tuple(by_number.get(n, str(n)) for n in range(max(by_number, default=-1) + 1))
    if names is not None:
        raise DataError(f"{path}: names: not a list or mapping (found {shown(names, 40)!r})")
    count = values.get("nc")
    if isinstance(count, int) and 0 < count <= MAX_NAMES:
        return tuple(str(n) for n in range(count))
    return ()


def _images(path: Path, root: Path, values: list[Any]) -> list[Path] | None:
    """Return the images of a split: folders or lists; None: none of them is there."""
    images: list[Path] = []
    there = False
    for value in values:
        place = _place(path, root, str(value))
        if os.path.isdir(place):
            there = True
            images += images_below(place)
        elif os.path.isfile(place):
            there = True
            images += _listed(place, root)
    return images if there else None


def _place(path: Path, root: Path, value: str) -> Path:
    """Return the place of a folder or list; it may be absolute, but not lead up out of the root."""
    place = Path(os.path.normpath(root / value))
    if Path(value).is_absolute() or place.is_relative_to(root):
        return place
    # Roboflow writes ../train/images for the folder beside its data.yaml.
    inner = Path(os.path.normpath(root / value.removeprefix("../")))
    if inner.is_relative_to(root) and os.path.exists(inner):
        return inner
    raise DataError(
        f"{path}: a split leaves the data set (found {value!r}); state its root with `path`"
    )


def _listed(file: Path, root: Path) -> list[Path]:
    """Return the images of a list; `./` is the folder of the list, as in YOLO's own reader."""
    images = []
    here = Path(os.path.abspath(file.parent))
    for line, text in read_lines(file, "list of images"):
        base = here if text.startswith("./") else root
        image = Path(os.path.normpath(base / text.replace("\\", "/")))
        if not (image.is_relative_to(root) or image.is_relative_to(here)) or "\0" in text:
            raise DataError(
                f"{file}: line {line}: an image outside the data set (found {text!r}); state the "
                "root with `path` in data.yaml"
            )
        if not is_image(image):
            raise DataError(f"{file}: line {line}: not the name of an image (found {text!r})")
        images.append(image)
    return images


def plain(root: Path) -> dict[str, list[Path]]:
    """Return the images of each split of a folder without YAML file; "": there are no splits."""
    has_folder = (root / "images").is_dir() or any(
        (folder / "images").is_dir() for folder in folders_of(root)
    )
    splits: dict[str, list[Path]] = {}
    for image in images_below(root):
        name = image.relative_to(root).as_posix()
        if has_folder and "images" not in name.split("/")[:-1]:
            continue
        splits.setdefault(_split(name), []).append(image)
    if set(splits) != {""} and "" in splits:
        # Some images are in no split: then the folders are no splits, but a part of the names.
        return {"": [image for images in splits.values() for image in images]}
    return splits or {"": []}


def _split(name: str) -> str:
    """Return the split of an image: a folder of a usual name, or one such as `train2017`."""
    usual = split_of(name)
    if usual is not None:
        return usual
    for part in name.split("/")[:-1]:
        if re.sub(r"[0-9]+\Z", "", part.lower()) in SPLITS:
            return part
    return ""
