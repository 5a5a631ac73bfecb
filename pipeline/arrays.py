"""The arrays that a stage takes and gives, as it declares them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec
import numpy as np

from pipeline.frame import Frame, Status


class ContractError(TypeError):
    """A stage does not follow the contract."""


class Array(msgspec.Struct, frozen=True):
    """An array that a stage takes or gives."""

    name: str
    dtype: str | None = None
    """numpy's name of the dtype; None: any."""
    shape: tuple[int | None, ...] | None = None
    """Length of each axis, None: any length; None in place of the tuple: any shape."""
    optional: bool = False
    """Taken if a stage before gives it."""
    unless: tuple[str, ...] = ()
    """Optional where a stage before gives one of these arrays."""

    def __post_init__(self) -> None:
        if self.dtype is not None:
            try:
                np.dtype(self.dtype)
            except TypeError:
                raise ContractError(
                    f"array {self.name!r}: unknown dtype {self.dtype!r}; use a name of numpy"
                ) from None


def check_given(frame: Frame, gives: Sequence[Array]) -> None:
    """Check that the arrays of a frame are as a stage declares in `gives`. It may leave one out.

    Raises:
        ContractError: one has another dtype or shape.
    """
    if frame.header.status != Status.LIVE:
        return
    for array in gives:
        found = frame.header.arrays.get(array.name)
        if found is None:
            continue
        _, dtype, shape = found
        if (array.dtype is None or dtype == dtype_text(array.dtype)) and fits(array.shape, shape):
            continue
        raise ContractError(
            f"gave array {array.name!r} as {np.dtype(dtype)} {shape}, but declares "
            f"{array.dtype or 'any'} {array.shape or 'any'} in `gives`"
        )


def fits(declared: tuple[int | None, ...] | None, shape: tuple[int, ...]) -> bool:
    """Return whether a shape is as declared."""
    return declared is None or (
        len(declared) == len(shape)
        and all(side is None or side == found for side, found in zip(declared, shape, strict=True))
    )


@functools.cache
def dtype_text(name: str) -> str:
    """Return the text of a dtype in a header."""
    return np.dtype(name).str
