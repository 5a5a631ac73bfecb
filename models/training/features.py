"""Features of frozen layers: computed once for each view of each image, and kept on disk.

The head of a network trains in minutes on a CPU if the layers below it, which do not change, run
once per view and not once per epoch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training.augment import Augmentation, Image, View, draw_view, plain_view

Maps = Sequence[NDArray[np.float32]]
"""(N, C, H, W) each."""
Extract = Callable[[NDArray[np.uint8]], Maps]
"""Features of inputs (N, size, size, 3) uint8 BGR."""
BATCH = 8
FREE_BYTES = 2**30
"""Disk space that a cache leaves free."""
MAX_FOLDERS = 12
"""Caches that are kept; the one that was used longest ago is removed first."""


class Rows(Protocol):
    """Inputs of a network of which features are computed: views of images, or patches of views."""

    def __len__(self) -> int: ...

    def pixels(self, row: int) -> Image:
        """Return the input (side, side, 3) uint8 BGR of a row."""
        ...

    def key(self) -> str:
        """Return a text that differs where the pixels of a row would."""
        ...


class Views:
    """The views of some images: number 0 is the image as the pipeline sees it.

    Args:
        images: the images.
        limits: limits of the augmentation.
        size: side of the input in pixels.
        count: views of each image.
        seed: seed of the run.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        limits: Augmentation,
        size: int,
        count: int,
        seed: int,
    ) -> None:
        self.images, self.size, self.count = images, size, count
        self._limits, self._seed = limits, seed

    def __len__(self) -> int:
        return len(self.images) * self.count

    def view(self, row: int) -> View:
        """Return the view of a row: `count` rows for each image."""
        number, view = divmod(row, self.count)
        width, height = self.images[number].size
        if view == 0:
            return plain_view(width, height, self.size)
        return draw_view(self._limits, width, height, self.size, (self._seed, number, view))

    def pixels(self, row: int) -> Image:
        """Return the input (size, size, 3) uint8 BGR of a row."""
        return self.view(row).pixels(read_pixels(self.images[row // self.count]))

    def key(self) -> str:
        """Return a text that differs where the pixels of a row would."""
        content = hashlib.sha256(
            msgspec.json.encode((self._limits, self.size, self.count, self._seed))
        )
        for image in self.images:
            content.update(hashlib.sha256(image.path.read_bytes()).digest())
        return content.hexdigest()


def read_pixels(image: LabelledImage) -> Image:
    """Read an image, (H, W, 3) uint8 BGR.

    Raises:
        TrainingError: it cannot be decoded.
    """
    pixels = cv2.imread(str(image.path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise TrainingError(
            f"{image.path}: the image cannot be decoded; save it again, or remove it"
        )
    return np.asarray(pixels, np.uint8)


def read_input(image: LabelledImage, size: int) -> Image:
    """Read an image as the pipeline makes the input of it: (size, size, 3) uint8 BGR, stretched.

    Raises:
        TrainingError: it cannot be decoded.
    """
    return np.asarray(cv2.resize(read_pixels(image), (size, size)), np.uint8)


def as_colours(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return inputs of a backbone (N, 3, H, W) float32 RGB of pixels (N, H, W, 3) uint8 BGR."""
    return np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), np.float32)


class FeatureCache:
    """Feature maps of all rows, float16 on disk, mapped into memory.

    A row that was computed before an interruption is not computed again.

    Args:
        root: folder of all caches.
        views: the rows.
        source: text that differs where the extracted features would: weights and names of maps.
        extract: computes the features of inputs.
    """

    def __init__(self, root: Path, views: Rows, source: str, extract: Extract) -> None:
        self._views, self._extract = views, extract
        self.key = hashlib.sha256(f"{views.key()} {source}".encode()).hexdigest()[:24]
        """Text that differs where its content would."""
        self._folder = root / self.key
        self._done: NDArray[Any] = np.zeros(len(views), np.uint8)
        self._maps: list[NDArray[Any]] = []
        self.computed = 0
        """Rows that this object has computed."""

    @property
    def missing(self) -> int:
        """Return how many rows are not there yet."""
        return int((self._done == 0).sum())

    def fill(self) -> Iterator[int]:
        """Compute what is missing, and yield the number of rows that are there.

        Raises:
            TrainingError: the disk has no room for it.
        """
        self._open()
        missing = np.flatnonzero(self._done == 0)
        for start in range(0, len(missing), BATCH):
            rows = missing[start : start + BATCH]
            pixels = np.stack([self._views.pixels(int(row)) for row in rows])
            for own, found in zip(self._maps, self._extract(pixels), strict=True):
                own[rows] = found
            self._done[rows] = 1
            self.computed += len(rows)
            yield len(self._done) - len(missing) + start + len(rows)

    def rows(self, rows: NDArray[np.intp]) -> Maps:
        """Return the maps of some rows, (len(rows), C, H, W) float32 each."""
        return [maps[rows].astype(np.float32) for maps in self._maps]

    def _open(self) -> None:
        """Map the files, which are made where they are missing."""
        if not len(self._views) or self._maps:
            return
        shapes = [maps.shape[1:] for maps in self._extract(self._views.pixels(0)[None])]
        rows = len(self._views)
        done = self._folder / "done"
        if not done.exists():
            make_room(self._folder.parent, sum(2 * rows * int(np.prod(s)) for s in shapes))
            self._folder.mkdir(parents=True, exist_ok=True)
        os.utime(self._folder)
        for number, shape in enumerate(shapes):
            self._maps.append(_mapped(self._folder / f"{number}.f16", (rows, *shape), np.float16))
        # Last: where it is there, the others have their size.
        self._done = _mapped(done, (rows,), np.uint8)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Map a file of an array into memory; a new one is all zero and takes no room yet."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if file.tell() != size:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


def make_room(root: Path, size: int) -> None:
    """Remove the caches used longest ago, and check that there is room for another one.

    Raises:
        TrainingError: there is not.
    """
    root.mkdir(parents=True, exist_ok=True)
    old = sorted(
        (path for path in root.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime
    )
    while old and (len(old) >= MAX_FOLDERS or shutil.disk_usage(root).free < size + FREE_BYTES):
        shutil.rmtree(old.pop(0), ignore_errors=True)
    free = shutil.disk_usage(root).free
    if free < size + FREE_BYTES:
        raise TrainingError(
            f"{root}: no room for the features (found {free / 2**30:.1f} GiB free, "
            f"needed {(size + FREE_BYTES) / 2**30:.1f}); free disk space, or set fewer views"
        )
