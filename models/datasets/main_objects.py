"""Images with one main object, for classification with localisation: one box per image."""

from __future__ import annotations

import msgspec

from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.collect import Box
from models.errors import DataError

MIN_FRACTION = 0.1
"""Smallest part of its image that a main object fills."""
MIN_RATIO = 1.5
"""How many times as large as the next largest box of its image a main object is."""


def main_objects(data: DataSet) -> DataSet:
    """Return the images with one main object, with that object alone, and its class.

    An object is the main one if its box is at least 10 % of the image, and at least 1.5 times as
    large as any other box. An ignored object is never the main one, but is compared with too.

    Raises:
        DataError: no image has one.
    """
    images = []
    for image in data.images:
        found = main_object(image)
        if found is not None:
            images.append(msgspec.structs.replace(image, objects=(found,), classes=(found.number,)))
    if not images:
        raise DataError(
            f"{data.root}: no image has one main object (looked at {len(data.images)} for a box of "
            f"{MIN_FRACTION:.0%} of the image and {MIN_RATIO} times the next); use other images"
        )
    left = len(data.images) - len(images)
    notes = data.notes
    if left:
        without = "image has no" if left == 1 else "images have no"
        notes = (*notes, f"{left} {without} main object; left out")
    return msgspec.structs.replace(data, images=tuple(images), notes=notes)


def main_object(image: LabelledImage) -> TrueObject | None:
    """Return the main object of an image; None: it has none."""
    found = sorted(image.objects, key=lambda item: _area(item.box), reverse=True)
    if not found or found[0].ignored:
        return None
    largest = _area(found[0].box)
    width, height = image.size
    if largest < MIN_FRACTION * width * height:
        return None
    if len(found) > 1 and largest < MIN_RATIO * _area(found[1].box):
        return None
    return found[0]


def _area(box: Box) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)
