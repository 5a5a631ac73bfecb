"""A folder of images per class: ROOT/CLASS/*.jpg, or ROOT/SPLIT/CLASS/*.jpg.

Classes are sorted as plain text, as in torchvision's ImageFolder: "10" comes before "2". They are
those of all splits together, so that a class has the same index in each.
"""

from __future__ import annotations

from pathlib import Path

from models.datasets.base import DataSet
from models.datasets.collect import Collector
from models.datasets.image_size import IMAGE_SUFFIXES
from models.datasets.places import entries, folders_of, has_images, images_below, safe_name, walk
from models.datasets.splits import SPLITS, choose
from models.datasets.writing import new_folder, place
from models.errors import DataError

_RESERVED = frozenset(
    ("images", "labels", "annotations", "jpegimages", "imagesets", "img1", "gt", "masks", "imgs")
)
"""Folders of other formats, which are no classes."""
_LOOKED = "CLASS/ and SPLIT/CLASS/"


def _splits(root: Path) -> dict[str, list[Path]]:
    """Return the folders of classes of each split; the split of a set without splits is ""."""
    below = folders_of(root)
    called = [folder for folder in below if folder.name.lower() in SPLITS]
    # One that holds images itself is a test set without labels.
    splits = [folder for folder in called if not has_images(folder)]
    if splits and (len(called) == len(below) or len(called) > 1):
        return {folder.name: folders_of(folder) for folder in splits}
    return {"": below}


def _is_class(folder: Path) -> bool:
    """Return whether a folder holds images and no annotations, or nothing."""
    found = entries(folder)
    if folder.name.lower() in _RESERVED:
        return False
    if found and next(walk(folder, IMAGE_SUFFIXES), None) is None:
        return False
    return not any(
        entry.suffix.lower() in (".txt", ".xml", ".json") or entry.name.lower() in _RESERVED
        for entry in found
    )


def is_format(path: Path) -> bool:
    """Return whether a path is a folder of two or more folders with nothing but images."""
    if not path.is_dir() or has_images(path):
        return False
    if any(file.suffix.lower() in (".json", ".xml", ".yaml", ".yml") for file in entries(path)):
        return False
    for split, classes in _splits(path).items():
        if len(classes) < 2 or not all(map(_is_class, classes)):
            return False
        if not split and any(folder.name.lower() in SPLITS for folder in classes):
            return False
    return next(walk(path, IMAGE_SUFFIXES), None) is not None


def read(path: Path, split: str | None) -> DataSet:
    """Read a data set of classes.

    Args:
        path: its folder.
        split: the folder of a split; None: all.

    Raises:
        DataError: it is missing or wrong.
    """
    splits = _splits(path)
    chosen = [""] if "" in splits and split is None else choose(filter(None, splits), split, path)
    labels = sorted({folder.name for classes in splits.values() for folder in classes})
    numbers = {label: number for number, label in enumerate(labels)}
    collector = Collector(path, "folders")
    collector.read_together(chosen)
    for name in chosen:
        for folder in splits[name]:
            for image in images_below(folder):
                own = image.relative_to(path).as_posix()
                collector.add(image, own, None, (), (numbers[folder.name],))
    return collector.finish("classify", labels, _LOOKED)


def write(data: DataSet, folder: Path) -> None:
    """Write the folders of the classes; an image without a class cannot be written.

    Raises:
        DataError: the format cannot hold the data set, or the folder is not empty.
    """
    new_folder(data, folder, "folders", ["classify"])
    for label in data.labels:
        if "/" in label or label.startswith(".") or safe_name(label, folder) != label:
            raise DataError(f"{folder}: a label cannot be the name of a folder (found {label!r})")
        (folder / label).mkdir()
    for image in data.images:
        if len(image.classes) != 1:
            raise DataError(
                f"{folder}: an image of this format has one class (found {len(image.classes)}, "
                f"{image.name})"
            )
        label = data.labels[image.classes[0]]
        place(image.path, folder / label, image.name.removeprefix(f"{label}/"))
