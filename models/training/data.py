"""The data of a training: read, split in three, and made into the examples of a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from models import datasets
from models.datasets.base import DataSet, LabelledImage
from models.datasets.check import check
from models.datasets.class_maps import with_class_maps, with_classes
from models.datasets.crops import crops, cut
from models.datasets.main_objects import main_objects
from models.datasets.own_parts import own_parts
from models.datasets.parts import (
    PARTS,
    Parts,
    cut_large,
    fold_images,
    groups_by_name,
    read_parts,
    split_images,
    take,
)
from models.datasets.relabel import merge, relabel
from models.errors import DataError, DataFaults
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
    group: str | None = None
    """Regular expression: images with the same part of their names stay together."""
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


class Checked(NamedTuple):
    """A data set without faults."""

    data: DataSet
    parts: Parts
    lines: tuple[str, ...]
    """Warnings and notes of the check."""


def read(request: Request, needs: Needs, progress: Callable[[int, int], None]) -> Checked:
    """Read the data sets as one, check them, map the labels, and split them in three.

    The parts are those of the file, else those of the data set, else drawn by the seed, where
    images that are nearly the same stay together.

    Where a method needs a main object, images without one are left out. Objects whose labels are
    not mapped count there: a person in front of an unnamed truck is not the main object.

    Args:
        request: the request.
        needs: the truth that the method learns from.
        progress: called with the numbers of checked images and of all.

    Raises:
        DataFaults: the data are wrong; every fault is a line.
        DataError: a data set is missing, or cannot be trained with.
    """
    sets = [datasets.read(path, request.format, keep_faults=True) for path in request.paths]
    data = merge(sets)
    if data.clips:
        raise DataError(
            f"{data.root}: a clip cannot be trained on (found {len(data.clips)}); write its frames "
            "as images"
        )
    given = None
    if request.parts is not None:
        given = read_parts(request.parts, data)
    elif len(sets) == 1 and request.fold is None:
        given = own_parts(data)
    findings = check(data, given, True, lambda done: progress(done, len(data.images)))
    if findings.faults:
        raise DataFaults(findings.faults)
    alike = [[data.images[at].name for at in group] for group in findings.duplicates]
    data = _of_interest(data, request, needs)
    if given is None:
        parts = _drawn(data, request, alike)
    else:
        parts = _completed(data, _restricted(given, data), request)
    return Checked(data, parts, (*findings.warnings, *findings.notes))


def _of_interest(data: DataSet, request: Request, needs: Needs) -> DataSet:
    """Return the images and labels from which a method can learn."""
    if needs == "main_object":
        data = main_objects(data)
    if request.mapping is not None:
        data = relabel(data, request.mapping)
    if needs == "main_object":
        kept = tuple(image for image in data.images if image.objects)
        data = msgspec.structs.replace(data, images=kept)
    return data


def _drawn(data: DataSet, request: Request, alike: Sequence[Sequence[str]]) -> Parts:
    """Draw the parts by the seed; images that are alike stay together."""
    places = {image.name: at for at, image in enumerate(data.images)}
    groups: Sequence[Sequence[int]] = [
        [places[name] for name in names if name in places] for names in alike
    ]
    # Small enough that each part of each class can have some.
    kinds = len(data.labels) if data.task == "classify" else 1
    share = min(request.val, request.test) or max(request.val, request.test)
    if request.fold is not None:
        share = 1 / request.fold[1]
    groups = cut_large(data, groups, max(1, round(len(data.images) / kinds * share / 2)))
    if request.group is not None:
        groups = [*groups, *groups_by_name(data, request.group)]
    if request.fold is not None:
        return fold_images(data, request.seed, request.fold, request.val, groups)
    return split_images(data, request.seed, request.val, request.test, groups)


def _restricted(parts: Parts, data: DataSet) -> Parts:
    """Return parts without the images that a method cannot learn from."""
    names = {image.name for image in data.images}
    return Parts(*(tuple(filter(names.__contains__, parts.named(part))) for part in PARTS))


def _completed(data: DataSet, given: Parts, request: Request) -> Parts:
    """Return given parts without images that are left out, and of which none is missing.

    Validation images that are missing are drawn from those to train with. Where there are some but
    none to test with, they are the test images, as nothing else may be chosen with those.
    """
    names = {image.name for image in data.images}
    given = Parts(*(tuple(filter(names.__contains__, given.named(part))) for part in PARTS))
    if given.val and given.test:
        return given
    drawn = split_images(take(data, given.train), request.seed, request.val, 0.0)
    return Parts(drawn.train, drawn.val, given.test or given.val)


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
    if needs == "class" and train and len({image.classes[0] for image in train}) < 2:
        raise DataError(
            f"{data.root}: there is one class alone to train with (found "
            f"{labels[train[0].classes[0]]!r}), so there is nothing to tell apart; add images of "
            "another class, or choose a method that finds objects"
        )
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
