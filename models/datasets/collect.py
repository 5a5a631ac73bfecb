"""Collection of the images of a data set, with checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from models.datasets.base import Clip, DataSet, DataTask, LabelledImage, TrueObject
from models.datasets.image_size import MAX_SIDE_PX, Size, read_size
from models.errors import DataError
from models.text import shown

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""

TOLERANCE_PX = 0.01
"""Largest excess over the image that is only rounding, and not counted."""


class Finding(NamedTuple):
    """A finding, for one case and for several."""

    one: str
    many: str


BAD_BOX = Finding(
    "box has no area or is not a number, and is left out",
    "boxes have no area or are not numbers, and are left out",
)
OUTSIDE = Finding(
    "box is outside its image, and is left out", "boxes are outside their image, and are left out"
)
CLIPPED = Finding(
    "box reaches out of its image, and is clipped",
    "boxes reach out of their image, and are clipped",
)
MISSING = Finding(
    "image is listed but not there, and is left out",
    "images are listed but not there, and are left out",
)
UNREADABLE = Finding(
    "image cannot be read, and is left out", "images cannot be read, and are left out"
)
TWICE = Finding(
    "image is listed twice, and its second entry is left out",
    "images are listed twice, and their second entries are left out",
)
NO_CLIP = Finding(
    "clip has no video or images, and is left out",
    "clips have no video or images, and are left out",
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

    def read_together(self, splits: Iterable[str]) -> None:
        """Note the splits that are read; several are a finding, since few users mean that."""
        names = tuple(splits)
        if len(names) > 1:
            self._together = (
                f"the splits {shown(', '.join(names), 100)} are read together; `--split NAME` "
                "reads one",
            )

    def count(self, finding: Finding, name: str) -> None:
        """Count a finding; the first name is shown with it."""
        self._first.setdefault(finding, name)
        self._counts[finding] = self._counts.get(finding, 0) + 1

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
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            self.count(OUTSIDE, name)
            return None
        if max(abs(a - b) for a, b in zip(box, inside, strict=True)) > TOLERANCE_PX:
            self.count(CLIPPED, name)
        return inside

    def is_box(self, box: Box, name: str) -> bool:
        """Return whether a box is finite and has an area; if not, it is counted."""
        x1, y1, x2, y2 = box
        if x1 < x2 and y1 < y2 and all(map(math.isfinite, box)):
            return True
        self.count(BAD_BOX, name)
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
        )

    def _notes(self) -> tuple[str, ...]:
        return self._together + tuple(
            shown(
                f"{n} {finding.one if n == 1 else finding.many} "
                f"(first: {shown(self._first[finding], 80)})"
            )
            for finding, n in self._counts.items()
        )


def hull(points: Sequence[tuple[float, float]]) -> Box:
    """Return the smallest box around points; NaN, so that it is no box, around none."""
    if not points:
        return (math.nan,) * 4
    xs, ys = zip(*points, strict=True)
    if not all(map(math.isfinite, (*xs, *ys))):  # min and max pass over some NaN
        return (math.nan,) * 4
    return min(xs), min(ys), max(xs), max(ys)
