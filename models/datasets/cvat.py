"""CVAT: an XML file of images or of tracks (docs.cvat.ai, "CVAT for image", "CVAT for video").

In the form for images, boxes, polygons and tags are read; the box of a rotated box or a polygon is
its hull. In the form for video, each track has boxes at some frames; a frame between two of them
has the box between theirs, until one is `outside`. Labels are those of the task, in its order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from models.datasets.base import Clip, DataSet, DataTask, TrueObject
from models.datasets.collect import NO_CLIP, Box, Collector, Finding, hull
from models.datasets.image_size import Size
from models.datasets.places import (
    VIDEO_SUFFIXES,
    entries,
    find_first,
    folders_of,
    has_images,
    images_below,
    safe_name,
)
from models.datasets.reading import number, read_head, read_xml, whole
from models.datasets.splits import choose
from models.datasets.writing import decimal, new_folder, place, write_file
from models.errors import DataError
from models.text import shown

_OTHER_SHAPE = Finding(
    "shape is no box, polygon or tag, and is left out",
    "shapes are no boxes, polygons or tags, and are left out",
)
_LOOKED = "the folder of the XML file and images/"
_SIDES = ("xtl", "ytl", "xbr", "ybr")
MAX_TRACK_BOXES = 5_000_000


class _Key(NamedTuple):
    """A box of a track."""

    frame: int
    box: Box
    outside: bool


class _Labels:
    """Labels of a file: those of the task, then others in the order in which they come."""

    def __init__(self, root: Element) -> None:
        self._numbers: dict[str, int] = {}
        for meta in root.iter("meta"):
            for label in meta.iter("label"):
                # A part of a skeleton is no label of its own.
                if label.findtext("parent") is None and (name := label.findtext("name")):
                    self.number(name)

    def number(self, text: str | None) -> int:
        """Return the index of a label."""
        return self._numbers.setdefault(shown(text or "", 100), len(self._numbers))

    def names(self) -> tuple[str, ...]:
        """Return all labels."""
        return tuple(self._numbers)


def _file(path: Path) -> Path | None:
    """Return the XML file of CVAT at a path, or in a folder."""
    candidates = entries(path, ".xml") if path.is_dir() else [path]
    for file in sorted(candidates, key=lambda file: file.name != "annotations.xml"):
        if file.suffix.lower() == ".xml" and re.search(rb"<annotations[\s>]", read_head(file)):
            return file
    return None


def is_format(path: Path) -> bool:
    """Return whether a path is an XML file of CVAT, or a folder with one."""
    return _file(path) is not None


def read(path: Path, split: str | None) -> DataSet:
    """Read images or a video.

    Args:
        path: XML file, or its folder.
        split: the subset of a project; None: all.

    Raises:
        DataError: it is missing or wrong.
    """
    file = _file(path) or path
    root = read_xml(file)
    if root.tag != "annotations":
        raise DataError(f"{file}: not a file of CVAT (found <{root.tag}>, not <annotations>)")
    collector = Collector(path, "cvat")
    labels = _Labels(root)
    images = root.findall("image")
    tracks = root.findall("track")
    mode = (root.findtext("meta/task/mode") or root.findtext("meta/job/mode") or "").strip()
    if tracks or (not images and mode == "interpolation"):
        choose([], split, file)
        _collect_video(collector, file, root, labels)
        return collector.finish("track", labels.names(), _LOOKED)
    if subsets := {image.get("subset") or "" for image in images} - {""}:
        chosen = choose(subsets, split, file)
        images = [image for image in images if split is None or image.get("subset") in chosen]
    else:
        choose([], split, file)
    boxes = []
    for image in images:
        try:
            boxes.append(_collect_image(collector, file, image, labels))
        except DataError as error:
            collector.fault(error)
    tagged = any(image.find("tag") is not None for image in images)
    task: DataTask = "classify" if tagged and not any(boxes) else "detect"
    return collector.finish(task, labels.names(), _LOOKED)


def _collect_image(collector: Collector, file: Path, image: Element, labels: _Labels) -> int:
    """Add an image, and return the number of its boxes."""
    name = safe_name(image.get("name") or "", file)
    subset = image.get("subset")
    folders = [file.parent / "images", file.parent]
    if subset:
        below = safe_name(subset, file)
        folders = [*(folder / below for folder in folders), *folders]
    objects = []
    classes = []
    for shape in image:
        if shape.tag == "tag":
            classes.append(labels.number(shape.get("label")))
        elif shape.tag in ("box", "polygon"):
            where = f"{file}: {shown(name, 80)}"
            try:
                box = _box(shape, where) if shape.tag == "box" else hull(_points(shape, where))
            except DataError as error:
                collector.fault(error)
                continue
            objects.append(TrueObject(labels.number(shape.get("label")), box))
        else:
            collector.count(_OTHER_SHAPE, name)
    size: Size | None = None
    if image.get("width") and image.get("height"):
        where = f"{file}: size of {shown(name, 80)}"
        size = (whole(image.get("width"), where), whole(image.get("height"), where))
    collector.add(find_first(folders, name), name, size, objects, classes)
    return len(objects)


def _box(shape: Element, where: str) -> Box:
    """Return the box of a shape, which CVAT rotates clockwise around its centre."""
    x1, y1, x2, y2 = (number(shape.get(side), f"{where}: {side}") for side in _SIDES)
    degrees = number(shape.get("rotation", "0"), f"{where}: rotation")
    if degrees == 0 or not math.isfinite(degrees):
        return x1, y1, x2, y2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = (abs((x2 - x1) * cos) + abs((y2 - y1) * sin)) / 2
    down = (abs((x2 - x1) * sin) + abs((y2 - y1) * cos)) / 2
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    return cx - across, cy - down, cx + across, cy + down


def _points(shape: Element, where: str) -> list[tuple[float, float]]:
    """Return the points of a polygon, "x,y;x,y"."""
    points = []
    for pair in (shape.get("points") or "").split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise DataError(f"{where}: points: not x,y;x,y (found {pair!r})")
        points.append((number(x, f"{where}: points"), number(y, f"{where}: points")))
    return points


def _collect_video(collector: Collector, file: Path, root: Element, labels: _Labels) -> None:
    """Add the clip of a file."""
    task = root.find("meta/task")
    task = task if task is not None else root.find("meta/job")
    text = task.findtext("size") if task is not None else None
    frames = whole(text, f"{file}: size") if text and text.strip() else None
    stated = (root.findtext("meta/source") or root.findtext("meta/task/source") or "").strip()
    source = _source(file, stated)
    name = Path(stated).stem or file.parent.resolve().name
    if source is None:
        return collector.count(NO_CLIP, stated or name)
    objects: dict[int, list[TrueObject]] = {}
    boxes = 0
    for place_of, track in enumerate(root.findall("track")):
        where = f"{file}: track {place_of}"
        label = labels.number(track.get("label"))
        for shape in track:
            if shape.tag not in ("box", "polygon"):
                collector.count(_OTHER_SHAPE, where)
        try:
            id = whole(track.get("id", str(place_of)), where)
            found = _boxes_of(track, where, MAX_TRACK_BOXES - boxes)
        except DataError as error:
            collector.fault(error)
            continue
        boxes += len(found)
        for frame, box in found:
            if collector.is_box(box, where):
                objects.setdefault(frame, []).append(TrueObject(label, box, id=id))
    ordered = {frame: tuple(objects[frame]) for frame in sorted(objects)}
    collector.add_clip(Clip(source, name, ordered, frames))
    return None


def _boxes_of(track: Element, where: str, limit: int) -> list[tuple[int, Box]]:
    """Return frame and box of a track, in each frame that it is in.

    Raises:
        DataError: a box is wrong, two are of one frame, or there are more than a limit.
    """
    found: list[tuple[int, Box]] = []
    seen: set[int] = set()
    for frame, box in _filled(_keys(track, where)):
        if len(found) >= limit or frame in seen:
            raise DataError(f"{where}: too many boxes, or two in frame {frame}")
        seen.add(frame)
        found.append((frame, box))
    return found


def _source(file: Path, stated: str) -> Path | None:
    """Return the video of a file, or its folder of frames."""
    if stated:
        found = find_first([file.parent, file.parent / "images"], safe_name(stated, file))
        if found is not None and found.suffix.lower() in VIDEO_SUFFIXES:
            return found
    if has_images(file.parent / "images"):
        return file.parent / "images"
    for folder in folders_of(file.parent / "images"):
        if has_images(folder):
            return folder
    videos = [path for path in entries(file.parent) if path.suffix.lower() in VIDEO_SUFFIXES]
    return videos[0] if len(videos) == 1 else None


def _keys(track: Element, where: str) -> list[_Key]:
    """Return the boxes of a track, by frame."""
    keys = []
    for shape in track:
        if shape.tag not in ("box", "polygon"):
            continue
        frame = whole(shape.get("frame"), f"{where}: frame")
        if not 0 <= frame <= MAX_TRACK_BOXES:
            raise DataError(f"{where}: a frame is out of bounds (found {frame})")
        box = _box(shape, where) if shape.tag == "box" else hull(_points(shape, where))
        keys.append(_Key(frame, box, shape.get("outside") == "1"))
    return sorted(keys, key=lambda key: key.frame)


def _filled(keys: list[_Key]) -> Iterator[tuple[int, Box]]:
    """Yield frame and box, also between those that the file has."""
    for place_of, key in enumerate(keys):
        if key.outside:
            continue
        yield key.frame, key.box
        after = keys[place_of + 1] if place_of + 1 < len(keys) else key
        for frame in range(key.frame + 1, after.frame):
            # The box before an end of the track stays as it is.
            part = 0.0 if after.outside else (frame - key.frame) / (after.frame - key.frame)
            x1, y1, x2, y2 = (a + (b - a) * part for a, b in zip(key.box, after.box, strict=True))
            yield frame, (x1, y1, x2, y2)


def write(data: DataSet, folder: Path) -> None:
    """Write `annotations.xml` and `images/`, or the video; ignored objects are left out.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "cvat", ["classify", "detect", "track"])
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    labels = SubElement(task, "labels")
    for label in data.labels:
        SubElement(SubElement(labels, "label"), "name").text = label
    if data.task == "track":
        _write_clip(data, folder, root, task)
    for number_, image in enumerate(data.images):
        place(image.path, folder / "images", image.name)
        width, height = map(str, image.size)
        element = SubElement(
            root, "image", id=str(number_), name=image.name, width=width, height=height
        )
        for item in image.objects:
            if not item.ignored:
                own = {"label": data.labels[item.number]}
                SubElement(element, "box", own | _box_of(item))
        for class_ in image.classes:
            SubElement(element, "tag", label=data.labels[class_], source="manual")
    indent(root)
    write_file(folder, "annotations.xml", tostring(root, "utf-8"))


def _box_of(item: TrueObject) -> dict[str, str]:
    sides = {side: decimal(value) for side, value in zip(_SIDES, item.box, strict=True)}
    return {"source": "manual", "occluded": "0", **sides, "z_order": "0"}


def _write_clip(data: DataSet, folder: Path, root: Element, task: Element) -> None:
    """Write the tracks of the only clip, each with a box in every frame."""
    if len(data.clips) != 1:
        raise DataError(
            f"{folder}: a file of CVAT has one clip (found {len(data.clips)}); write it as mot"
        )
    clip = data.clips[0]
    if clip.frames is not None:
        SubElement(task, "size").text = str(clip.frames)
    SubElement(task, "mode").text = "interpolation"
    suffix = "" if clip.source.is_dir() else clip.source.suffix
    SubElement(task, "source").text = f"{clip.name}{suffix}"
    if suffix:
        place(clip.source, folder, f"{clip.name}{suffix}")
    else:
        for image in images_below(clip.source):
            place(image, folder / "images", image.relative_to(clip.source).as_posix())
    tracks: dict[tuple[int, int], list[tuple[int, TrueObject]]] = {}
    unnumbered = -1
    for frame, items in sorted(clip.objects.items()):
        for item in items:
            if not item.ignored:
                unnumbered -= item.id is None
                key = (unnumbered if item.id is None else item.id, item.number)
                tracks.setdefault(key, []).append((frame, item))
    for (id, label), boxes in tracks.items():
        track = SubElement(root, "track", id=str(id), label=data.labels[label], source="manual")
        for at, (frame, item) in enumerate(boxes):
            SubElement(track, "box", _key(frame, "0") | _box_of(item))
            following = boxes[at + 1][0] if at + 1 < len(boxes) else clip.frames
            if following != frame + 1:
                SubElement(track, "box", _key(frame + 1, "1") | _box_of(item))


def _key(frame: int, outside: str) -> dict[str, str]:
    return {"frame": str(frame), "outside": outside, "keyframe": "1"}
