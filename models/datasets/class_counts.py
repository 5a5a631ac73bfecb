"""Counts of a data set, or of a part of it: images, objects of each class, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from models.datasets.base import DataSet


class Range(msgspec.Struct, frozen=True):
    """Least, middle and greatest of some values; zeros: there are none."""

    least: float = 0.0
    median: float = 0.0
    greatest: float = 0.0


class PartCounts(msgspec.Struct, frozen=True):
    """Counts of images and objects."""

    images: int
    background: int
    """Images without an object and without a class."""
    objects: int
    ignored: int
    """Objects that are not counted, such as crowds."""
    masks: int
    """Objects with a mask."""
    classes: dict[str, int]
    """Label -> its images, where classes are of whole images, or else its objects."""
    images_of: dict[str, int]
    """Label -> the images with it."""
    width_px: Range
    height_px: Range
    box_fraction: Range
    """Areas of the boxes as parts of their images."""


def counts_of(data: DataSet, names: Collection[str] | None) -> PartCounts:
    """Count a data set.

    Args:
        data: the data set.
        names: names of the images to count; None: all.
    """
    images = [image for image in data.images if names is None or image.name in names]
    objects = [(image, item) for image in images for item in image.objects if not item.ignored]
    per_object = Counter(item.number for _, item in objects)
    # A main object is the class of its image too, and is counted once.
    per_class = Counter(n for image in images if not image.objects for n in image.classes)
    present = Counter(
        number
        for image in images
        for number in {*image.classes, *(item.number for item in image.objects if not item.ignored)}
    )
    fractions = []
    for image, item in objects:
        x1, y1, x2, y2 = item.box
        fractions.append((x2 - x1) * (y2 - y1) / (image.size[0] * image.size[1]))
    return PartCounts(
        images=len(images),
        background=sum(
            not image.objects and not image.classes and image.class_map is None for image in images
        ),
        objects=len(objects),
        ignored=sum(len(image.objects) for image in images) - len(objects),
        masks=sum(item.mask is not None for _, item in objects),
        classes={label: per_object[n] + per_class[n] for n, label in enumerate(data.labels)},
        images_of={label: present[n] for n, label in enumerate(data.labels)},
        width_px=_range([image.size[0] for image in images]),
        height_px=_range([image.size[1] for image in images]),
        box_fraction=_range(fractions),
    )


def _range(values: Sequence[float]) -> Range:
    if not values:
        return Range()
    ordered = sorted(values)
    return Range(ordered[0], ordered[len(ordered) // 2], ordered[-1])
