"""MOTChallenge: a text file per clip, with a line per object and frame (motchallenge.net).

Columns are frame from 1, id, x, y, width, height, a flag, and from MOT16 on class and visibility;
files of MOT15 have 10 columns, the last three of which are a place in the world. Boxes are taken
as they are, without a shift by a pixel, as in TrackEval (trackeval/datasets/
mot_challenge_2d_box.py). As there, a line with flag 0 is no object, and a detection on one of the
classes 2, 7, 8 and 12 is neither right nor wrong; other classes than pedestrians are left out.

A `labels.txt` beside `gt.txt`, as CVAT exports, names the classes 1, 2, ...; then flag 0 is an
ignored object.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from models.datasets.base import Clip, DataSet, TrueObject
from models.datasets.collect import NO_CLIP, Collector, Finding
from models.datasets.places import (
    VIDEO_SUFFIXES,
    entries,
    folders_of,
    has_images,
    images_below,
    own_labels,
    safe_name,
)
from models.datasets.reading import number, read_head, read_lines, read_text, whole
from models.datasets.splits import SPLITS, choose
from models.datasets.writing import decimal, new_folder, place, write_file
from models.errors import DataError

_PERSON = ("person",)
_PEDESTRIAN = 1
_NEUTRAL = frozenset((2, 7, 8, 12))
"""person on vehicle, static person, distractor, reflection."""
_MAX_FRAME = 10**7
_LOOKED = "img1/, or a video beside the text file or in its folder"
_OTHER = Finding(
    "line is not of a pedestrian, or has flag 0, and is left out",
    "lines are not of pedestrians, or have flag 0, and are left out",
)


class _Truth(NamedTuple):
    """A file of true objects, and the sequence that it is of."""

    text: Path
    name: str
    folder: Path | None
    """Folder of the sequence; None: the file is beside its clip."""


def _is_text(path: Path) -> bool:
    """Return whether the first line of a file is 7 to 10 numbers with commas, first a frame."""
    line = read_head(path)[:1000].split(b"\n")[0].split(b",")
    if path.suffix != ".txt" or not 7 <= len(line) <= 10:
        return False
    try:
        values = [float(text) for text in line]
    except ValueError:
        return False
    return values[0] >= 1 and values[0].is_integer()


def _is_empty(path: Path) -> bool:
    """Return whether a file is that of a clip without objects."""
    return path.suffix == ".txt" and not read_head(path) and _video(path) is not None


def _stem(text: Path) -> str:
    return text.stem.removesuffix("-gt")


def _video(text: Path) -> Path | None:
    """Return the video of the name of a text file, beside it."""
    for suffix in sorted(VIDEO_SUFFIXES):
        for stem in (_stem(text), text.stem):
            if (video := text.with_name(stem + suffix)).is_file():
                return video
    return None


def _splits(path: Path) -> dict[str, list[_Truth]]:
    """Return the true objects of each split; "": there are no splits."""
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            texts = [path.with_name(f"{path.stem}{end}") for end in (".txt", "-gt.txt")]
            return {"": [_Truth(text, path.stem, None) for text in texts if text.is_file()][:1]}
        if path.suffix != ".txt":
            return {}
        if (path.name, path.parent.name) == ("gt.txt", "gt"):
            return {"": _sequence(path.parent.parent)}
        return {"": [_Truth(path, _stem(path), None)]}
    if own := _sequence(path) or _sequences(path):
        return {"": own}
    splits = {
        folder.name: found
        for folder in folders_of(path)
        if folder.name.lower() in SPLITS and (found := _sequences(folder))
    }
    if splits:
        return splits
    texts = [file for file in entries(path, ".txt") if _is_text(file) or _is_empty(file)]
    return {"": [_Truth(text, _stem(text), None) for text in texts]} if texts else {}


def _sequence(folder: Path) -> list[_Truth]:
    text = folder / "gt" / "gt.txt"
    return [_Truth(text, folder.resolve().name, folder)] if text.is_file() else []


def _sequences(folder: Path) -> list[_Truth]:
    return [truth for below in folders_of(folder) for truth in _sequence(below)]


def is_format(path: Path) -> bool:
    """Return whether a path is a sequence, a folder of them, or a clip with a text file beside."""
    truths = [truth for found in _splits(path).values() for truth in found]
    return any(truth.folder is not None or _is_text(truth.text) for truth in truths)


def read(path: Path, split: str | None) -> DataSet:
    """Read tracks.

    Args:
        path: a sequence, a folder of sequences or of text files with clips, a clip, or a text file.
        split: a folder of sequences; None: all.

    Raises:
        DataError: it is missing or wrong.
    """
    splits = _splits(path)
    found = {name: truths for name, truths in splits.items() if truths}
    if not found:
        raise DataError(f"{path}: no true objects of MOT (looked for gt/gt.txt and NAME.txt)")
    chosen = [""] if "" in found and split is None else choose(filter(None, found), split, path)
    collector = Collector(path, "mot")
    collector.read_together(chosen)
    labels: tuple[str, ...] | None = None
    for truth in (truth for name in chosen for truth in found[name]):
        own = own_labels(truth.text.parent) if truth.folder is not None else ()
        if labels is not None and labels != (own or _PERSON):
            raise DataError(
                f"{truth.text}: the sequences have different labels; read them one by one (found "
                f"{', '.join(own or _PERSON)})"
            )
        labels = own or _PERSON
        try:
            _collect(collector, truth, own)
        except DataError as error:
            collector.fault(error)
    return collector.finish("track", labels or _PERSON, _LOOKED)


def _collect(collector: Collector, truth: _Truth, labels: tuple[str, ...]) -> None:
    """Add a clip."""
    frames, fps, source = None, None, _video(truth.text)
    if truth.folder is not None:
        frames, fps, source = _sequence_info(truth.folder)
    if source is None:
        return collector.count(NO_CLIP, truth.name)
    objects: dict[int, list[TrueObject]] = {}
    seen: set[tuple[int, int]] = set()
    for frame, item, where in _objects(collector, truth, labels):
        if item.id is not None:
            if (frame, item.id) in seen:
                collector.fault(DataError(f"{where}: an id is twice in a frame (found {item.id})"))
                continue
            seen.add((frame, item.id))
        if collector.is_box(item.box, truth.name):
            objects.setdefault(frame, []).append(item)
    ordered = {frame: tuple(objects[frame]) for frame in sorted(objects)}
    collector.add_clip(Clip(source, truth.name, ordered, frames, fps))
    return None


def _sequence_info(folder: Path) -> tuple[int | None, float | None, Path | None]:
    """Return the number of frames, their rate, and the images or video of a sequence."""
    import configparser

    ini = configparser.ConfigParser(interpolation=None, strict=False)
    path = folder / "seqinfo.ini"
    if path.is_file():
        try:
            ini.read_string(read_text(path, "file of the sequence", 2**20))
        except configparser.Error as error:
            raise DataError(f"{path}: not a file of settings: {error}") from None
    values = dict(ini["Sequence"]) if ini.has_section("Sequence") else {}
    frames = whole(values["seqlength"], f"{path}: seqLength") if "seqlength" in values else None
    fps = number(values["framerate"], f"{path}: frameRate") if "framerate" in values else None
    if (frames is not None and not 0 <= frames <= _MAX_FRAME) or (
        fps is not None and not 0 < fps < 1e6
    ):
        raise DataError(f"{path}: seqLength or frameRate is out of bounds (found {frames}, {fps})")
    images = folder / safe_name(values.get("imdir") or "img1", path)
    if has_images(images):
        return frames, fps, images
    videos = [file for file in entries(folder) if file.suffix.lower() in VIDEO_SUFFIXES]
    if len(videos) == 1:
        return frames, fps, videos[0]
    beside = _video(folder.parent / f"{folder.name}.txt")
    return frames, fps, beside


def _objects(
    collector: Collector, truth: _Truth, labels: tuple[str, ...]
) -> Iterator[tuple[int, TrueObject, str]]:
    """Yield frame, object and place of each line that is an object."""
    for line, text in read_lines(truth.text, "file of true objects"):
        where = f"{truth.text}: line {line}"
        try:
            found = _object(text, labels, where)
        except DataError as error:
            collector.fault(error)
            continue
        if found is None:
            collector.count(_OTHER, truth.name)
        else:
            yield *found, where


def _object(text: str, labels: tuple[str, ...], where: str) -> tuple[int, TrueObject] | None:
    """Return frame and object of a line; None: it is left out.

    Raises:
        DataError: it is wrong.
    """
    parts = text.replace(",", " ").split()
    if not 6 <= len(parts) <= 10:
        raise DataError(f"{where}: not frame, id, x, y, w, h, flag, ... (found {text!r})")
    frame, id = whole(parts[0], where), whole(parts[1], where)
    if not 1 <= frame <= _MAX_FRAME:
        raise DataError(f"{where}: frames count from 1 (found {frame})")
    x, y, width, height = (number(part, where) for part in parts[2:6])
    flag = number(parts[6], where) if len(parts) > 6 else 1.0
    # The tenth column is only in MOT15, where the eighth is a place in the world.
    kind = whole(parts[7], where) if 8 <= len(parts) <= 9 else -1
    meaning = _class(kind, flag != 0, labels, where)
    if meaning is None:
        return None
    box = (x, y, x + width, y + height)
    item = TrueObject(meaning[0], box, ignored=meaning[1], id=id if id >= 0 else None)
    return frame - 1, item


def _class(kind: int, counts: bool, labels: tuple[str, ...], where: str) -> tuple[int, bool] | None:
    """Return the index of a class, and whether the object is ignored; None: it is left out."""
    if labels:
        if not (1 <= kind <= len(labels)):
            raise DataError(f"{where}: class {kind} has no name (found {len(labels)} in labels)")
        return kind - 1, not counts
    if kind in _NEUTRAL:
        return 0, True
    return (0, False) if counts and kind in (-1, _PEDESTRIAN) else None


def write(data: DataSet, folder: Path) -> None:
    """Write a folder per clip: gt/gt.txt, seqinfo.ini, and img1/ or the video.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "mot", ["track"])
    for clip in data.clips:
        own = folder / safe_name(clip.name, folder)
        lines = [
            _line(frame, item, data.labels == _PERSON)
            for frame in sorted(clip.objects)
            for item in clip.objects[frame]
        ]
        write_file(own, "gt/gt.txt", "".join(lines))
        if data.labels != _PERSON:
            write_file(own, "gt/labels.txt", "".join(f"{label}\n" for label in data.labels))
        info = f"[Sequence]\nname={clip.name}\nimDir=img1\n"
        if clip.fps is not None:
            info += f"frameRate={clip.fps!r}\n"
        if clip.frames is not None:
            info += f"seqLength={clip.frames}\n"
        write_file(own, "seqinfo.ini", info)
        if os.path.isdir(clip.source):
            for image in images_below(clip.source):
                place(image, own / "img1", image.relative_to(clip.source).as_posix())
        else:
            place(clip.source, own, clip.source.name)


def _line(frame: int, item: TrueObject, persons: bool) -> str:
    x1, y1, x2, y2 = item.box
    kind = (8 if item.ignored else _PEDESTRIAN) if persons else item.number + 1
    id = -1 if item.id is None else item.id
    box = ",".join(decimal(value) for value in (x1, y1, x2 - x1, y2 - y1))
    return f"{frame + 1},{id},{box},{int(not item.ignored)},{kind},1\n"
