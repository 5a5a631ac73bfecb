"""The data of a training: read, split in three, and made into the examples of a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from models import datasets
from models.datasets.base import DataSet, LabelledImage
from models.datasets.class_maps import with_class_maps, with_classes
from models.datasets.crops import crops, cut
from models.datasets.main_objects import main_objects
from models.datasets.parts import PARTS, Parts, fold_images, read_parts, split_images, take
from models.datasets.relabel import merge, relabel
from models.datasets.splits import same_split, split_of
from models.errors import DataError
from models.training.features import read_pixels
from models.training.method import Needs

MIN_CROP_PX = 16
"""Shorter side of a box that is worth a picture of its own."""


class Request(NamedTuple):
    """Which data, and how it is split."""

    paths: Sequence[str]
    format: str = "auto"
    parts: Path | None = None
    """File of the parts; None: those of the data set, or drawn by the seed."""
    val: float = 0.2
    test: float = 0.2
    seed: int = 0
    fold: tuple[int, int] | None = None
    """K and N: test with the K-th of N equal parts, 1 to N, and `test` does not count."""
    mapping: Mapping[str, str | None] | None = None
    """Label of the data -> label of the model; None: as they are."""
    per_class: int | None = None
    """Training examples of each class, at most."""
    fraction: float = 1.0
    """Part of the training examples that is used."""


class Prepared(NamedTuple):
    """The examples of a training."""

    labels: tuple[str, ...]
    parts: Parts
    """Names of images of the data set."""
    train: list[LabelledImage]
    val: list[LabelledImage]
    test: list[LabelledImage]
    notes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    """Part -> label -> examples."""


def read(request: Request, needs: Needs = "class") -> DataSet:
    """Read the data sets as one, with the labels mapped.

    Where a method needs a main object, images without one are left out. Objects whose labels are
    not mapped count there: a person in front of an unnamed truck is not the main object.

    Raises:
        DataError: one is missing or wrong.
    """
    data = merge([datasets.read(path, request.format) for path in request.paths])
    if data.clips:
        raise DataError(
            f"{data.root}: a clip cannot be trained on (found {len(data.clips)}); write its frames "
            "as images"
        )
    if needs == "main_object":
        data = main_objects(data)
    if request.mapping is not None:
        data = relabel(data, request.mapping)
    if needs == "main_object":
        kept = tuple(image for image in data.images if image.objects)
        data = msgspec.structs.replace(data, images=kept)
    return data


def parts_of(data: DataSet, request: Request, groups: Sequence[Sequence[int]] = ()) -> Parts:
    """Return the parts: from the file, else those of the data set, else drawn by the seed.

    Of a data set that has its own training images and lacks another part, this part is drawn from
    the training images.

    Raises:
        DataError: the file is wrong, or a part would be empty.
    """
    if request.parts is not None:
        return read_parts(request.parts, data)
    if request.fold is not None:
        return fold_images(data, request.seed, request.fold, request.val, groups)
    own: dict[str, list[str]] = {part: [] for part in PARTS}
    for image in data.images:
        split = (
            split_of(image.path.relative_to(data.root).as_posix()) if _below(image, data) else None
        )
        if (part := same_split(split)) is not None:
            own[part].append(image.name)
    if not own["train"] or not (own["val"] or own["test"]):
        return split_images(data, request.seed, request.val, request.test, groups)
    if own["val"] and own["test"]:
        return Parts(tuple(own["train"]), tuple(own["val"]), tuple(own["test"]))
    # One of two is there: val.
    rest = take(data, own["train"])
    drawn = split_images(rest, request.seed, request.val, 0.0)
    if own["test"]:
        return Parts(drawn.train, drawn.val, tuple(own["test"]))
    # What the data set calls val is used for the figures; val is drawn.
    return Parts(drawn.train, drawn.val, tuple(own["val"]))


def prepare(data: DataSet, parts: Parts, needs: Needs, request: Request, folder: Path) -> Prepared:
    """Make the examples that a method needs.

    Args:
        data: the data set.
        parts: its parts.
        needs: the truth that the method learns from.
        request: limits of the training examples.
        folder: folder for pictures that are made: crops of boxes, maps of classes.

    Raises:
        DataError: the data set has no such truth.
    """
    sets = [take(data, parts.named(part)) for part in PARTS]
    labels, notes = data.labels, list(data.notes)
    if needs == "class" and data.task == "detect":
        examples = [
            _crops(own, folder / "crops" / part) for own, part in zip(sets, PARTS, strict=True)
        ]
        notes.append(f"the labelled boxes are the examples, each a picture in {folder / 'crops'}")
    elif needs == "class_map" and data.task == "detect":
        made = with_class_maps(data, folder / "maps")
        labels, notes = made.labels, list(made.notes)
        known = {image.name: image for image in made.images}
        examples = [[known[i.name] for i in own.images if i.name in known] for own in sets]
    else:
        examples = [list(own.images) for own in sets]
    if data.task != _TASKS[needs] and data.task != "detect":
        raise DataError(
            f"{data.root}: the method needs {_NAMES[needs]} (found a data set of {data.task}); "
            "choose another method or data set"
        )
    if needs == "class":
        examples = [[image for image in part if len(image.classes) == 1] for part in examples]
    if needs == "class_map":
        examples = [[with_classes(image) for image in part] for part in examples]
    if needs == "mask" and not any(o.mask for image in data.images for o in image.objects):
        raise DataError(f"{data.root}: the method needs masks (found boxes alone); add masks")
    train = _limited(examples[0], request)
    for part, own in zip(PARTS, (train, *examples[1:]), strict=True):
        if not own:
            raise DataError(
                f"{data.root}: the part {part} has no example of {_NAMES[needs]}; add some, or "
                "split the data in another way"
            )
    counts = {
        part: _counts(own, labels) for part, own in zip(PARTS, (train, *examples[1:]), strict=True)
    }
    return Prepared(labels, parts, train, examples[1], examples[2], tuple(notes), counts)


_TASKS = {"class": "classify", "class_map": "semantic"} | dict.fromkeys(
    ("box", "mask", "main_object"), "detect"
)
"""Truth that a method needs -> the task of data sets that have it; boxes can become the others."""
_NAMES = {
    "class": "a class for each image",
    "box": "boxes",
    "main_object": "one main object",
    "mask": "boxes with masks",
    "class_map": "a class for each pixel",
}


def _below(image: LabelledImage, data: DataSet) -> bool:
    return image.path.is_relative_to(data.root)


def _counts(images: Sequence[LabelledImage], labels: Sequence[str]) -> dict[str, int]:
    found: Counter[int] = Counter()
    for image in images:
        found.update(image.classes or [item.number for item in image.objects if not item.ignored])
    return {label: found[number] for number, label in enumerate(labels)}


def _limited(images: Sequence[LabelledImage], request: Request) -> list[LabelledImage]:
    """Return the training examples that are used, drawn by the seed."""
    order = np.random.RandomState(request.seed).permutation(len(images))
    order = order[: max(1, round(len(images) * request.fraction))]
    taken: Counter[int] = Counter()
    kept = []
    for at in order.tolist():
        classes = images[at].classes or tuple({item.number for item in images[at].objects})
        if request.per_class and all(taken[number] >= request.per_class for number in classes):
            continue
        taken.update(classes)
        kept.append(at)
    return [images[at] for at in sorted(kept)]


def _crops(data: DataSet, folder: Path) -> list[LabelledImage]:
    """Write each labelled box as a picture, one folder per class, and return them."""
    found = []
    numbers: Counter[str] = Counter()
    for crop in crops(data, MIN_CROP_PX):
        label = data.labels[crop.number]
        stem = crop.image.name.replace("/", "_").rpartition(".")[0] or crop.image.name
        numbers[stem] += 1
        path = folder / label.replace("/", "_") / f"{stem}-{numbers[stem]}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cut(read_pixels(crop.image), crop.box))
        pixels = cut(np.empty((crop.image.size[1], crop.image.size[0], 1), np.uint8), crop.box)
        size = (pixels.shape[1], pixels.shape[0])
        name = path.relative_to(folder).as_posix()
        found.append(LabelledImage(path, name, size, (), (crop.number,)))
    return found
