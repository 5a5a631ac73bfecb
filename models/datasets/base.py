"""A labelled data set, whatever its format: images or clips, with their true objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

DataTask = Literal["classify", "detect", "semantic", "track"]
"""classify: a class per image; detect: boxes per image; semantic: a class per pixel; track: boxes
with ids per frame."""

Polygons = tuple[tuple[float, ...], ...]
"""x1, y1, x2, y2, ... in pixels of each; 3 corners or more, all finite."""
KeyPoint = tuple[float, float, float]
"""x and y in pixels, and whether it is labelled: 0 no, 1 hidden, 2 visible."""
Rotated = tuple[float, float, float, float, float]
"""cx, cy, w, h in pixels, and the angle in radians, clockwise."""


class TrueObject(msgspec.Struct, frozen=True):
    """An object that a person has labelled."""

    number: int
    """Class: index into the labels of the data set."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the image."""
    ignored: bool = False
    """Whether a detection there is neither right nor wrong: a crowd, or an object that the format
    marks as difficult."""
    area_px: float | None = None
    """Area in pixels where it is not that of the box, such as that of a mask."""
    id: int | None = None
    """Track id, unique within a clip."""
    mask: Polygons | str | None = None
    """Polygons, or COCO's text of the runs in the whole image; see `models/datasets/shapes.py`."""
    keypoints: tuple[KeyPoint, ...] | None = None
    rotated: Rotated | None = None
    """Rotated box; `box` is the upright one around it."""


class LabelledImage(msgspec.Struct, frozen=True):
    """An image of a data set."""

    path: Path
    name: str
    """Name within the data set, unique: its path in the folder of images, with `/`."""
    size: tuple[int, int]
    """Width and height in pixels."""
    objects: tuple[TrueObject, ...] = ()
    classes: tuple[int, ...] = ()
    """Classes of the whole image: indices into the labels of the data set."""
    class_map: Path | None = None
    """PNG of the size of the image: the class of each pixel, 255 for one that does not count."""


class Clip(msgspec.Struct, frozen=True):
    """A clip of a data set, with the objects of its frames."""

    source: Path
    """Video file, or folder of images."""
    name: str
    objects: Mapping[int, tuple[TrueObject, ...]]
    """Number of a frame, from 0 -> its objects; a frame without objects may be left out."""
    frames: int | None = None
    """Number of frames; None: not stated in the data set."""
    fps: float | None = None


class DataSet(msgspec.Struct, frozen=True, kw_only=True):
    """A data set: its labels, and its images or clips."""

    root: Path
    """File or folder that it was read from."""
    format: str
    """Name in `models.datasets.FORMATS`."""
    task: DataTask
    labels: tuple[str, ...]
    """Names of the classes."""
    images: tuple[LabelledImage, ...] = ()
    clips: tuple[Clip, ...] = ()
    notes: tuple[str, ...] = ()
    """Findings that do not prevent its use, such as "3 boxes reach out of their image"."""
    losses: tuple[str, ...] = ()
    """Lines on what is left out or changed because it is wrong, each of one image or box. They are
    also counted in `notes`; an evaluation goes on, and `models.datasets.check` lists them."""
    faults: tuple[str, ...] = ()
    """Lines on files of annotations that are wrong. `models.datasets.read` refuses a data set with
    any, unless it is asked to keep them."""
