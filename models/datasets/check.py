"""The check of a data set before training: all its faults at once, and its size in figures.

A fault makes training wrong or impossible: wrong or lost labels, images that cannot be used, one
image in two parts. What may be meant so is a warning: a class that no image has, labels without an
image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher

import msgspec

from models.datasets.base import DataSet, LabelledImage
from models.datasets.class_counts import PartCounts, counts_of
from models.datasets.duplicates import Print, clusters, digest_of, print_of, read_grey
from models.datasets.image_file import fault_of, other_kind
from models.datasets.image_size import read_size
from models.datasets.parts import PARTS, Parts, twice
from models.datasets.semantic import IGNORED, read_class_map
from models.errors import DataError
from models.text import close_match, shown

MAX_DUPLICATES = 50
"""Limit of the groups of duplicates that are listed."""
MIN_ALIKE = 0.8
"""Least similarity of two names, of 1, of which one may be a slip."""
FEW = 5
"""Images of a class, or objects, below which a note says so."""


class Findings(msgspec.Struct, frozen=True):
    """Findings of a check."""

    faults: tuple[str, ...]
    """Lines `PLACE: WHAT IS WRONG (found X); WHAT TO DO`; empty: the data set can be used."""
    warnings: tuple[str, ...]
    """Lines of the same form, on what may be meant so."""
    notes: tuple[str, ...]
    """Findings in figures, such as "2 images have no objects, and are background"."""
    counts: dict[str, PartCounts]
    """train, val, test, or all -> counts of its images and objects."""
    duplicates: tuple[tuple[int, ...], ...]
    """Groups of images that are nearly the same: indices into the images of the data set."""


def check(
    data: DataSet,
    parts: Parts | None = None,
    given: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Check a data set; each image is decoded once.

    Args:
        data: the data set, read with `keep_faults`.
        parts: its parts; None: it has none yet.
        given: whether the parts come from the user; if not, they are drawn, and keep duplicates
            together as well as they can.
        progress: called with the number of images that are checked, after each.
    """
    counts = {"all": counts_of(data, None)}
    if parts is not None:
        counts |= {part: counts_of(data, frozenset(parts.named(part))) for part in PARTS}
    images = _images(data, progress)
    groups = clusters(images.prints)
    faults = [*data.faults, *data.losses, *_labels(data), *images.faults]
    faults += _unlike_copies(data, images.prints, groups)
    warnings = list(data.warnings)
    (faults if data.format == "folders" else warnings).extend(_empty_classes(data, counts))
    warnings += _misspelt(data, counts)
    if parts is not None:
        faults += twice("split", parts)
        (faults if given else warnings).extend(_across(data, parts, groups))
        warnings += _not_in_train(counts)
    notes = [*data.notes, *images.notes, *_beside(data), *_groups(data, groups)]
    return Findings(
        faults=tuple(dict.fromkeys(map(shown, faults))),
        warnings=tuple(map(shown, warnings)),
        notes=tuple(map(shown, (*notes, *_few(data, counts)))),
        counts=counts,
        duplicates=tuple(groups),
    )


class _Images(msgspec.Struct):
    """Findings of the files of images."""

    faults: list[str] = []
    notes: list[str] = []
    prints: list[Print | None] = []


def _images(data: DataSet, progress: Callable[[int], None] | None) -> _Images:
    """Decode each image."""
    found = _Images()
    kinds: Counter[str] = Counter()
    for number, image in enumerate(data.images, 1):
        seen: Print | None = None
        wrong = fault_of(image.path)
        if wrong is None:
            grey = read_grey(image.path)
            if grey is None:
                wrong = "the image cannot be decoded; save it again, or remove it"
            else:
                seen = print_of(grey, digest_of(image.path))
                wrong = _size_fault(image) or _map_fault(image, len(data.labels))
        if wrong is not None:
            found.faults.append(f"{shown(image.name, 80)}: {wrong}")
        elif (kind := other_kind(image.path)) is not None:
            kinds[f"{image.path.suffix} in fact {kind}"] += 1
        found.prints.append(seen)
        if progress is not None:
            progress(number)
    if kinds:
        names = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
        images = "image" if kinds.total() == 1 else "images"
        found.notes.append(f"{kinds.total()} {images} with the suffix of another kind ({names})")
    return found


def _size_fault(image: LabelledImage) -> str | None:
    """Return what is wrong with the stated size of an image."""
    size = read_size(image.path)
    if size is None or size == image.size:
        return None
    (width, height), (stated_width, stated_height) = size, image.size
    turned = ", turned by its EXIF" if size == image.size[::-1] else ""
    return (
        f"the labels state another size of the image, so their boxes are wrong (found {width}x"
        f"{height}{turned}, stated {stated_width}x{stated_height}); label this image again, or "
        "take the one that was labelled"
    )


def _map_fault(image: LabelledImage, classes: int) -> str | None:
    """Return what is wrong with the map of classes of an image."""
    if image.class_map is None:
        return None
    try:
        values = read_class_map(image.class_map)
    except DataError as error:
        return str(error)
    height, width = values.shape
    if (width, height) != image.size:
        return (
            f"the map of classes is of another size (found {width}x{height}, the image is "
            f"{image.size[0]}x{image.size[1]}); save it in the size of the image"
        )
    highest = int(values.max(initial=-1, where=values != IGNORED))
    if highest >= classes:
        return (
            f"a pixel has a class that has no name (found {highest} of {classes} classes, which "
            "count from 0); add it to classes.txt, or use 255 for pixels that do not count"
        )
    return None


def _labels(data: DataSet) -> Iterator[str]:
    """Yield a line for labels that differ only by case or blanks; letters such as a and A may."""
    first: dict[str, str] = {}
    for label in data.labels:
        plain = "".join(label.split()).casefold().replace("_", "").replace("-", "")
        other = first.setdefault(plain, label)
        if len(plain) > 1 and data.labels.index(label) != data.labels.index(other):
            yield (
                f"{data.root}: two labels differ only by case or blanks (found {other!r} and "
                f"{label!r}); make them one"
            )
    for label, count in Counter(data.labels).items():
        if count > 1:
            yield (
                f"{data.root}: a label is there {count} times (found {label!r}); name each class "
                "once"
            )


def _beside(data: DataSet) -> Iterator[str]:
    """Yield a note on images in the folders of the data set that it does not list."""
    suffixes = {os.path.splitext(image.path.name)[1] for image in data.images}
    listed = {str(image.path) for image in data.images}
    lost = {os.path.basename(line.partition(": ")[0]) for line in data.losses}
    found = []
    for folder in sorted({image.path.parent for image in data.images}):
        for name in sorted(os.listdir(folder)):
            own = os.path.splitext(name)[1] in suffixes and not name.startswith(".")
            if own and name not in lost and str(folder / name) not in listed:
                found.append(name)
    if found:
        yield (
            f"{len(found)} {'image' if len(found) == 1 else 'images'} beside those of the data set "
            f"without labels, not used (first: {shown(found[0], 80)})"
        )


def _classes_of(image: LabelledImage) -> frozenset[int]:
    """Return the classes of an image, and of its objects."""
    return frozenset((*image.classes, *(item.number for item in image.objects)))


def _unlike_copies(
    data: DataSet, prints: Sequence[Print | None], groups: Sequence[tuple[int, ...]]
) -> Iterator[str]:
    """Yield a line for each equal file with other classes; one of the two must be wrong."""
    for group in groups:
        files: dict[bytes, int] = {}
        for at in group:
            seen = prints[at]
            first = at if seen is None else files.setdefault(seen.digest, at)
            one, two = data.images[first], data.images[at]
            if _classes_of(one) != _classes_of(two):
                yield (
                    f"{shown(two.name, 60)}: the same file as {shown(one.name, 60)}, with other "
                    f"classes (found {_names(data, two)} and {_names(data, one)}); keep the right "
                    "one"
                )


def _groups(data: DataSet, groups: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yield notes on images that are nearly the same, such as two frames of a video."""
    if groups:
        names = ", ".join(shown(data.images[at].name, 40) for at in groups[0][:3])
        yield (
            f"{sum(map(len, groups))} images that are nearly the same as others, in {len(groups)} "
            f"{'group' if len(groups) == 1 else 'groups'} (first: {names})"
        )
    unlike = sum(len({data.images[at].classes for at in group}) > 1 for group in groups)
    if unlike:
        yield f"{unlike} of these groups with images of different classes; they may be wrong labels"


def _names(data: DataSet, image: LabelledImage) -> str:
    """Return the labels of an image as text."""
    return shown(", ".join(data.labels[n] for n in sorted(_classes_of(image))) or "none", 40)


def _across(data: DataSet, parts: Parts, groups: Sequence[tuple[int, ...]]) -> list[str]:
    """Return a line for each group of images that are nearly the same and in several parts."""
    part_of = {name: part for part in PARTS for name in parts.named(part)}
    lines = []
    for group in groups:
        first: dict[str, str] = {}
        for at in group:
            name = data.images[at].name
            if name in part_of:
                first.setdefault(part_of[name], name)
        if len(first) > 1:
            (one, name), (two, other) = list(first.items())[:2]
            lines.append(
                f"{shown(other, 80)}: nearly the same as {shown(name, 80)} (found in {two} and "
                f"{one}, {len(group)} images alike), so figures would be too good; put them in one "
                "part"
            )
    more = len(lines) - MAX_DUPLICATES
    if more > 0:
        lines[MAX_DUPLICATES:] = [f"split: {more} more groups of images are in several parts"]
    return lines


def _empty_classes(data: DataSet, counts: dict[str, PartCounts]) -> Iterator[str]:
    """Yield a line for each class without an example.

    A list of labels may hold more than are used; an empty folder was made for its class.
    """
    classes = {} if data.task == "semantic" else counts["all"].classes
    for label in (label for label, count in classes.items() if not count):
        near = close_match(label, [other for other in classes if other != label])
        yield (
            f"{data.root}: a class has no example, and cannot be learnt (found {label!r}"
            f"{f', like {near!r}' if near else ''}); add images of it, or remove it"
        )


def _misspelt(data: DataSet, counts: dict[str, PartCounts]) -> Iterator[str]:
    """Yield a line for each class with few examples whose name is nearly that of a larger one."""
    classes = counts["all"].classes
    for label, count in classes.items():
        larger = [other for other, many in classes.items() if many > 4 * count]
        near = close_match(label, larger) if 0 < count < FEW else None
        if near is not None and SequenceMatcher(None, label, near).ratio() >= MIN_ALIKE:
            yield (
                f"{data.root}: a class is called much like a larger one (found {count} of "
                f"{label!r} and {classes[near]} of {near!r}); rename it, if they are one"
            )


def _not_in_train(counts: dict[str, PartCounts]) -> Iterator[str]:
    """Yield a line for each class whose examples are all outside of the part to train with."""
    for label, count in counts["all"].classes.items():
        if count and not counts["train"].classes[label]:
            yield (
                f"split: a class has no example in train (found {label!r}, {count} in other "
                "parts); move some"
            )


def _few(data: DataSet, counts: dict[str, PartCounts]) -> Iterator[str]:
    """Yield notes on classes with few examples, and on background."""
    classes = counts["all"].classes
    few = [label for label, count in classes.items() if 0 < count < FEW]
    if few:
        yield (
            f"{len(few)} of {len(classes)} classes with fewer than {FEW} examples "
            f"({shown(', '.join(few), 120)})"
        )
    plain = counts["all"].background
    if data.task == "detect" and plain:
        yield f"{plain} {'image' if plain == 1 else 'images'} without objects, used as background"
    if data.task == "classify" and plain:
        yield f"{plain} {'image' if plain == 1 else 'images'} without a class, not used"
