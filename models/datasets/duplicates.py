"""Images that are nearly the same: copies saved again, and neighbouring frames of a video.

Two images are alike if small grey copies of them correlate, and the signs of their horizontal
differences agree in most places (dHash: Krawetz, "Kind of like that", 2013). The limits are strict:
photos of different subjects before one background are not alike. Of 320,000 pairs of photos of
hands before a plain wall, the closest one correlated by .958; images saved again at JPEG quality
20, at half the size, or 20 % brighter, correlate by .97 and more, and so do frames of a clip that
follow each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.datasets.image_size import MAX_IMAGE_BYTES, read_size
from models.errors import DataError
from models.files import open_file

MIN_CORRELATION = 0.97
MAX_DIFFERENT = 0.25
"""Largest part of the signs of differences that is not equal."""
GREY_SIDE = 32
SIGN_ROWS, SIGN_COLUMNS = 16, 16
MIN_CONTRAST = 3.0
"""Smallest standard deviation of grey values: an image with less has nothing to compare."""
_MIN_SIDE_PX = 256
"""Shorter side down to which an image may be reduced while it is decoded."""
_ROWS = 256
"""Images that are compared with all others at once."""


class Print(NamedTuple):
    """A small description of an image, to find those that are nearly the same."""

    grey: NDArray[np.float32]
    """(1024,) grey values of the image at 32x32, of mean 0 and length 1; zeros: too little
    contrast."""
    signs: NDArray[np.bool_]
    """(256,) whether a pixel is brighter than its left neighbour, at 17x16."""
    digest: bytes
    """Of the bytes of the file: equal files are alike whatever their pixels."""


def print_of(grey: NDArray[np.uint8], digest: bytes) -> Print:
    """Describe an image.

    Args:
        grey: its pixels, (H, W).
        digest: a digest of its file.
    """
    import cv2

    size = (SIGN_COLUMNS + 1, SIGN_ROWS)
    wide = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.int16)
    small = cv2.resize(grey, (GREY_SIDE, GREY_SIDE), interpolation=cv2.INTER_AREA)
    values: NDArray[np.float32] = small.astype(np.float32).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values))
    values *= np.float32(1 / length if length >= MIN_CONTRAST * GREY_SIDE else 0)
    return Print(values, (wide[:, 1:] > wide[:, :-1]).ravel(), digest)


def read_print(path: Path) -> Print | None:
    """Describe the image of a file; None: it cannot be decoded."""
    grey = read_grey(path)
    try:
        return None if grey is None else print_of(grey, digest_of(path))
    except DataError:
        return None


def read_grey(path: Path) -> NDArray[np.uint8] | None:
    """Decode an image in grey, (H, W), reduced where it is large; None: it cannot be decoded."""
    import cv2

    side = min(read_size(path) or (0, 0))
    mode = cv2.IMREAD_GRAYSCALE
    for factor, reduced in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        if side >= factor * _MIN_SIDE_PX:
            mode = reduced
            break
    try:
        grey = cv2.imread(str(path), mode)
    except (cv2.error, UnicodeEncodeError):
        return None
    return None if grey is None else grey.astype(np.uint8, copy=False)


def digest_of(path: Path) -> bytes:
    """Return a digest of a file.

    Raises:
        DataError: it cannot be read.
    """
    with open_file(path, "image", MAX_IMAGE_BYTES, DataError) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def near_duplicates(paths: Iterable[Path]) -> list[tuple[int, ...]]:
    """Return groups of images that are nearly the same, as indices into their paths.

    An image is in the group of each that it is like, so that the first and the last frame of a
    group may differ. Images that cannot be decoded are in none.
    """
    return clusters([read_print(path) for path in paths])


def clusters(prints: Sequence[Print | None]) -> list[tuple[int, ...]]:
    """Return the groups of two or more images that are alike, each sorted, by their first one."""
    known = [(at, found) for at, found in enumerate(prints) if found is not None]
    if len(known) < 2:
        return []
    places = np.array([at for at, _ in known])
    grey = np.stack([found.grey for _, found in known])
    signs = np.stack([found.signs for _, found in known])
    group = np.arange(len(known))
    first: dict[bytes, int] = {}
    for row, (_, found) in enumerate(known):
        group[row] = first.setdefault(found.digest, row)
    for start in range(0, len(known), _ROWS):
        near = grey[start : start + _ROWS] @ grey.T >= MIN_CORRELATION
        for offset in np.flatnonzero(near.sum(axis=1) > 1):
            row = start + int(offset)
            others = np.flatnonzero(near[offset, :row])
            different = (signs[others] != signs[row]).mean(axis=1)
            others = others[different <= MAX_DIFFERENT]
            if len(others):
                joined = np.unique(np.append(group[others], group[row]))
                group[np.isin(group, joined)] = joined[0]
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted(tuple(places[part].tolist()) for part in parts if len(part) > 1)
