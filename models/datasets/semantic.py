"""Maps of classes: `images/` with photos and `masks/` with a PNG of the same name for each.

A pixel of a PNG is the number of its class, in grey or with a palette; 255 is a pixel that does not
count. Both folders may be in one folder per split, or hold one each. `classes.txt` or `labels.txt`
has a label per line; without it, the numbers are the labels.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import MAX_PIXELS
from models.datasets.base import DataSet
from models.datasets.collect import Collector, Finding
from models.datasets.places import folders_of, has_images, images_below, own_labels, walk
from models.datasets.splits import SPLITS, choose
from models.datasets.writing import new_folder, place, stem_of, write_file
from models.errors import DataError
from models.files import open_file

IGNORED = 255
"""Value of a pixel that does not count."""
MAX_MAP_BYTES = 256 * 2**20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
"""Colour types of PNG with one number per pixel."""
_LOOKED = "images/, SPLIT/images/ and images/SPLIT/"
_NO_MAP = Finding(
    "image has no PNG of its name in masks/, and is left out",
    "images have no PNG of their name in masks/, and are left out",
    "the image has no PNG of its name in masks/",
    "add it, or remove the image",
)


def _splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks of each split; "": there are no splits."""
    images, masks = root / "images", root / "masks"
    if images.is_dir() and masks.is_dir():
        below = {folder.name for folder in folders_of(images)}
        if below and below <= SPLITS and not has_images(images):
            return {name: (images / name, masks / name) for name in sorted(below)}
        return {"": (images, masks)}
    return {
        folder.name: (folder / "images", folder / "masks")
        for folder in folders_of(root)
        if (folder / "images").is_dir() and (folder / "masks").is_dir()
    }


def is_format(path: Path) -> bool:
    """Return whether a path is a folder with images and masks, and no labels of YOLO."""
    if not path.is_dir() or (path / "labels").is_dir():
        return False
    for images, masks in _splits(path).values():
        stems = {stem_of(image.relative_to(images).as_posix()) for image in images_below(images)}
        for mask in walk(masks, {".png"}):
            if stem_of(mask.relative_to(masks).as_posix()) in stems:
                return True
    return False


def read(path: Path, split: str | None) -> DataSet:
    """Read a data set of maps; each map is decoded once, where no file lists the labels.

    Args:
        path: its folder.
        split: a split; None: all.

    Raises:
        DataError: it is missing or wrong.
    """
    splits = _splits(path)
    chosen = [""] if "" in splits and split is None else choose(filter(None, splits), split, path)
    collector = Collector(path, "semantic")
    collector.read_together(chosen)
    labels = own_labels(path)
    highest = -1
    for name in chosen:
        images, masks = splits[name]
        for image in images_below(images):
            own = image.relative_to(images)
            class_map = masks / own.with_suffix(".png")
            if not os.path.isfile(class_map):
                collector.count(_NO_MAP, own.as_posix())
                continue
            if not labels:
                try:
                    values = read_class_map(class_map)
                except DataError as error:
                    collector.fault(error)
                    continue
                highest = max(highest, int(values.max(initial=-1, where=values != IGNORED)))
            shown = f"{name}/{own.as_posix()}" if len(chosen) > 1 else own.as_posix()
            collector.add(image, shown, None, (), (), class_map)
    return collector.finish("semantic", labels or map(str, range(highest + 1)), _LOOKED)


def read_class_map(path: Path) -> NDArray[np.int16]:
    """Read a map of classes, (H, W); `IGNORED`: the pixel does not count.

    Raises:
        DataError: it cannot be read, or is no PNG of at most one byte per pixel.
    """
    import cv2

    with open_file(path, "map of classes", MAX_MAP_BYTES, DataError) as file:
        data = file.read(MAX_MAP_BYTES)
    head = struct.unpack_from(">II2B", data, len(_SIGNATURE) + 8) if len(data) > 40 else None
    if head is None or not data.startswith(_SIGNATURE):
        raise DataError(f"{path}: not a PNG; save the classes as PNG, in grey or with a palette")
    width, height, depth, colour = head
    if colour not in (_GREY, _PALETTE) or depth > 8:
        raise DataError(
            f"{path}: not the number of a class for each pixel (found colour type {colour}, "
            f"{depth} bits); save it as a PNG in grey, or with a palette"
        )
    values = None
    if 0 < width * height <= MAX_PIXELS:
        try:
            encoded = np.frombuffer(_as_grey(data), np.uint8)
            values = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        except cv2.error:
            values = None
    if values is None or values.ndim != 2:
        raise DataError(f"{path}: the map of classes cannot be decoded; save it again as PNG")
    # OpenCV spreads values of fewer bits over a byte.
    numbers: NDArray[np.int16] = (values // (255 // (2**depth - 1))).astype(np.int16)
    return numbers


def _as_grey(data: bytes) -> bytes:
    """Return a PNG whose numbers of a palette are grey values, since OpenCV gives colours else.

    Both hold one number per pixel in the same way (W3C, PNG specification, section 11.2).
    """
    parts, at = [_SIGNATURE], len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            content = content[:9] + bytes([_GREY]) + content[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            check = struct.pack(">I", zlib.crc32(kind + content))
            parts.append(struct.pack(">I", len(content)) + kind + content + check)
    return b"".join(parts)


def write(data: DataSet, folder: Path) -> None:
    """Write `images/`, `masks/` and `classes.txt`.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "semantic", ["semantic"])
    for image in data.images:
        if image.class_map is None:
            raise DataError(f"{folder}: an image has no map of classes (found {image.name})")
        place(image.path, folder / "images", image.name)
        place(image.class_map, folder / "masks", f"{stem_of(image.name)}.png")
    write_file(folder, "classes.txt", "".join(f"{label}\n" for label in data.labels))
