"""Maps of classes made of the masks of objects: a data set of objects as one of pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import mask_of
from models.datasets.base import DataSet, LabelledImage
from models.datasets.semantic import IGNORED, read_class_map
from models.datasets.shapes import rle_of_object
from models.datasets.writing import stem_of
from models.errors import DataError

BACKGROUND = "background"
"""Label of class 0: pixels of no object."""


def with_class_maps(data: DataSet, folder: Path) -> DataSet:
    """Return a data set of pixels, whose maps are made of the masks of objects.

    An image with an object without a mask is left out, since its pixels are not known.

    Args:
        data: a data set of objects.
        folder: folder of the maps, which is made.

    Raises:
        DataError: no object has a mask, there are too many labels, or a map cannot be written.
    """
    if not any(item.mask is not None for image in data.images for item in image.objects):
        raise DataError(
            f"{data.root}: maps of classes are made of masks (found boxes alone); add masks"
        )
    if len(data.labels) >= IGNORED:
        raise DataError(
            f"{data.root}: a map has {IGNORED - 1} classes of objects at most (found "
            f"{len(data.labels)}); map the labels to fewer"
        )
    images = []
    for image in data.images:
        if any(item.mask is None for item in image.objects):
            continue
        path = folder / f"{stem_of(image.name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), class_map_of(image)):
            raise DataError(f"{path}: the map of classes cannot be written; choose another folder")
        images.append(msgspec.structs.replace(image, objects=(), class_map=path))
    notes = data.notes
    left = len(data.images) - len(images)
    if left:
        one = "image has an object" if left == 1 else "images have objects"
        notes = (*notes, f"{left} {one} without a mask; left out")
    labels = (BACKGROUND, *data.labels)
    return msgspec.structs.replace(
        data, task="semantic", labels=labels, images=tuple(images), notes=notes
    )


def class_map_of(image: LabelledImage) -> NDArray[np.uint8]:
    """Return the class of each pixel (H, W): that of its object + 1, 0 for none, or `IGNORED`.

    Smaller objects lie over larger ones.
    """
    width, height = image.size
    classes = np.zeros((height, width), np.uint8)
    masks = [
        (item, mask_of(rle_of_object(item, image.size)).astype(bool)) for item in image.objects
    ]
    for item, mask in sorted(masks, key=lambda pair: -int(pair[1].sum())):
        classes[mask] = IGNORED if item.ignored else item.number + 1
    return classes


def with_classes(image: LabelledImage) -> LabelledImage:
    """Return an image with the classes that its map has.

    Raises:
        DataError: the map cannot be read.
    """
    assert image.class_map is not None, "an image of a data set of pixels has a map"
    found = np.unique(read_class_map(image.class_map))
    return msgspec.structs.replace(image, classes=tuple(found[found != IGNORED].tolist()))
