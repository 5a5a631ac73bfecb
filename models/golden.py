"""A golden file: one input of a model, and the outputs that it must give, as numpy's .npz.

It holds an array for each input, under its name, and `output0`, `output1`, ... in the order of the
model's file.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import runtime
from models.errors import CardError
from models.files import open_file
from models.text import shown

TOLERANCE = 1e-3
"""Largest difference of an output, as a part of its largest value, or of 1 if that is less."""
MAX_BYTES = 256 << 20
"""Size limit of a golden file, and of what it holds."""


class Golden(NamedTuple):
    """An input and its outputs."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[NDArray[Any]]


def write(path: Path, model: bytes, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Run a model of our own making, and write what it gives.

    Args:
        path: the golden file.
        model: the ONNX file.
        inputs: arrays by the names of the model's inputs.
    """
    outputs = runtime.open_graph(model)(inputs)
    arrays: dict[str, Any] = {f"output{n}": output for n, output in enumerate(outputs)}
    np.savez_compressed(path, **{**inputs, **arrays})


def read(path: Path) -> Golden:
    """Read a golden file.

    Raises:
        CardError: it cannot be read, or holds something else.
    """
    with open_file(path, "golden file", MAX_BYTES, CardError) as file:
        try:
            with zipfile.ZipFile(file) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > MAX_BYTES:
                raise ValueError(f"it holds {size:,} bytes, at most {MAX_BYTES:,}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            for name, value in found.items():
                if not isinstance(value, np.ndarray):  # numpy gives the bytes of other members
                    raise ValueError(f"{name} is no array")
        except (
            zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, KeyError, RuntimeError,
            MemoryError, NotImplementedError, SyntaxError,
        ) as error:  # fmt: skip
            raise CardError(
                f"{path}: the golden file holds no arrays ({shown(error, 100)}); write it again "
                "with numpy.savez"
            ) from None
    outputs = sorted(
        (name for name in found if re.fullmatch(r"output\d{1,4}", name)), key=lambda n: int(n[6:])
    )
    inputs = {name: array for name, array in found.items() if name not in outputs}
    if not outputs or not inputs:
        raise CardError(
            f"{path}: the golden file has no input, or no output0 (found "
            f"{', '.join(found) or 'nothing'}); write both"
        )
    return Golden(inputs, [found[name] for name in outputs])


def compare(path: Path, model: Path) -> float:
    """Run the golden input through a model, and return the largest difference of an output.

    Args:
        path: the golden file.
        model: the ONNX file.

    Returns:
        see `difference`.

    Raises:
        CardError: the golden file cannot be read, or is of another model.
        ContractError: onnxruntime cannot load the model.
    """
    golden = read(path)
    run = runtime.open_graph(model.read_bytes())
    try:
        found = run(golden.inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise CardError(
            f"{path}: the model cannot take the golden input ({shown(error, 120)}); write the "
            "golden file again with this model"
        ) from None
    if len(found) != len(golden.outputs):
        raise CardError(
            f"{path}: the golden file is of another model (found {len(golden.outputs)} outputs, "
            f"the model has {len(found)}); write it again with this model"
        )
    return max(difference(*pair) for pair in zip(golden.outputs, found, strict=True))


def difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the largest difference of an output, as a part of its largest value, or of 1.

    It is infinite where the shapes differ, or a number is not finite.
    """
    if expected.shape != found.shape or expected.dtype.kind not in "biuf":
        return float("inf")
    own, other = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scale = max(1.0, float(np.abs(own).max(initial=0)))
        worst = float(np.abs(own - other).max(initial=0)) / scale
    return worst if np.isfinite(worst) else float("inf")
