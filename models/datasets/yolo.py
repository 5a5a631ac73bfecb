"""YOLO: a text file per image with lines `class cx cy width height`, as fractions of the image.

Read are a `data.yaml` with the folders, or lists, of its splits, and folders without one:
`images/` with `labels/`, also in folders per split, or labels beside the images. A longer line is
a polygon, which is the mask of an object, and with four corners its rotated box too; with
`kpt_shape` in `data.yaml`, it is a box and keypoints. A sixth number is a score, which is not read.
An image without a file of labels has no objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.boxes.rotated import corners_of
from models.datasets.base import DataSet, TrueObject
from models.datasets.collect import Box, Collector, Finding, hull
from models.datasets.image_size import Size, read_size
from models.datasets.places import (
    LABEL_FILES,
    after_folder,
    entries,
    folders_of,
    is_image,
    own_labels,
    walk,
)
from models.datasets.reading import number, read_head, read_lines, whole
from models.datasets.shapes import BAD_MASK, is_polygon, points_of, rotated_of
from models.datasets.splits import SPLITS, choose
from models.datasets.writing import new_folder, place, stem_of, write_file
from models.datasets.yolo_yaml import Settings, find_yaml, is_yaml, plain, read_settings
from models.errors import DataError

MAX_CLASSES = 100_000
MAX_HULL_PX = 1.0
"""Largest distance of a side of the box from the hull of a polygon that is written for it."""
_LOOKED = "the folders and lists of data.yaml, or images/"
_NO_IMAGE = Finding(
    "file of labels has no image, and is left out",
    "files of labels have no image, and are left out",
    "the file of labels has no image",
    "add an image of its name, or remove it",
)
_NOT_THERE = Finding(
    "YAML file has splits that are not there, so all images are read",
    "YAML files have splits that are not there, so all images are read",
)


def is_format(path: Path) -> bool:
    """Return whether a path is a YAML file of YOLO, or a folder with one, or with labels."""
    if not path.is_dir():
        return is_yaml(path)
    if any(map(is_yaml, entries(path))):
        return True
    below = folders_of(path)
    splits = [folder for folder in below if folder.name.lower() in SPLITS]
    for folder in (path, *splits):
        if (folder / "labels").is_dir() and (folder / "images").is_dir():
            return next(walk(folder / "labels", {".xml", ".json"}), None) is None
    return any(_has_labels(folder) for folder in (path, *splits))


def _has_labels(folder: Path) -> bool:
    """Return whether a folder holds an image with a file of labels beside it."""
    found = entries(folder)
    stems = {path.stem for path in found if is_image(path)}
    for path in found:
        if path.suffix == ".txt" and path.stem in stems:
            line = read_head(path)[:400].split(b"\n")[0].split()
            if len(line) >= 5 and all(_is_number(text) for text in line):
                return True
    return False


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read(path: Path, split: str | None) -> DataSet:
    """Read a YOLO data set.

    Args:
        path: a YAML file, or a folder.
        split: a split of the YAML file, or a folder; None: all.

    Raises:
        DataError: it is missing or wrong.
    """
    collector = Collector(path, "yolo")
    file = find_yaml(path) if path.is_dir() else path
    settings = Settings() if file is None else read_settings(file)
    splits = settings.splits
    root = path if file is None else settings.root
    if not splits:
        if not path.is_dir():
            raise DataError(
                f"{path}: none of its splits is there (found {_stated(settings)}); correct `path`"
            )
        if file is not None and settings.stated:
            collector.count(_NOT_THERE, file.name)
        root = path
        splits = plain(path)
    chosen = choose(filter(None, splits), split, path) if split or "" not in splits else [""]
    images = list(dict.fromkeys(image for name in chosen for image in splits[name]))
    if len(images) > max((len(splits[name]) for name in chosen), default=0):
        collector.read_together(chosen)
    labels = settings.names or own_labels(path if path.is_dir() else path.parent)
    limit = len(labels) or MAX_CLASSES
    highest = -1
    for image, name in zip(images, _names(images, root), strict=True):
        found = image if os.path.isfile(image) else None
        size = None if found is None else read_size(image)
        own = () if size is None else _objects(image, size, settings.keypoints, limit, collector)
        objects = list(own)
        highest = max((highest, *(item.number for item in objects)))
        collector.add(found, name, size, objects)
    _count_lost_labels(collector, images)
    return collector.finish("detect", labels or [str(n) for n in range(highest + 1)], _LOOKED)


def _stated(settings: Settings) -> str:
    return ", ".join(f"{name}: {value}" for name, value in settings.stated.items()) or "none"


def _count_lost_labels(collector: Collector, images: Sequence[Path]) -> None:
    """Count the files of labels without an image, in the folders `labels` of some images."""
    for folder in sorted({image.parent for image in images}):
        above, last, below = f"{folder}/".rpartition("/images/")
        if not last:  # other texts may be beside images
            continue
        labels = Path(f"{above}/labels/{below}")
        stems = {file.stem for file in entries(folder) if is_image(file)}
        for file in entries(labels, ".txt"):
            if file.stem not in stems and file.name not in LABEL_FILES:
                collector.count(_NO_IMAGE, f"{labels.name}/{file.name}")


def _names(images: Sequence[Path], root: Path) -> list[str]:
    """Return a unique name for each image: its path below `images/`, or below the root."""
    whole_names = []
    for image in images:
        try:
            whole_names.append(image.relative_to(root).as_posix())
        except ValueError:  # a folder elsewhere, which data.yaml names
            whole_names.append(image.as_posix().lstrip("/"))
    short = [after_folder(name, "images") for name in whole_names]
    return short if len(set(short)) == len(short) else whole_names


def _label_file(image: Path) -> Path:
    """Return the file of labels: `images` replaced by `labels` where it comes last, or beside."""
    folder, last, below = str(image).rpartition("/images/")
    if last:
        swapped = Path(f"{folder}/labels/{below}").with_suffix(".txt")
        if os.path.isfile(swapped):
            return swapped
    return image.with_suffix(".txt")


def _objects(
    image: Path,
    size: Size,
    keypoints: tuple[int, int] | None,
    classes: int,
    collector: Collector,
) -> Iterator[TrueObject]:
    """Yield the objects of an image; their boxes may be bad, and lines that are wrong are faults.

    Args:
        image: its file.
        size: its width and height in px.
        keypoints: points of an object and numbers of each; None: it has none.
        classes: number of the classes.
        collector: keeps the faults.
    """
    path = _label_file(image)
    if not os.path.exists(path):
        return
    try:
        lines = list(read_lines(path, "file of labels"))
    except DataError as error:
        collector.fault(error)
        return
    for line, text in lines:
        where = f"{path}: line {line}"
        try:
            parts = text.split()
            found = (
                _posed(parts, size, keypoints, where)
                if keypoints is not None
                else _plain_object(parts, size, where, image, collector)
            )
            if not 0 <= found.number < classes:
                raise DataError(
                    f"{where}: class {found.number} has no name (found {classes} names); correct "
                    "`names` or the line"
                )
        except DataError as error:
            collector.fault(error)
        else:
            yield found


def _plain_object(
    parts: Sequence[str], size: Size, where: str, image: Path, collector: Collector
) -> TrueObject:
    """Return the object of a line with a box or a polygon; its box may be bad.

    Raises:
        DataError: it is neither, or not of numbers.
    """
    if len(parts) < 5 or (len(parts) > 6 and len(parts) % 2 == 0):
        raise DataError(
            f"{where}: not `class cx cy width height` nor a polygon (found {len(parts)} numbers)"
        )
    values = [number(part, where) for part in parts[1:]]
    kind = whole(parts[0], where)
    if len(values) <= 5:
        return TrueObject(kind, _box(values, size))
    polygon = tuple(value * size[at % 2] for at, value in enumerate(values))
    box = hull(list(zip(polygon[::2], polygon[1::2], strict=True)))
    if not is_polygon(polygon):
        collector.count(BAD_MASK, image.name)
        return TrueObject(kind, box)
    rotated = rotated_of(polygon) if len(polygon) == 8 else None
    return TrueObject(kind, box, mask=(polygon,), rotated=rotated)


def _posed(parts: Sequence[str], size: Size, keypoints: tuple[int, int], where: str) -> TrueObject:
    """Return the object of a line with a box and keypoints; of a box alone, none is labelled."""
    count, columns = keypoints
    if len(parts) not in (5, 5 + count * columns):
        raise DataError(
            f"{where}: not `class cx cy width height` and {count} keypoints of {columns} numbers "
            f"(found {len(parts)} numbers); correct the line, or kpt_shape"
        )
    values = [number(part, where) for part in parts[1:]]
    try:
        points = points_of(values[4:], columns)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    width, height = size
    return TrueObject(
        whole(parts[0], where),
        _box(values, size),
        keypoints=tuple((x * width, y * height, seen) for x, y, seen in points) or None,
    )


def _box(values: Sequence[float], size: Size) -> Box:
    """Return the box, in pixels, of its centre and sides as fractions of the image."""
    width, height = size
    cx, cy, w, h = values[:4]
    return (
        (cx - w / 2) * width,
        (cy - h / 2) * height,
        (cx + w / 2) * width,
        (cy + h / 2) * height,
    )


def write(data: DataSet, folder: Path) -> None:
    """Write `data.yaml`, `images/` and `labels/`; ignored objects cannot be held, and are left out.

    A line has keypoints where all objects that have any have as many; else a rotated box, or a
    single polygon whose hull is the box. Other masks cannot be held.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "yolo", ["detect"])
    posed = [item.keypoints for image in data.images for item in image.objects if item.keypoints]
    counts = {len(points) for points in posed}
    points = counts.pop() if len(counts) == 1 else 0
    for image in data.images:
        place(image.path, folder / "images", image.name)
        kept = (item for item in image.objects if not item.ignored)
        lines = "".join(_line(item, image.size, points) for item in kept)
        write_file(folder / "labels", f"{stem_of(image.name)}.txt", lines)
    # A text of JSON is one of YAML too, with any character in it.
    names = "".join(
        f"  {number}: {msgspec.json.encode(label).decode()}\n"
        for number, label in enumerate(data.labels)
    )
    shape = f"kpt_shape: [{points}, 3]\n" if points else ""
    text = f"path: .\ntrain: images\nval: images\n{shape}names:\n{names}"
    write_file(folder, "data.yaml", text if names else text.replace("names:\n", "names: []\n"))


def _line(item: TrueObject, size: Size, points: int) -> str:
    """Write an object: with so many keypoints, or as a rotated box, a polygon or a box."""
    x1, y1, x2, y2 = item.box
    width, height = size
    outline = () if points else _outline(item)
    values = [value / size[at % 2] for at, value in enumerate(outline)]
    if not outline:
        values = [
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        ]
    for x, y, seen in (item.keypoints or ((0.0, 0.0, 0.0),) * points) if points else ():
        values += [x / width, y / height, seen]
    return f"{item.number} {' '.join(f'{value:.9f}' for value in values)}\n"


def _outline(item: TrueObject) -> tuple[float, ...]:
    """Return the corners of a rotated box, or of the only polygon; empty: the line is a box."""
    if item.rotated is not None:
        return tuple(corners_of(np.array([item.rotated], np.float64)).ravel().tolist())
    if not isinstance(item.mask, tuple) or len(item.mask) != 1:
        return ()
    polygon = item.mask[0]
    around = hull(list(zip(polygon[::2], polygon[1::2], strict=True)))
    near = max(abs(a - b) for a, b in zip(around, item.box, strict=True)) <= MAX_HULL_PX
    return polygon if near else ()
