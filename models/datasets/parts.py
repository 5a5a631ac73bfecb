"""The three parts of a data set: images to train with, to validate with, and to test with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.datasets.base import DataSet
from models.datasets.collect import TOGETHER
from models.datasets.reading import read_json
from models.errors import DataError, DataFaults
from models.text import close_match, shown

PARTS = ("train", "val", "test")


class Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of the images of each part, sorted."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def named(self, part: str) -> tuple[str, ...]:
        """Return the names of the images of a part.

        Raises:
            DataError: there is no such part.
        """
        if part not in PARTS:
            raise DataError(f"{part}: no part of a split; name one of {', '.join(PARTS)}")
        return {"train": self.train, "val": self.val, "test": self.test}[part]


def split_images(
    data: DataSet,
    seed: int,
    val: float,
    test: float,
    groups: Sequence[Sequence[int]] = (),
) -> Parts:
    """Split a data set in three parts; equal arguments give equal parts.

    The groups, in the order of the first of their names, are permuted. The test part is taken from
    the end of the permutation, and the validation part from what is before it. A group that is so
    large that the part would be farther from its size with it than without it is passed over. Where
    images have a class, this is done for each class apart, so that each part has all of them.

    Args:
        data: the data set.
        seed: number of the permutation.
        val: fraction of the images to validate with, at least 0.
        test: fraction of the images to test with, at least 0.
        groups: indices into the images of the data set that stay together, such as those of one
            video; groups with a common image are one. An image that is in none is a group alone.

    Raises:
        DataError: the fractions leave nothing to train with, or a part that is wanted would be
            empty.
    """
    if min(val, test) < 0 or not val + test < 1:
        raise DataError(
            f"split: the parts to validate and to test leave nothing to train with (found {val:g} "
            f"and {test:g}); write fractions with a sum below 1"
        )
    waiting = _joined(data, groups)
    order = np.random.RandomState(seed).permutation(len(waiting))
    waiting = [waiting[at] for at in reversed(order)]
    total = len(data.images)
    chosen: tuple[list[list[int]], ...] = ([], [], [])
    for own in _by_class(data, waiting):
        count = sum(map(len, own))
        tested, own = _take_groups(own, _count(count, test))
        validated, own = _take_groups(own, _count(count, val))
        for part, groups_of_part in zip(chosen, (own, validated, tested), strict=True):
            part.extend(groups_of_part)
    names = [
        tuple(sorted(data.images[at].name for group in part for at in group)) for part in chosen
    ]
    for name, own_names, wanted in zip(PARTS, names, (1.0 - val - test, val, test), strict=True):
        if wanted > 0 and not own_names:
            raise DataError(
                f"{data.root}: the part {name} would have no image (found {total} images in "
                f"{len(order)} groups that stay together); add images, or write a split"
            )
    return Parts(*names)


def fold_images(
    data: DataSet,
    seed: int,
    fold: tuple[int, int],
    val: float,
    groups: Sequence[Sequence[int]] = (),
) -> Parts:
    """Return the parts of one fold of cross-validation: each image is tested with in one of them.

    The groups are permuted and dealt to the folds in turn, where images have a class those of one
    class after the other; the validation part is drawn from the
    images of the other folds.

    Args:
        data: the data set.
        seed: number of the permutation.
        fold: K and N: the K-th of N folds is the test part, 1 to N.
        val: fraction of the other images to validate with.
        groups: see `split_images`.

    Raises:
        DataError: there are fewer groups than folds, or a part would be empty.
    """
    number, folds = fold
    waiting = _joined(data, groups)
    if len(waiting) < folds:
        raise DataError(
            f"{data.root}: too few images for {folds} folds (found {len(waiting)} groups that stay "
            "together); use fewer folds"
        )
    order = np.random.RandomState(seed).permutation(len(waiting))
    dealt = [group for own in _by_class(data, [waiting[at] for at in order]) for group in own]
    tested = {at for group in dealt[number - 1 :: folds] for at in group}
    left = [at for at in range(len(data.images)) if at not in tested]
    places = {at: place for place, at in enumerate(left)}
    rest = msgspec.structs.replace(data, images=tuple(data.images[at] for at in left))
    own = [[places[at] for at in group if at in places] for group in waiting]
    drawn = split_images(rest, seed, val, 0.0, [group for group in own if group])
    names = tuple(sorted(data.images[at].name for at in tested))
    return Parts(drawn.train, drawn.val, names)


def _by_class(data: DataSet, groups: list[list[int]]) -> list[list[list[int]]]:
    """Return the groups of each class, in their order; all as one where images have no class."""
    if data.task != "classify":
        return [groups]
    found: dict[tuple[int, ...], list[list[int]]] = {}
    for group in groups:
        found.setdefault(data.images[group[0]].classes, []).append(group)
    return [found[classes] for classes in sorted(found)]


def _count(total: int, fraction: float) -> int:
    """Return the number of images of a part: at least one, if it is wanted at all."""
    return max(round(total * fraction), int(fraction > 0))


def _joined(data: DataSet, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return disjoint groups of all images, in the order of the first name in each."""
    places = sorted(range(len(data.images)), key=lambda at: data.images[at].name)
    rank = {at: place for place, at in enumerate(places)}
    parent = list(range(len(places)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for group in groups:
        for other in group:
            one, two = sorted((root(rank[group[0]]), root(rank[other])))
            parent[two] = one
    joined: dict[int, list[int]] = {}
    for place, at in enumerate(places):
        joined.setdefault(root(place), []).append(at)
    return list(joined.values())


def _take_groups(waiting: list[list[int]], wanted: int) -> tuple[list[list[int]], list[list[int]]]:
    """Take groups from the front until so many images are reached; return them, and the others."""
    taken: list[list[int]] = []
    left: list[list[int]] = []
    count = 0
    for group in waiting:
        if count < wanted and abs(count + len(group) - wanted) < wanted - count:
            taken.append(group)
            count += len(group)
        else:
            left.append(group)
    if wanted > 0 and not taken and len(left) > 1:
        # All are too large: the smallest is nearest.
        smallest = min(range(len(left)), key=lambda at: len(left[at]))
        taken.append(left.pop(smallest))
    return taken, left


def read_parts(path: Path | str, data: DataSet) -> Parts:
    """Read the parts of a data set: JSON, `{"train": [names], "val": [names], "test": [names]}`.

    A part may be left out, and an image may be in none.

    Raises:
        DataFaults: names are not those of images, or are there twice; each is listed.
        DataError: the file cannot be read, or is of another form.
    """
    parts = read_json(Path(path), Parts, "parts")
    faults = [*_unknown(path, parts, data), *twice(path, parts)]
    if faults:
        raise DataFaults(faults)
    return parts


def _unknown(path: object, parts: Parts, data: DataSet) -> Iterator[str]:
    """Yield a line for each name that is not that of an image."""
    known = {image.name for image in data.images}
    for part in PARTS:
        for name in parts.named(part):
            if name in known:
                continue
            near = close_match(name, known) if len(known) < 10_000 else None
            remedy = f"did you mean {near!r}?" if near else "write the names of images of the set"
            yield (
                f"{path}: {part}: no image of the data set has this name (found "
                f"{shown(name, 80)!r}); {remedy}"
            )


def twice(path: object, parts: Parts) -> Iterator[str]:
    """Yield a line for each image that is in two parts, or twice in one.

    Args:
        path: what the lines begin with.
        parts: the parts.
    """
    seen: dict[str, str] = {}
    for part in PARTS:
        for name in parts.named(part):
            if name in seen:
                both = f"{seen[name]} and {part}" if seen[name] != part else f"{part} twice"
                yield (
                    f"{path}: an image is in two places (found {shown(name, 80)!r} in {both}); "
                    "leave it in one"
                )
            seen.setdefault(name, part)


def split_file(split: str | None) -> tuple[Path, str] | None:
    """Return the file and the part of a text such as "split.json:test"; None: it is another."""
    file, colon, part = (split or "").rpartition(":")
    return (Path(file), part) if colon and file.lower().endswith(".json") else None


def write_parts(path: Path | str, parts: Parts) -> None:
    """Write the parts of a data set as `read_parts` reads them, a name per line.

    Raises:
        DataError: the file cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(parts), indent=1)
    try:
        Path(path).write_bytes(text + b"\n")
    except OSError as error:
        raise DataError(f"{path}: the split cannot be written: {error.strerror}") from None


def take(data: DataSet, names: Iterable[str]) -> DataSet:
    """Return a data set of the images of some names, in the order of the data set.

    Its notes are those of the whole, without that on splits which are read together.

    Raises:
        DataFaults: there is no image of a name; each is listed.
    """
    wanted = dict.fromkeys(names)
    images = tuple(image for image in data.images if image.name in wanted)
    if len(images) < len(wanted):
        there = {image.name for image in images}
        raise DataFaults(
            f"{data.root}: no image has the name {shown(name, 80)!r}; correct the list of names"
            for name in wanted
            if name not in there
        )
    notes = tuple(note for note in data.notes if not note.startswith(TOGETHER))
    return msgspec.structs.replace(data, images=images, notes=notes)


def groups_by_name(data: DataSet, pattern: str) -> list[tuple[int, ...]]:
    r"""Return the images of which a part of their names is equal, such as those of one video.

    Args:
        data: the data set.
        pattern: regular expression, searched in each name; the text of its first group, or of all
            of it, is compared. An image without a match is in no group. `^(.*)/` is the folder,
            `(.*)_\d+` what is before the number of a frame.

    Raises:
        DataError: it is no regular expression.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise DataError(f"{pattern}: not a regular expression: {error}") from None
    groups: dict[str, list[int]] = {}
    for at, image in enumerate(data.images):
        if found := search(image.name):
            groups.setdefault(found[1] if found.re.groups else found[0], []).append(at)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def cut_large(
    data: DataSet, groups: Sequence[Sequence[int]], largest: int
) -> list[tuple[int, ...]]:
    """Return groups with those that are too large cut into runs of neighbouring names.

    All frames of a camera that does not move may be one group, of which no split could be made.
    Runs of frames leave few that are alike in two parts: those where runs meet.

    Args:
        data: the data set.
        groups: indices into its images. Images of one with other classes are other groups.
        largest: limit of the images of a group, at least 1.
    """
    found = []
    for group in _of_one_class(data, groups):
        order = sorted(group, key=lambda at: _natural(data.images[at].name))
        count = -(-len(order) // largest)
        size = -(-len(order) // max(count, 1))
        found += [tuple(order[at : at + size]) for at in range(0, len(order), max(size, 1))]
    return found


def _of_one_class(data: DataSet, groups: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the images of each class of each group; whole groups where images have no class.

    Pictures of several things before one background are nearly the same, but other examples.
    """
    for group in groups:
        found: dict[tuple[int, ...], list[int]] = {}
        for at in group:
            found.setdefault(data.images[at].classes, []).append(at)
        yield from found.values()


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts "frame 10" behind "frame 9"."""
    texts = re.split(r"(\d+)", name)
    return [(int(text), "") if at % 2 else (-1, text) for at, text in enumerate(texts)]
