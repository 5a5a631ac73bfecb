"""The pictures of a report: which images are worth a look, drawn with their results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training.drawing import MAX_SIDE_PX, fitted
from models.training.features import read_pixels
from models.training.method import Method, Result

COUNT = 12
"""Pictures of each kind."""
RIGHT = 0.5
"""Error below which a result is right."""
SURE = 0.8
"""Doubt from which on a label is worth a second look."""
QUALITY = 80
"""JPEG quality, 0 to 100."""
PARTS = {"val": "validation", "test": "test"}
Photo = tuple[str, str, bytes]
"""Name of the image, what is said about it, and a JPEG."""


class Example(NamedTuple):
    """An image with its result."""

    part: str
    image: LabelledImage
    result: Result
    error: float
    """See `Method.error`."""
    doubt: float
    """See `Method.doubt`."""


def examples_of(
    method: Method, part: str, images: Sequence[LabelledImage], results: Sequence[Result]
) -> list[Example]:
    """Return the examples of a part."""
    return [
        Example(part, image, result, method.error(image, result), method.doubt(image, result))
        for image, result in zip(images, results, strict=True)
    ]


def hardest(examples: Iterable[Example]) -> list[Example]:
    """Return the examples that are wrong the most, worst first."""
    wrong = [example for example in examples if example.error >= RIGHT]
    return sorted(wrong, key=lambda e: -e.error)[:COUNT]


def doubtful(examples: Iterable[Example]) -> list[Example]:
    """Return the examples whose label may be wrong, most likely first."""
    sure = [example for example in examples if example.doubt >= SURE]
    return sorted(sure, key=lambda e: -e.doubt)[:COUNT]


def right(examples: Iterable[Example], seed: int) -> list[Example]:
    """Return some examples that are right, drawn by the seed."""
    found = [example for example in examples if example.error < RIGHT]
    order = np.random.default_rng(seed).permutation(len(found))[:COUNT]
    return [found[at] for at in sorted(order.tolist())]


def drawn(method: Method, examples: Iterable[Example], about: str) -> list[Photo]:
    """Return the pictures of examples; an image that cannot be read any more is left out.

    Args:
        method: draws the results.
        examples: the examples.
        about: text below a picture, with the fields `part`, `error` and `doubt`.
    """
    photos = []
    for example in examples:
        try:
            pixels = fitted(read_pixels(example.image), MAX_SIDE_PX)
        except TrainingError:
            continue
        picture = method.draw(pixels, example.image, example.result)
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if done:
            text = about.format(part=PARTS[example.part], error=example.error, doubt=example.doubt)
            photos.append((example.image.name, text, bytes(data)))
    return photos
