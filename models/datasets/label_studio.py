"""Label Studio: its JSON export, a list of tasks (labelstud.io/guide/export).

Rectangles and polygons become boxes, choices become classes of the image; numbers are percent of
the image. Images are looked for by the path in the task, and else by their name, beside the file
and in `images/`. Labels are those of `classes.txt` or `labels.txt` beside the file, or else the
names that are found, sorted: the export does not list them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from models.datasets.base import DataSet, DataTask, LabelledImage, TrueObject
from models.datasets.collect import Box, Collector, Finding, hull
from models.datasets.image_size import Size, read_size
from models.datasets.places import entries, find_first, is_image, own_labels, safe_name
from models.datasets.reading import read_head, read_json
from models.datasets.splits import choose
from models.datasets.writing import new_folder, place, write_file
from models.errors import DataError
from models.text import shown

_OTHER = Finding(
    "result is no rectangle, polygon or choice, and is left out",
    "results are no rectangles, polygons or choices, and are left out",
)
_UNLABELLED = Finding(
    "task has no annotation yet, and is left out", "tasks have no annotation yet, and are left out"
)
_SEVERAL = Finding(
    "task has several annotations, and the first is read",
    "tasks have several annotations, and the first is read",
)
_LOOKED = "the folder of the JSON file and images/"
_UPLOAD = re.compile(r"[0-9a-f]{6,40}-(.+)", re.DOTALL)
"""Name of an uploaded file, before which Label Studio puts a part of a hash."""


class _Value(msgspec.Struct, frozen=True):
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float | None = None
    points: list[tuple[float, float]] | None = None
    rectanglelabels: list[str] | None = None
    polygonlabels: list[str] | None = None
    choices: list[str] | None = None


class _Result(msgspec.Struct, frozen=True):
    type: str = ""
    value: _Value = _Value()
    original_width: int | None = None
    original_height: int | None = None


class _Annotation(msgspec.Struct, frozen=True):
    result: list[_Result] = []
    was_cancelled: bool | None = None


class _Task(msgspec.Struct, frozen=True):
    data: dict[str, Any]
    annotations: list[_Annotation] = []
    file_upload: str | None = None


def _file(path: Path) -> Path | None:
    """Return the export at a path, or in a folder."""
    for file in entries(path, ".json") if path.is_dir() else [path]:
        if file.suffix.lower() == ".json":
            head = read_head(file)
            if head.lstrip().startswith(b"[") and re.search(rb'"(annotations|data)"\s*:', head):
                return file
    return None


def is_format(path: Path) -> bool:
    """Return whether a path is an export of Label Studio, or a folder with one."""
    return _file(path) is not None


def read(path: Path, split: str | None) -> DataSet:
    """Read an export.

    Args:
        path: JSON file, or its folder.
        split: must be None, since an export has no splits.

    Raises:
        DataError: it is missing or wrong.
    """
    file = _file(path) or path
    choose([], split, file)
    tasks = read_json(file, list[_Task], "Label Studio")
    collector = Collector(path, "label_studio")
    labelled = []
    for task in tasks:
        try:
            text = _image_text(file, task)
        except DataError as error:
            collector.fault(error)
            continue
        done = [item for item in task.annotations if not item.was_cancelled]
        if not done:
            collector.count(_UNLABELLED, text)
            continue
        if len(done) > 1:
            collector.count(_SEVERAL, text)
        labelled.append((text, done[0].result))
    labels = list(own_labels(file.parent))
    names = {name for _, results in labelled for item in results for name in _names(item)}
    labels += sorted(names - set(labels))
    numbers = {label: number for number, label in reversed(list(enumerate(labels)))}
    boxes, chosen = 0, 0
    for text, results in labelled:
        try:
            image, name = _find(file, text)
        except DataError as error:
            collector.fault(error)
            continue
        size = _size(image, results)
        objects = list(_objects(collector, name, results, size, numbers))
        classes = [
            numbers[label] for item in results if item.value.choices for label in _names(item)
        ]
        boxes += len(objects)
        chosen += len(classes)
        collector.add(image, name, size, objects, classes)
    kind: DataTask = "classify" if chosen and not boxes else "detect"
    return collector.finish(kind, labels, _LOOKED)


def _names(item: _Result) -> list[str]:
    """Return the labels of a result."""
    value = item.value
    names = value.rectanglelabels or value.polygonlabels or value.choices or []
    return [shown(name, 100) for name in names]


def _image_text(file: Path, task: _Task) -> str:
    """Return the text of a task that names its image."""
    texts = [value for value in task.data.values() if isinstance(value, str)]
    stated = task.data.get("image")
    if isinstance(stated, str):
        return stated
    for text in texts:
        if is_image(Path(_url_path(text))) or "?d=" in text:
            return text
    if task.file_upload:
        return task.file_upload
    raise DataError(f"{file}: a task names no image in `data` (found {shown(task.data, 60)})")


def _url_path(text: str) -> str:
    """Return the path of an address, unquoted; the text itself where it is no address."""
    from urllib.parse import unquote, urlsplit

    try:
        return unquote(urlsplit(text).path)
    except ValueError:  # a wrong IPv6 address
        return text


def _find(file: Path, text: str) -> tuple[Path | None, str]:
    """Return the image of a task, None if it is not there, and its name in the data set."""
    from urllib.parse import parse_qs

    rest = text
    base_only = False
    if "/data/local-files/" in text and "?" in text:
        rest = (parse_qs(text.partition("?")[2]).get("d") or [""])[0]
    elif "/data/upload/" in text:
        rest = _url_path(text).partition("/data/upload/")[2]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        rest = _url_path(text)
        base_only = True
    folders = [file.parent / "images", file.parent]
    if not base_only:
        rest = safe_name(rest, file)
        if (found := find_first(folders, rest)) is not None:
            return found, rest
    base = safe_name(rest.replace("\\", "/").rpartition("/")[2] or rest, file)
    match = _UPLOAD.fullmatch(base)
    for name in (base, *([match[1]] if match else ())):
        if (found := find_first(folders, name)) is not None:
            return found, name
    return None, rest


def _size(image: Path | None, results: list[_Result]) -> Size | None:
    """Return the size that a result states, or else that of the image."""
    for item in results:
        if item.original_width and item.original_height:
            return item.original_width, item.original_height
    return None if image is None else read_size(image)


def _objects(
    collector: Collector,
    name: str,
    results: list[_Result],
    size: Size | None,
    numbers: dict[str, int],
) -> Iterator[TrueObject]:
    """Yield the objects of an image."""
    for item in results:
        value = item.value
        if value.choices is not None:
            continue
        names = _names(item)
        if not names or size is None or not (value.rectanglelabels or value.points):
            collector.count(_OTHER, name)
            continue
        for label in names:
            yield TrueObject(numbers[label], _box(value, size))


def _box(value: _Value, size: Size) -> Box:
    """Return the box of a rectangle, which is rotated around its top left, or of a polygon."""
    width, height = size[0] / 100, size[1] / 100
    if value.points is not None:
        return hull([(x * width, y * height) for x, y in value.points])
    sides = (value.x, value.y, value.width, value.height)
    x, y, w, h = (math.nan if side is None else side for side in sides)
    x, y, w, h = x * width, y * height, w * width, h * height
    if not value.rotation:
        return x, y, x + w, y + h
    cos, sin = math.cos(math.radians(value.rotation)), math.sin(math.radians(value.rotation))
    corners = ((0.0, 0.0), (w, 0.0), (0.0, h), (w, h))
    return hull([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])


def write(data: DataSet, folder: Path) -> None:
    """Write `tasks.json`, `images/` and `classes.txt`; ignored objects are left out.

    The paths in the file suit a local storage of Label Studio with `images/` as its root.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "label_studio", ["classify", "detect"])
    for image in data.images:
        place(image.path, folder / "images", image.name)
    tasks = [_task(number, image, data.labels) for number, image in enumerate(data.images, 1)]
    write_file(folder, "tasks.json", msgspec.json.encode(tasks))
    write_file(folder, "classes.txt", "".join(f"{label}\n" for label in data.labels))


def _task(number: int, image: LabelledImage, labels: tuple[str, ...]) -> dict[str, Any]:
    from urllib.parse import quote

    width, height = image.size
    results: list[dict[str, Any]] = []
    for item in image.objects:
        if not item.ignored:
            x1, y1, x2, y2 = item.box
            value = {
                "x": x1 / width * 100,
                "y": y1 / height * 100,
                "width": (x2 - x1) / width * 100,
                "height": (y2 - y1) / height * 100,
                "rotation": 0,
                "rectanglelabels": [labels[item.number]],
            }
            results.append({"type": "rectanglelabels", "from_name": "label", "value": value})
    if image.classes:
        chosen = {"choices": [labels[class_] for class_ in image.classes]}
        results.append({"type": "choices", "from_name": "choice", "value": chosen})
    for index, result in enumerate(results):
        stated = {"id": f"r{index}", "to_name": "image", "image_rotation": 0}
        result |= {**stated, "original_width": width, "original_height": height}
    return {
        "id": number,
        "data": {"image": f"/data/local-files/?d={quote(image.name)}"},
        "annotations": [{"id": number, "was_cancelled": False, "result": results}],
    }
