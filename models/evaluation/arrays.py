"""Checks of the arrays that are evaluated, and packages that only evaluation needs."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError

Boxes = NDArray[np.float64]
"""(N, 4) xyxy in px."""
Rows = NDArray[np.intp]
"""Row numbers."""
MAX_COORDINATE_PX = 1e7
"""Bound of coordinates: far beyond it an area, or a sum of areas, is not exact any more."""


def optional_module(name: str) -> ModuleType:
    """Import a package that only evaluation needs.

    Raises:
        EvaluationError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as failure:
        package = name.partition(".")[0]
        raise EvaluationError(
            f"evaluation: {package} cannot be imported ({failure}); run `make evaluate`, or pip "
            'install "eyeline[evaluate]"'
        ) from None


def areas_of(boxes: Boxes) -> NDArray[np.float64]:
    """Return the areas (N,) of boxes in px²."""
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def check_boxes(where: str, boxes: NDArray[Any]) -> None:
    """Refuse boxes that have no shape (N, 4), a corner that is no number, or negative sides.

    Args:
        where: place for the message, such as "a.jpg: truth".
        boxes: (N, 4) xyxy in px.

    Raises:
        EvaluationError: they are wrong.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise EvaluationError(f"{where}: boxes are not (N, 4) (found {boxes.shape}); give xyxy")
    wrong = ~(np.abs(boxes) <= MAX_COORDINATE_PX).all(axis=1)  # includes NaN
    wrong |= (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        found = ", ".join(f"{side:g}" for side in boxes[row])
        raise EvaluationError(
            f"{where}: box {row} is not x1 <= x2, y1 <= y2 within ±{MAX_COORDINATE_PX:g} px "
            f"(found {found}); correct the box"
        )


def check_lengths(where: str, length: int, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Refuse arrays that are not parallel.

    Args:
        where: place for the message.
        length: length that all must have.
        arrays: name and array of each; (N,).

    Raises:
        EvaluationError: one has another shape.
    """
    for name, array in arrays:
        if array.shape != (length,):
            raise EvaluationError(
                f"{where}: {name} is not ({length},) (found {array.shape}); "
                f"give one value for each row"
            )


def check_classes(where: str, classes: NDArray[Any], count: int) -> None:
    """Refuse classes that are not integers from 0 to `count` - 1.

    Raises:
        EvaluationError: one is not.
    """
    if classes.size == 0:
        return
    if not np.issubdtype(classes.dtype, np.integer):
        raise EvaluationError(f"{where}: classes are {classes.dtype}; give integers")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= count:
        raise EvaluationError(
            f"{where}: class {low if low < 0 else high} is not in the labels "
            f"(found {count} labels); give indices from 0 to {count - 1}"
        )


def check_unique(where: str, names: Iterable[Hashable]) -> None:
    """Refuse a name that occurs twice.

    Raises:
        EvaluationError: one does.
    """
    seen: set[Hashable] = set()
    for name in names:
        if name in seen:
            raise EvaluationError(f"{where}: {name} occurs twice; give each only once")
        seen.add(name)


def ratio(part: float, whole: float) -> float | None:
    """Divide; None: undefined, because the whole is 0."""
    return float(part) / float(whole) if whole else None
