"""Other labels for a data set, by an explicit map, and several data sets as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from models.datasets.base import DataSet, LabelledImage
from models.errors import DataError, DataFaults
from models.text import close_match, shown


def relabel(data: DataSet, mapping: Mapping[str, str | None], keep: bool = False) -> DataSet:
    """Return a data set with other labels; several labels may become one.

    Of images with boxes, those without an object are kept, since they are background; of images
    with a class, those without one are left out.

    Args:
        data: the data set; its classes are of images or of objects, not of pixels.
        mapping: label of the data set -> label of the result; None: it is left out.
        keep: whether labels that the map does not name are kept; if not, they are left out, and a
            note says how many examples they had.

    Raises:
        DataFaults: labels of the map are not those of the data set; each is listed.
        DataError: classes are of pixels or clips, or no label is left.
    """
    _check_map(data, mapping)
    targets = [mapping.get(label, label if keep else None) for label in data.labels]
    labels = tuple(dict.fromkeys(label for label in targets if label is not None))
    if not labels:
        raise DataError(
            f"{data.root}: no label is left by the map (the data set has "
            f"{shown(', '.join(data.labels), 100)}); map at least one"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    new = [None if label is None else numbers[label] for label in targets]
    images = [_relabelled(image, new) for image in data.images]
    if data.task == "classify":
        images = [image for image in images if image.classes]
    unnamed = [] if keep else [label for label in data.labels if label not in mapping]
    notes = (*data.notes, _left_out(data, unnamed)) if unnamed else data.notes
    return msgspec.structs.replace(data, labels=labels, images=tuple(images), notes=notes)


def _check_map(data: DataSet, mapping: Mapping[str, str | None]) -> None:
    """Refuse a map that does not fit the data set."""
    if data.task == "semantic" or data.clips:
        raise DataError(
            f"{data.root}: only labels of images and boxes can be mapped (found {data.task}); "
            "change the files of the data set"
        )
    faults = []
    for label in mapping:
        if label not in data.labels:
            near = close_match(label, data.labels)
            remedy = f"did you mean {near!r}?" if near else "write labels of the data set"
            faults.append(
                f"{data.root}: a label of the map is not in the data set (found "
                f"{shown(label, 60)!r}); {remedy}"
            )
    if faults:
        raise DataFaults(faults)


def _relabelled(image: LabelledImage, new: Sequence[int | None]) -> LabelledImage:
    """Return an image with other classes: number -> new number, or None to leave it out."""
    objects = tuple(
        msgspec.structs.replace(item, number=number)
        for item in image.objects
        if (number := new[item.number]) is not None
    )
    classes = dict.fromkeys(number for old in image.classes if (number := new[old]) is not None)
    return msgspec.structs.replace(image, objects=objects, classes=tuple(classes))


def _left_out(data: DataSet, unnamed: Sequence[str]) -> str:
    """Return a note on the labels that a map does not name."""
    counts = Counter(item.number for image in data.images for item in image.objects)
    counts.update(number for image in data.images for number in image.classes)
    examples = sum(counts[data.labels.index(label)] for label in unnamed)
    return shown(
        f"{len(unnamed)} {'label is' if len(unnamed) == 1 else 'labels are'} not in the map and "
        f"left out, with {examples} examples ({shown(', '.join(unnamed), 120)})"
    )


def merge(sets: Sequence[DataSet]) -> DataSet:
    """Join data sets of one task into one.

    Labels are united by their text, in the order in which they come. The name of an image is
    preceded by that of the file or folder of its data set, with a number where two have the same.

    Raises:
        DataError: there is none, their tasks differ, or classes of pixels have other numbers.
    """
    if not sets:
        raise DataError("data sets: there is none to join; name at least one")
    first = sets[0]
    if len(sets) == 1:
        return first
    for data in sets:
        if data.task != first.task or data.clips:
            raise DataError(
                f"{data.root}: its task is another one (found {data.task} with {first.task} of "
                f"{first.root}), or it has clips; join sets of images of one task"
            )
        if data.task == "semantic" and data.labels != first.labels:
            raise DataError(
                f"{data.root}: its classes of pixels have other numbers than those of {first.root} "
                f"(found {shown(', '.join(data.labels), 60)}); make them equal"
            )
    labels = tuple(dict.fromkeys(label for data in sets for label in data.labels))
    numbers = {label: number for number, label in enumerate(labels)}
    images = []
    for name, data in zip(_names(sets), sets, strict=True):
        new = [numbers[label] for label in data.labels]
        for image in data.images:
            own = _relabelled(image, new)
            images.append(msgspec.structs.replace(own, name=f"{name}/{own.name}"))
    return msgspec.structs.replace(
        first,
        labels=labels,
        images=tuple(images),
        notes=tuple(note for data in sets for note in data.notes),
        faults=tuple(fault for data in sets for fault in data.faults),
        losses=tuple(loss for data in sets for loss in data.losses),
        warnings=tuple(warning for data in sets for warning in data.warnings),
    )


def _names(sets: Sequence[DataSet]) -> list[str]:
    """Return a name for each data set, unique among them."""
    names: list[str] = []
    for data in sets:
        stem = data.root.resolve().name or "set"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names
