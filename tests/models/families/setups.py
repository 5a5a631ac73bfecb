"""The files that cases are made for, and random numbers of outputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Setup(NamedTuple):
    """The file that a case is made for."""

    size: tuple[int, int] = (96, 64)
    images: int = 1
    classes: int = 3
    nhwc: bool = False
    dtype: str = "float32"
    rounding: str = "floor"


class Case(NamedTuple):
    outputs: dict
    """Name -> array with the axis of images."""
    expected: list
    """For each image, all rows as `reference.Found`."""
    card: str = ""
    more_inputs: dict | None = None


def numbers(rng, setup, shape, low, high):
    return rng.uniform(low, high, shape).astype(setup.dtype)


def logits(rng, setup, shape):
    return (rng.normal(size=shape) * 2).astype(setup.dtype)


def shares(rng, setup, shape):
    return numbers(rng, setup, shape, 0, 1)


def corners(rng, setup, n, unit=True):
    """Corners (images, n, 4): of boxes in the input, as fractions or in pixels."""
    ends = np.sort(rng.uniform(0, 1, (setup.images, n, 2, 2)), axis=2).reshape(setup.images, n, 4)
    return (ends if unit else ends * (setup.size * 2)).astype(setup.dtype)


def centres(rng, setup, n, unit=True):
    x1, y1, x2, y2 = np.moveaxis(corners(rng, setup, n, unit).astype(float), 2, 0)
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=2).astype(setup.dtype)


def per_image(setup, decode):
    return [decode(i) for i in range(setup.images)]
