"""Penn-Fudan: a text of PASCAL 1.00 per image, and a PNG with the number of an object per pixel.

The text of NAME is `Annotation/NAME.txt`, its image is in `PNGImages/`, `JPEGImages/` or `images/`,
and its PNG is `NAME_mask.png` in `PedMasks/` or `masks/` (Wang, Shi, Song and Shen, "Object
detection combining recognition and segmentation", 2007). Boxes count pixels from 1 and include the
last one, as those of VOC. "PASpersonWalking" is a `person`: the pose is not read. Labels are those
of `labels.txt`, or else the names that are found, sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import mask_of, rle_of_part, text_of
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.collect import Box, Collector, Finding
from models.datasets.image_size import Size
from models.datasets.places import find_first, images_below, own_labels, walk
from models.datasets.reading import read_head, read_text
from models.datasets.semantic import read_class_map
from models.datasets.shapes import BAD_MASK, rle_of_object
from models.datasets.splits import choose
from models.datasets.writing import decimal, new_folder, place, stem_of, write_file
from models.errors import DataError
from models.text import shown

_TEXTS = ("Annotation", "Annotations", "annotation", "annotations")
_IMAGES = ("PNGImages", "JPEGImages", "images", "Images")
_MASKS = ("PedMasks", "masks", "Masks")
_LOOKED = "PNGImages/, JPEGImages/ and images/"
_HEAD = b"PASCAL Annotation Version 1.00"
MAX_TEXT_BYTES = 2**20
MAX_OBJECTS = 255
"""Limit of the objects of an image: a pixel of the PNG is a byte."""
_SIZE = re.compile(r"Image size \(X x Y x C\)\s*:\s*(\d{1,6})\s*x\s*(\d{1,6})\b", re.ASCII)
_BOX = re.compile(
    r'Bounding box for object (?P<number>\d{1,6}) "(?P<label>.*)"[^"]*:\s*'
    r"\((?P<x1>[^,()]*),(?P<y1>[^,()]*)\)\s*-\s*\((?P<x2>[^,()]*),(?P<y2>[^,()]*)\)",
    re.ASCII,
)
_MASK = re.compile(r"Pixel mask for object (\d{1,6})\b", re.ASCII)
_BOX_START = "Bounding box for object"
_LABEL = re.compile(r"PAS([a-z]+)[A-Z]?\w*", re.ASCII)
_NO_MASK = Finding(
    "image has no PNG of its objects, which have no mask",
    "images have no PNG of their objects, which have no mask",
    "the image has no PNG of its objects",
    "add NAME_mask.png",
)


class _Object(NamedTuple):
    """A box of a text."""

    number: int
    """Value of its pixels in the PNG."""
    label: str
    box: Box


class _Parsed(NamedTuple):
    stem: str
    """Name of the image without its suffix."""
    size: Size | None
    objects: list[_Object]
    masked: frozenset[int]
    """Numbers of the objects that have a mask."""


def _texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each text of a data set, and its path below its folder without a suffix."""
    for name in _TEXTS:
        for path in walk(root / name, {".txt"}):
            if _HEAD in read_head(path)[:400]:
                yield path, stem_of(path.relative_to(root / name).as_posix())


def is_format(path: Path) -> bool:
    """Return whether a path is a folder with texts of PASCAL 1.00."""
    return path.is_dir() and next(_texts(path), None) is not None


def read(path: Path, split: str | None) -> DataSet:
    """Read boxes and masks; each PNG is decoded once.

    Args:
        path: its folder.
        split: must be None, since the format has no splits.

    Raises:
        DataError: it is missing or wrong.
    """
    choose([], split, path)
    found = list(_texts(path))
    if not found:
        raise DataError(f"{path}: no text of PASCAL 1.00 (looked in {', '.join(_TEXTS)})")
    collector = Collector(path, "pennfudan")
    images = _images(path)
    parsed = [_parse(collector, file, stem) for file, stem in found]
    labels = list(own_labels(path))
    names = {item.label for text in parsed for item in text.objects}
    labels += sorted(names - set(labels))
    numbers = {label: number for number, label in reversed(list(enumerate(labels)))}
    for text in parsed:
        image, name = images.get(text.stem, (None, text.stem))
        objects = list(_with_masks(collector, path, text, numbers))
        collector.add(image, name, text.size, objects)
    return collector.finish("detect", labels, _LOOKED)


def _images(root: Path) -> dict[str, tuple[Path, str]]:
    """Return the images of a data set: name without its suffix -> file, name."""
    found = {}
    for folder in (root / name for name in reversed(_IMAGES)):
        for file in images_below(folder):
            name = file.relative_to(folder).as_posix()
            found[stem_of(name)] = (file, name)
    return found


def _parse(collector: Collector, path: Path, stem: str) -> _Parsed:
    """Read a text; lines of boxes of another form are faults.

    Args:
        collector: keeps the faults.
        path: its file.
        stem: name of its image without a suffix.
    """
    try:
        text = read_text(path, "annotation file", MAX_TEXT_BYTES)
    except DataError as error:
        collector.fault(error)
        text = ""
    size = _SIZE.search(text)
    masked = frozenset(map(int, _MASK.findall(text)))
    objects = []
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip().startswith(_BOX_START):
            try:
                objects.append(_object(content, f"{path}: line {line}"))
            except DataError as error:
                collector.fault(error)
    return _Parsed(stem, None if size is None else (int(size[1]), int(size[2])), objects, masked)


def _object(content: str, where: str) -> _Object:
    """Return the box of a line."""
    found = _BOX.search(content)
    if found is None:
        raise DataError(
            f"{where}: not a box of PASCAL 1.00 (found {shown(content, 80)!r}); write `: (xmin, "
            "ymin) - (xmax, ymax)`"
        )
    try:
        x1, y1, x2, y2 = (float(found[side]) for side in ("x1", "y1", "x2", "y2"))
    except ValueError:
        raise DataError(
            f"{where}: a side of the box is not a number (found {shown(content, 80)!r})"
        ) from None
    label = _LABEL.fullmatch(found["label"])
    name = shown(found["label"] if label is None else label[1], 100)
    if not name:
        raise DataError(f"{where}: an object has no name; write a label in quotes")
    return _Object(int(found["number"]), name, (x1 - 1, y1 - 1, x2, y2))


def _with_masks(
    collector: Collector, root: Path, text: _Parsed, numbers: dict[str, int]
) -> Iterator[TrueObject]:
    """Yield the objects of an image, with their masks where the PNG has them."""
    values = None
    if text.objects:
        values = _mask_values(collector, root, text)
    for item in text.objects:
        plain = TrueObject(numbers[item.label], item.box)
        if values is not None:
            rows, columns = np.nonzero(values == item.number)
            if len(rows):
                yield _with_mask(plain, values == item.number, rows, columns)
                continue
            if item.number in text.masked:
                collector.count(BAD_MASK, text.stem)
        yield plain


def _mask_values(collector: Collector, root: Path, text: _Parsed) -> NDArray[np.int16] | None:
    """Return the PNG of an image, (H, W); None: there is none, or it is wrong."""
    path = find_first([root / name for name in _MASKS], f"{text.stem}_mask.png")
    if path is None:
        if text.masked:
            collector.count(_NO_MASK, text.stem)
        return None
    try:
        values = read_class_map(path)
    except DataError:
        collector.count(BAD_MASK, text.stem)
        return None
    if text.size is not None and values.shape != text.size[::-1]:
        collector.count(BAD_MASK, text.stem)
        return None
    return values


def _with_mask(
    plain: TrueObject,
    inside: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> TrueObject:
    """Return an object with the mask of its pixels, at some rows and columns."""
    height, width = inside.shape
    left, top = int(columns.min()), int(rows.min())
    part = inside[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    rle = rle_of_part(part, left, top, height, width)
    return TrueObject(plain.number, plain.box, area_px=float(len(rows)), mask=text_of(rle.counts))


def write(data: DataSet, folder: Path) -> None:
    """Write `Annotation/`, `images/`, `masks/` and `labels.txt`; ignored objects are left out.

    Where masks overlap, the later object has the pixels. Sides of boxes that are no whole numbers
    are written as they are.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "pennfudan", ["detect"])
    for label in data.labels:
        if _LABEL.fullmatch(label):
            raise DataError(f"{folder}: a label cannot be written (found {label!r}); rename it")
    for image in data.images:
        stem = stem_of(image.name)
        place(image.path, folder / "images", image.name)
        kept = [item for item in image.objects if not item.ignored]
        if len(kept) > MAX_OBJECTS:
            raise DataError(
                f"{folder}: an image has more than {MAX_OBJECTS} objects (found {len(kept)}, "
                f"{image.name})"
            )
        write_file(folder / "Annotation", f"{stem}.txt", _text(data, image, kept))
        if any(item.mask for item in kept):
            write_file(folder / "masks", f"{stem}_mask.png", _png(image, kept))
    write_file(folder, "labels.txt", "".join(f"{label}\n" for label in data.labels))


def _text(data: DataSet, image: LabelledImage, objects: list[TrueObject]) -> str:
    """Return the text of an image."""
    width, height = image.size
    names = " ".join(f'"{data.labels[item.number]}"' for item in objects)
    lines = [
        "# Compatible with PASCAL Annotation Version 1.00",
        f'Image filename : "images/{image.name}"',
        f"Image size (X x Y x C) : {width} x {height} x 3",
        f"Objects with ground truth : {len(objects)} {{ {names} }}",
        "# Top left pixel co-ordinates : (1, 1)",
    ]
    for number, item in enumerate(objects, 1):
        x1, y1, x2, y2 = (decimal(side) for side in _from_one(item.box))
        lines.append(
            f'{_BOX_START} {number} "{data.labels[item.number]}" (Xmin, Ymin) - (Xmax, Ymax) : '
            f"({x1}, {y1}) - ({x2}, {y2})"
        )
        if item.mask:
            name = f"masks/{stem_of(image.name)}_mask.png"
            lines.append(f'Pixel mask for object {number} : "{name}"')
    return "".join(f"{line}\n" for line in lines)


def _from_one(box: Box) -> Box:
    """Return a box that counts pixels from 1 and includes the last one."""
    x1, y1, x2, y2 = box
    return x1 + 1, y1 + 1, x2, y2


def _png(image: LabelledImage, objects: list[TrueObject]) -> bytes:
    """Return the PNG with the number of an object, from 1, per pixel."""
    import cv2

    values = np.zeros(image.size[::-1], np.uint8)
    for number, item in enumerate(objects, 1):
        if item.mask:
            values[mask_of(rle_of_object(item, image.size)) > 0] = number
    encoded = cv2.imencode(".png", values)[1]
    return encoded.tobytes()
