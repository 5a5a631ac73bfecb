"""Collection of the images of a data set, with checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from models.datasets.base import Clip, DataSet, DataTask, LabelledImage, TrueObject
from models.datasets.image_size import MAX_SIDE_PX, Size, read_size
from models.errors import DataError, DataFaults
from models.text import shown

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""

TOLERANCE_PX = 0.01
"""Largest excess over the image that is only rounding, and not counted."""


MAX_OUTSIDE = 0.05
"""Largest part of a box that may be outside its image, where it reaches out by over 2 px."""
_NEAR_PX = 2.0
MAX_LINES = 1000
"""Limit of the faults that are listed one by one, and of the losses."""


class Finding(NamedTuple):
    """A finding, for one case and for several."""

    one: str
    many: str
    wrong: str = ""
    """What is wrong, where each case is listed as a loss; empty: it is only counted."""
    remedy: str = ""
    """What to do about it."""


BAD_BOX = Finding(
    "box has no area or is not a number, and is left out",
    "boxes have no area or are not numbers, and are left out",
    "a box has no area or is not of numbers",
    "correct or remove it",
)
OUTSIDE = Finding(
    "box is outside its image, and is left out",
    "boxes are outside their image, and are left out",
    "a box is outside its image",
    "correct or remove it",
)
CLIPPED = Finding(
    "box reaches out of its image, and is clipped",
    "boxes reach out of their image, and are clipped",
    "a box reaches far out of its image",
    "correct it, or the size of the image",
)
MISSING = Finding(
    "image is listed but not there, and is left out",
    "images are listed but not there, and are left out",
    "the image is listed, or has labels, but is not there",
    "add it, or remove its labels",
)
UNREADABLE = Finding(
    "image cannot be read, and is left out",
    "images cannot be read, and are left out",
    "the image cannot be read",
    "save it again, or remove it",
)
TWICE = Finding(
    "image is listed twice, and its second entry is left out",
    "images are listed twice, and their second entries are left out",
    "the image is listed twice",
    "join its labels in one entry",
)
NO_CLIP = Finding(
    "clip has no video or images, and is left out",
    "clips have no video or images, and are left out",
    "the clip has no video or images",
    "add them, or remove its labels",
)


class Collector:
    """Collects the images or clips of a data set, and counts findings.

    Args:
        root: the file or folder that is read.
        format: name of the format.
    """

    def __init__(self, root: Path, format: str) -> None:
        self.root = root
        self.format = format
        self._images: dict[str, LabelledImage] = {}
        self._clips: dict[str, Clip] = {}
        self._counts: dict[Finding, int] = {}
        self._first: dict[Finding, str] = {}
        self._together: tuple[str, ...] = ()
        self._losses = _Lines()
        self._faults = _Lines()

    def read_together(self, splits: Iterable[str]) -> None:
        """Note the splits that are read; several are a finding, since few users mean that."""
        names = tuple(splits)
        if len(names) > 1:
            self._together = (
                f"the splits {shown(', '.join(names), 100)} are read together; `--split NAME` "
                "reads one",
            )

    def count(self, finding: Finding, name: str, found: object = "", light: bool = False) -> None:
        """Count a finding; the first name is shown with it.

        Args:
            finding: the finding.
            name: the image, or what else it is of.
            found: what was found, for its line in the list of losses.
            light: whether it is so small that it is not listed as a loss.
        """
        self._first.setdefault(finding, name)
        self._counts[finding] = self._counts.get(finding, 0) + 1
        if finding.wrong and not light:
            of = f" (found {shown(found, 80)})" if found != "" else ""
            self._losses.add(f"{shown(name, 80)}: {finding.wrong}{of}; {finding.remedy}")

    def fault(self, error: DataError) -> None:
        """Keep an error of one image or object, so that those of all are found together."""
        for line in error.faults if isinstance(error, DataFaults) else (str(error),):
            self._faults.add(line)

    def add(
        self,
        path: Path | None,
        name: str,
        size: Size | None,
        objects: Iterable[TrueObject],
        classes: Sequence[int] = (),
        class_map: Path | None = None,
    ) -> None:
        """Add an image.

        Args:
            path: its file, which is there; None: it was not found.
            name: its name, relative, with `/`.
            size: size that the annotations state; None, or zeros: read it from the image.
            objects: its objects; boxes are checked here, and clipped.
            classes: classes of the whole image.
            class_map: its map of classes.
        """
        name = "".join(c if c.isprintable() else "?" for c in name)
        if path is None:
            return self.count(MISSING, name)
        if name in self._images:
            return self.count(TWICE, name)
        if size is None or not all(0 < side <= MAX_SIDE_PX for side in size):
            size = read_size(path)
        if size is None:
            return self.count(UNREADABLE, name)
        kept = []
        for item in objects:
            box = self._clip(item.box, size, name)
            if box == item.box:
                kept.append(item)
            elif box is not None:
                kept.append(msgspec.structs.replace(item, box=box))
        own = LabelledImage(path, name, size, tuple(kept), tuple(classes), class_map)
        self._images[name] = own
        return None

    def _clip(self, box: Box, size: Size, name: str) -> Box | None:
        """Clip a box to its image; None: nothing of it is left."""
        if not self.is_box(box, name):
            return None
        x1, y1, x2, y2 = box
        width, height = size
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
            return box
        inside = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
        found = f"{_numbers(box)} in {width}x{height}"
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            self.count(OUTSIDE, name, found)
            return None
        excess = max(abs(a - b) for a, b in zip(box, inside, strict=True))
        if excess > TOLERANCE_PX:
            far = excess > _NEAR_PX and _area(inside) < (1 - MAX_OUTSIDE) * _area(box)
            self.count(CLIPPED, name, found, light=not far)
        return inside

    def is_box(self, box: Box, name: str) -> bool:
        """Return whether a box is finite and has an area; if not, it is counted."""
        x1, y1, x2, y2 = box
        if x1 < x2 and y1 < y2 and all(map(math.isfinite, box)):
            return True
        self.count(BAD_BOX, name, _numbers(box))
        return False

    def add_clip(self, clip: Clip) -> None:
        """Add a clip; its boxes are not clipped, since a frame's size is unknown.

        Raises:
            DataError: there is one of its name.
        """
        if clip.name in self._clips:
            raise DataError(f"{self.root}: there are two clips of one name (found {clip.name!r})")
        self._clips[clip.name] = clip

    def finish(self, task: DataTask, labels: Iterable[str], looked: str) -> DataSet:
        """Return the data set.

        Args:
            task: its task.
            labels: names of the classes.
            looked: the places of images that were looked at, for the message.

        Raises:
            DataError: no image and no clip is there.
        """
        if not self._images and not self._clips:
            if self._faults.lines():
                raise DataFaults(self._faults.lines())
            for finding in (MISSING, NO_CLIP, UNREADABLE):
                if finding in self._counts:
                    raise DataError(
                        f"{self.root}: no image or clip is there (found none of "
                        f"{self._counts[finding]}, first {shown(self._first[finding], 60)}, in "
                        f"{shown(looked, 100)}); put them there"
                    )
            raise DataError(f"{self.root}: no images are listed or found; looked in {looked}")
        return DataSet(
            root=self.root,
            format=self.format,
            task=task,
            labels=tuple(shown(label, 100) for label in labels),
            images=tuple(self._images.values()),
            clips=tuple(self._clips.values()),
            notes=self._notes(),
            losses=self._losses.lines(),
            faults=self._faults.lines(),
        )

    def _notes(self) -> tuple[str, ...]:
        return self._together + tuple(
            shown(
                f"{n} {finding.one if n == 1 else finding.many} "
                f"(first: {shown(self._first[finding], 80)})"
            )
            for finding, n in self._counts.items()
        )


class _Lines:
    """Lines of a list, up to a limit; the others are counted."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._more = 0

    def add(self, line: str) -> None:
        """Add a line."""
        if len(self._kept) < MAX_LINES:
            self._kept.append(shown(line))
        else:
            self._more += 1

    def lines(self) -> tuple[str, ...]:
        """Return the lines, the last of which says how many are not listed."""
        more = (f"{self._more} more like these are not listed",) if self._more else ()
        return (*self._kept, *more)


def _numbers(box: Box) -> str:
    """Return the sides of a box as text."""
    return ", ".join(f"{side:.6g}" for side in box)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def hull(points: Sequence[tuple[float, float]]) -> Box:
    """Return the smallest box around points; NaN, so that it is no box, around none."""
    if not points:
        return (math.nan,) * 4
    xs, ys = zip(*points, strict=True)
    if not all(map(math.isfinite, (*xs, *ys))):  # min and max pass over some NaN
        return (math.nan,) * 4
    return min(xs), min(ys), max(xs), max(ys)
