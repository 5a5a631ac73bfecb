"""COCO: a JSON file of images, annotations and categories (cocodataset.org/#format-data).

Read are such a file, a folder with `annotations/instances_SPLIT.json`, and the export of Roboflow,
`SPLIT/_annotations.coco.json`; keypoints are in a file of their own, which is named itself.
Categories become indices in the order of their ids. `area` is read too, since COCO counts objects
as small, medium or large by it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from os.path import isfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from models.datasets.base import DataSet, TrueObject
from models.datasets.collect import Collector, Finding
from models.datasets.places import entries, folders_of, safe_name
from models.datasets.reading import read_head, read_json
from models.datasets.shapes import BAD_KEYPOINTS, BAD_MASK, read_coco_mask, read_keypoints
from models.datasets.splits import SPLITS, choose
from models.datasets.writing import new_folder, place, write_file
from models.errors import DataError

_NO_IMAGE = Finding(
    "annotation is of an image that is not listed, and is left out",
    "annotations are of images that are not listed, and are left out",
    "an annotation is of an image that is not listed",
    "add it to `images`, or remove the annotation",
)
_TWO_NAMES = Finding(
    "category id has two names, and the later is read",
    "category ids have two names, and the later are read",
    "a category id has two names",
    "give each category its own id",
)
_NO_BOX = Finding(
    "annotation has no box, and is left out", "annotations have no box, and are left out"
)
_FOLDERS = (*sorted(SPLITS), "train2017", "val2017", "test2017", "train2014", "val2014")
"""Folders of images that are tried after that of the split itself."""
_ROBOFLOW = "_annotations.coco"
_LOOKED = "the folder of the JSON file, its parent, images/, and folders of splits"


_Row = TypeVar("_Row")


class _Category(msgspec.Struct, frozen=True):
    id: int | str
    name: str


class _Image(msgspec.Struct, frozen=True):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, frozen=True, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: int | bool | None = None
    track_id: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw()
    keypoints: msgspec.Raw = msgspec.Raw()


class _File(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Rows(msgspec.Struct, frozen=True):
    """A file whose rows are decoded one by one."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[_Category]


def _is_coco(path: Path) -> bool:
    """Return whether a file begins as an object of JSON, and names images and categories."""
    if path.suffix.lower() != ".json":
        return False
    head = read_head(path)
    if not head.lstrip().startswith(b"{"):
        return False
    both = head + read_head(path, from_end=True)
    return re.search(rb'"images"\s*:\s*\[|"image_id"\s*:', both) is not None and (
        re.search(rb'"(annotations|categories)"\s*:\s*\[', both) is not None
    )


def _files(path: Path) -> dict[str, Path]:
    """Return the annotation file of each split; the name of a split is that of its file."""
    if not path.is_dir():
        return {_split_name(path): path} if _is_coco(path) else {}
    found = [
        file
        for at in (path / "annotations", path)
        for file in entries(at, ".json")
        if _is_coco(file)
    ]
    instances = [file for file in found if file.stem.startswith("instances_")]
    files = {_split_name(file): file for file in reversed(instances or found)}
    for folder in folders_of(path):
        for file in entries(folder, ".json"):
            roboflow = file.stem == _ROBOFLOW or folder.name.lower() in SPLITS
            if roboflow and _is_coco(file):
                files.setdefault(folder.name, file)
    return files


def _split_name(path: Path) -> str:
    return path.parent.name if path.stem == _ROBOFLOW else path.stem.removeprefix("instances_")


def is_format(path: Path) -> bool:
    """Return whether a path is a COCO file, or a folder with one in a usual place."""
    return bool(_files(path))


def read(path: Path, split: str | None) -> DataSet:
    """Read a COCO data set.

    Args:
        path: annotation file, or folder.
        split: the split; None: all that are there, the names of which then precede those of images.

    Raises:
        DataError: it is missing or wrong.
    """
    files = _files(path) or ({_split_name(path): path} if path.is_file() else {})
    if not files:
        raise DataError(
            f"{path}: no annotation file of COCO (looked for annotations/*.json, *.json and "
            "SPLIT/*.json)"
        )
    chosen = choose(files, split, path)
    collector = Collector(path, "coco")
    collector.read_together(chosen)
    labels: tuple[str, ...] | None = None
    for name in chosen:
        file = _read_file(collector, files[name])
        own = _labels(file)
        if labels is not None and labels != own:
            raise DataError(
                f"{files[name]}: its categories differ from those of the other splits; choose one "
                f"with `--split NAME` (found {', '.join(chosen)})"
            )
        labels = own
        _collect(collector, files[name], name, file, f"{name}/" if len(chosen) > 1 else "")
    return collector.finish("detect", labels or (), _LOOKED)


def _read_file(collector: Collector, path: Path) -> _File:
    """Read an annotation file; rows of wrong values are faults.

    Raises:
        DataError: it cannot be read, or is no file of COCO.
    """
    try:
        return read_json(path, _File, "COCO")
    except DataError:
        rows = read_json(path, _Rows, "COCO")  # raises the same of any other fault
    return _File(
        list(_decoded(collector, path, "images", rows.images, _Image)),
        list(_decoded(collector, path, "annotations", rows.annotations, _Annotation)),
        rows.categories,
    )


def _decoded(
    collector: Collector, path: Path, key: str, rows: list[msgspec.Raw], kind: type[_Row]
) -> Iterator[_Row]:
    """Yield the rows of a list; those of wrong values are faults."""
    for number, row in enumerate(rows):
        try:
            yield msgspec.json.decode(row, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = f"{path}: {key}[{number}]"
            collector.fault(DataError(f"{place}: {error}; correct or remove it"))


def _ids(file: _File) -> list[int | str]:
    """Return the ids of categories in order; texts follow numbers."""
    ids = [category.id for category in file.categories]
    return sorted(ids, key=lambda id: (isinstance(id, str), id))


def _labels(file: _File) -> tuple[str, ...]:
    names = {category.id: category.name for category in file.categories}
    return tuple(names[id] for id in dict.fromkeys(_ids(file)))


def _collect(collector: Collector, path: Path, split: str, file: _File, prefix: str) -> None:
    """Add the images of an annotation file."""
    numbers = {id: number for number, id in enumerate(dict.fromkeys(_ids(file)))}
    objects: dict[int | str, list[TrueObject]] = {image.id: [] for image in file.images}
    sizes = {image.id: (image.width, image.height) for image in file.images}
    counted = Counter(id for id, _ in {(item.id, item.name) for item in file.categories})
    for id in (id for id, names in counted.items() if names > 1):
        collector.count(_TWO_NAMES, path.name, id)
    for item in file.annotations:
        if item.image_id not in objects:
            collector.count(_NO_IMAGE, str(item.image_id), item.image_id)
        elif not item.bbox:
            collector.count(_NO_BOX, f"of image {item.image_id}")
        else:
            try:
                plain = _object(path, item, numbers)
            except DataError as error:
                collector.fault(error)
                continue
            objects[item.image_id].append(_with_shapes(collector, item, plain, sizes))
    folders = _folders(path.parent, split)
    for image in file.images:
        try:
            name = safe_name(image.file_name, path)
        except DataError as error:
            collector.fault(error)
            continue
        at = next((n for n, folder in enumerate(folders) if isfile(f"{folder}/{name}")), None)
        if at:  # the images of a file are mostly in one folder, which is tried first from now on
            folders.insert(0, folders.pop(at))
        found = None if at is None else Path(f"{folders[0]}/{name}")
        size = None if image.width is None or image.height is None else (image.width, image.height)
        # Taken out, so that a second image of this id does not count its objects again.
        collector.add(found, f"{prefix}{name}", size, objects.pop(image.id, ()))


def _object(path: Path, item: _Annotation, numbers: dict[int | str, int]) -> TrueObject:
    box = item.bbox or []
    if len(box) != 4:
        raise DataError(
            f"{path}: image {item.image_id}: a bbox is not x, y, width, height (found {len(box)} "
            "numbers)"
        )
    if item.category_id not in numbers:
        raise DataError(
            f"{path}: image {item.image_id}: an annotation has a category that is not listed "
            f"(found {item.category_id!r}); add it to `categories`"
        )
    x, y, width, height = box
    area = item.area if item.area is not None and math.isfinite(item.area) else None
    return TrueObject(
        number=numbers[item.category_id],
        box=(x, y, x + width, y + height),
        ignored=bool(item.iscrowd),
        area_px=area,
        id=item.track_id,
    )


def _with_shapes(
    collector: Collector,
    item: _Annotation,
    found: TrueObject,
    sizes: dict[int | str, tuple[int | None, int | None]],
) -> TrueObject:
    """Return an object with its mask and keypoints; those that are wrong are counted."""
    mask, points = None, None
    try:
        mask = read_coco_mask(bytes(item.segmentation), sizes[item.image_id])
    except DataError:
        collector.count(BAD_MASK, f"of image {item.image_id}")
    try:
        points = read_keypoints(bytes(item.keypoints))
    except DataError:
        collector.count(BAD_KEYPOINTS, f"of image {item.image_id}")
    if mask is None and points is None:
        return found
    return msgspec.structs.replace(found, mask=mask, keypoints=points)


def _folders(at: Path, split: str) -> list[Path]:
    """Return the folders in which images of an annotation file may be, the likely ones first."""
    bases = [at, at.parent]
    likely = [base / sub / split for base in bases for sub in ("", "images")]
    plain = [base / sub for base in bases for sub in ("", "images", "data")]
    others = [base / sub / name for base in bases for name in _FOLDERS for sub in ("", "images")]
    return [folder for folder in dict.fromkeys((*likely, *plain, *others)) if folder.is_dir()]


def write(data: DataSet, folder: Path) -> None:
    """Write `annotations.json` and `images/`; ids begin at 1, and rotated boxes cannot be held.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "coco", ["detect"])
    images = []
    for number, image in enumerate(data.images, 1):
        place(image.path, folder / "images", image.name)
        width, height = image.size
        images.append({"id": number, "file_name": image.name, "width": width, "height": height})
    document = {
        "images": images,
        "annotations": list(_annotations(data)),
        "categories": [{"id": n, "name": label} for n, label in enumerate(data.labels, 1)],
    }
    write_file(folder, "annotations.json", msgspec.json.encode(document))


def _annotations(data: DataSet) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, image in enumerate(data.images, 1):
        for item in image.objects:
            number += 1
            x1, y1, x2, y2 = item.box
            box_area = (x2 - x1) * (y2 - y1)
            annotation: dict[str, Any] = {
                "id": number,
                "image_id": image_id,
                "category_id": item.number + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": box_area if item.area_px is None else item.area_px,
                "iscrowd": int(item.ignored),
            }
            if item.id is not None:
                annotation["track_id"] = item.id
            if isinstance(item.mask, str):
                annotation["segmentation"] = {"size": image.size[::-1], "counts": item.mask}
            elif item.mask is not None:
                annotation["segmentation"] = item.mask
            if item.keypoints is not None:
                annotation["keypoints"] = [value for point in item.keypoints for value in point]
                annotation["num_keypoints"] = sum(seen > 0 for _, _, seen in item.keypoints)
            yield annotation
