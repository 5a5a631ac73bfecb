"""PASCAL VOC: an XML file per image (VOC2012 development kit, 8.1).

Read are `Annotations/` with `JPEGImages/` and the lists in `ImageSets/Main/`, folders of other
names, and XML files beside their images, also in folders per split. Boxes of VOC count pixels from
1 and include the last one: x1 and y1 become smaller by 1, x2 and y2 stay. An object that is
`difficult` is ignored. Labels are those of `labels.txt` or `labelmap.txt`, or else the names that
are found, sorted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.collect import Box, Collector, Finding
from models.datasets.image_size import IMAGE_SUFFIXES, Size
from models.datasets.places import after_folder, own_labels, safe_name, walk
from models.datasets.reading import number, read_head, read_lines, read_xml
from models.datasets.splits import choose, split_of
from models.datasets.writing import decimal, new_folder, place, stem_of, write_file
from models.errors import DataError
from models.text import shown

_XML_FOLDERS = ("Annotations", "annotations", "labels", "xml", "xmls")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
_CLASS_LIST = re.compile(r".*_(train|val|trainval|test)\Z")
"""Names of lists of one class, such as "cat_val", which also hold the images without it."""
_LOOKED = "JPEGImages/, images/, and the folder of the XML file"
_NO_XML = Finding(
    "image of the split has no XML file, and is left out",
    "images of the split have no XML file, and are left out",
    "the image is in the list of the split, but has no XML file",
    "add it, or remove the line",
)


class _Entry(NamedTuple):
    """An XML file."""

    path: Path
    stem: str
    """Path below the folder of XML files, without its suffix."""
    split: str | None
    """Folder of the split that it is in."""


class _Parsed(NamedTuple):
    size: Size | None
    file_name: str
    objects: list[tuple[str, Box, bool]]
    """Label, box, whether it is difficult."""


def _is_voc(path: Path) -> bool:
    return re.search(rb"<annotation[\s>]", read_head(path)[:4096]) is not None


def _entries(folder: Path) -> Iterator[_Entry]:
    """Yield the XML files of VOC below a folder."""
    for path in walk(folder, {".xml"}):
        if _is_voc(path):
            name = path.relative_to(folder).as_posix()
            stem = name
            for sub in _XML_FOLDERS:
                stem = after_folder(stem, sub)
            yield _Entry(path, stem_of(stem), split_of(name))


def is_format(path: Path) -> bool:
    """Return whether a path is a folder with XML files of VOC below it."""
    return path.is_dir() and next(_entries(path), None) is not None


def read(path: Path, split: str | None) -> DataSet:
    """Read a VOC data set.

    Args:
        path: its folder.
        split: a list in `ImageSets/Main`, or a folder; None: all XML files.

    Raises:
        DataError: it is missing or wrong.
    """
    found = list(_entries(path))
    if not found:
        raise DataError(f"{path}: no XML file of VOC below it (looked for <annotation>)")
    collector = Collector(path, "voc")
    found = _of_split(collector, found, path, split)
    finder = _Finder(path)
    parsed = [
        (entry, image) for entry in found if (image := _parse(collector, entry.path)) is not None
    ]
    labels = list(own_labels(path))
    numbers = {label: n for n, label in reversed(list(enumerate(labels)))}
    for label in sorted({label for _, image in parsed for label, _, _ in image.objects}):
        if label not in numbers:
            numbers[label] = len(labels)
            labels.append(label)
    for entry, image in parsed:
        try:
            file, name = finder.find(entry, image.file_name)
        except DataError as error:
            collector.fault(error)
            continue
        objects = [
            TrueObject(numbers[label], box, ignored=difficult)
            for label, box, difficult in image.objects
        ]
        collector.add(file, name, image.size, objects)
    return collector.finish("detect", labels, _LOOKED)


def _of_split(
    collector: Collector, found: list[_Entry], root: Path, split: str | None
) -> list[_Entry]:
    """Return the XML files of a split."""
    folders = {entry.split for entry in found if entry.split is not None}
    if split is None:
        collector.read_together(sorted(folders))
        return found
    lists = {
        path.stem: path
        for path in walk(root / "ImageSets" / "Main", {".txt"})
        if not _CLASS_LIST.match(path.stem)
    }
    chosen = choose({*lists, *folders}, split, root)
    in_folder = [entry for entry in found if entry.split in chosen]
    if in_folder:
        return in_folder
    by_stem = {entry.stem.rpartition("/")[2]: entry for entry in found}
    by_stem |= {entry.stem: entry for entry in found}
    kept = []
    for _, line in read_lines(lists[chosen[0]], "list of images"):
        # An id may contain blanks only in the lists of a class, which are not read.
        try:
            stem = safe_name(line, lists[chosen[0]])
        except DataError as error:
            collector.fault(error)
            continue
        entry = by_stem.get(stem) or by_stem.get(stem_of(stem))
        if entry is None:
            collector.count(_NO_XML, stem)
        else:
            kept.append(entry)
    return kept


class _Finder:
    """Finds the image of an XML file: by the name of the file, or else by its `filename`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = [root / sub for sub in _IMAGE_FOLDERS if (root / sub).is_dir()]
        self._below: dict[Path, dict[str, str]] = {}

    def find(self, entry: _Entry, file_name: str) -> tuple[Path | None, str]:
        """Return the image, None if it is not there, and its name in the data set."""
        beside = entry.path.parent
        at, _, stem = entry.stem.rpartition("/")
        places = [(folder / at, at) for folder in self._folders]
        if beside.name in _XML_FOLDERS:
            places += [(beside.parent / sub, at) for sub in _IMAGE_FOLDERS]
        places += [(beside, at), *((folder, "") for folder in self._folders if at)]
        for folder, prefix in places:
            if (name := self._names(folder).get(stem)) is not None:
                return folder / name, f"{prefix}/{name}" if prefix else name
        name = safe_name(file_name or f"{entry.stem}.jpg", entry.path)
        for folder, prefix in places:
            if os.path.isfile(folder / name):
                return folder / name, f"{prefix}/{name}" if prefix else name
        return None, name

    def _names(self, folder: Path) -> dict[str, str]:
        """Return the images of a folder: name without its suffix -> name."""
        if folder not in self._below:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._below[folder] = {
                stem_of(name): name
                for name in names
                if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            }
        return self._below[folder]


def _parse(collector: Collector, path: Path) -> _Parsed | None:
    """Read an XML file; None: it is a fault, as objects that are wrong are."""
    try:
        root = read_xml(path)
    except DataError as error:
        collector.fault(error)
        return None
    size = None
    if (stated := root.find("size")) is not None:
        sides = [_side(stated.findtext(side)) for side in ("width", "height")]
        size = (sides[0], sides[1])
    objects = []
    for item in root.iter("object"):
        try:
            objects.append(_object(item, path))
        except DataError as error:
            collector.fault(error)
    return _Parsed(size, (root.findtext("filename") or "").strip(), objects)


def _object(item: Element, path: Path) -> tuple[str, Box, bool]:
    """Return label, box, and whether an object of a file is difficult."""
    label = shown(item.findtext("name") or "", 100)
    if not label:
        raise DataError(f"{path}: an object has no name")
    if (box := item.find("bndbox")) is None:
        raise DataError(f"{path}: an object has no bndbox (found {label})")
    x1, y1, x2, y2 = (
        number(box.findtext(side), f"{path}: {side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = (item.findtext("difficult") or "0").strip() in ("1", "true", "True")
    return label, (x1 - 1, y1 - 1, x2, y2), difficult


def _side(text: str | None) -> int:
    """Return a stated width or height; 0, so that it is read from the image, of anything else."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,7}", text, re.ASCII) else 0


def write(data: DataSet, folder: Path) -> None:
    """Write `Annotations/`, `JPEGImages/`, `ImageSets/Main/default.txt` and `labels.txt`.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "voc", ["detect"])
    for image in data.images:
        place(image.path, folder / "JPEGImages", image.name)
        root = _element(image, data.labels)
        indent(root)
        write_file(folder / "Annotations", f"{stem_of(image.name)}.xml", tostring(root))
    stems = "".join(f"{stem_of(image.name)}\n" for image in data.images)
    write_file(folder, "ImageSets/Main/default.txt", stems)
    write_file(folder, "labels.txt", "".join(f"{label}\n" for label in data.labels))


def _element(image: LabelledImage, labels: tuple[str, ...]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = image.name.rpartition("/")[2]
    size = SubElement(root, "size")
    for tag, side in zip(("width", "height", "depth"), (*image.size, 3), strict=True):
        SubElement(size, tag).text = str(side)
    for item in image.objects:
        element = SubElement(root, "object")
        SubElement(element, "name").text = labels[item.number]
        SubElement(element, "difficult").text = str(int(item.ignored))
        box = SubElement(element, "bndbox")
        x1, y1, x2, y2 = item.box
        tags = ("xmin", "ymin", "xmax", "ymax")
        for tag, value in zip(tags, (x1 + 1, y1 + 1, x2, y2), strict=True):
            SubElement(box, tag).text = decimal(value)
    return root
