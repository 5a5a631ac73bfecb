"""The parts that a data set has itself: folders or lists called train, val and test."""

from __future__ import annotations

from models import datasets
from models.datasets.base import DataSet
from models.datasets.parts import PARTS, Parts
from models.errors import DataError


def own_parts(data: DataSet) -> Parts | None:
    """Return the parts of a data set that was read as a whole.

    The set is read once more for each part. An image in several of them is in each.

    Returns:
        Parts | None: None: it has no part to train with, or none to validate or test with.
    """
    names: dict[str, list[str]] = {}
    for image in data.images:
        names.setdefault(str(image.path), []).append(image.name)
    found = {}
    for part in PARTS:
        try:
            own = datasets.read(data.root, data.format, part, keep_faults=True)
        except DataError:  # there is none
            continue
        paths = dict.fromkeys(str(image.path) for image in own.images)
        found[part] = tuple(sorted(name for path in paths for name in names.get(path, ())))
    if not found.get("train") or not (found.get("val") or found.get("test")):
        return None
    return Parts(**found)
