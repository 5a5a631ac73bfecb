"""Small images and files of annotations for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.datasets.base import Clip, DataSet, DataTask, LabelledImage, TrueObject


def image(path: Path, width: int = 100, height: int = 50) -> Path:
    """Write a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def text(path: Path, content: str) -> Path:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def boxes(data: DataSet) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Name of each image -> label and box, to a thousandth, of its objects."""
    return {
        item.name: [
            (data.labels[thing.number], tuple(round(side, 3) for side in thing.box))
            for thing in item.objects
        ]
        for item in data.images
    }


def small_set(folder: Path, format: str) -> DataSet:
    """A small data set that a format can hold."""
    folder.mkdir(parents=True, exist_ok=True)
    thing = TrueObject(1, (10, 5, 30, 35), id=1 if format == "mot" else None)
    path = image(folder / "source.png")
    kinds: dict[str, DataTask] = {"folders": "classify", "semantic": "semantic", "mot": "track"}
    kind = kinds.get(format, "detect")
    classes = (1,) if kind == "classify" else ()
    objects = (thing,) if kind == "detect" else ()
    class_map = None
    if kind == "semantic":
        class_map = folder / "map.png"
        assert cv2.imwrite(str(class_map), np.ones((50, 100), np.uint8))
    images = (LabelledImage(path, "dog/a.png", (100, 50), objects, classes, class_map),)
    clips = (Clip(text(folder / "c.mp4", "video"), "c", {0: (thing,)}),)
    return DataSet(
        root=folder,
        format="",
        task=kind,
        labels=("cat", "dog"),
        images=() if kind == "track" else images,
        clips=clips if kind == "track" else (),
    )
