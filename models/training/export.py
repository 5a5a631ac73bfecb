"""Export of a trained network as ONNX, and its check against PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models import runtime
from models.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
TOLERANCE = 1e-3
"""Largest difference of an output from PyTorch's, as a part of the largest value of that output."""


def export(
    net: nn.Module,
    size: int,
    outputs: Sequence[str],
    path: Path,
    further: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a network as ONNX; any number of images can be run at once.

    Args:
        net: takes images (N, size, size, 3) uint8 BGR.
        size: side of the input in pixels.
        outputs: names of its outputs.
        path: file to write.
        further: examples of inputs that it takes besides, each with any number of rows; then one
            image is run at once, and an output has any number of rows in its second axis.
    """
    import torch

    example = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    axes = {"images": {0: "batch"}, **{name: {0: "batch"} for name in outputs}}
    if further:
        axes = {name: {0: name} for name in further} | {name: {1: "rows"} for name in outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation: see OPSET
        torch.onnx.export(
            net.eval(),
            (example, *(torch.from_numpy(value) for value in (further or {}).values())),
            str(path),
            input_names=["images", *(further or {})],
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def verify(
    path: Path,
    outputs: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]],
    inputs: Sequence[Mapping[str, NDArray[Any]]],
) -> float:
    """Compare an exported model with the network that it was made from.

    Args:
        path: the ONNX file.
        outputs: returns the outputs of the network by name.
        inputs: those of the model by name; `images` is (1, size, size, 3) uint8 BGR.

    Returns:
        the largest difference, as a part of the largest value of its output.

    Raises:
        TrainingError: the model differs.
    """
    run = runtime.open_graph(path.read_bytes())
    worst = 0.0
    for arrays in inputs:
        found = run(arrays)
        for (name, own), other in zip(outputs(arrays["images"]).items(), found, strict=True):
            if own.shape != other.shape:
                raise TrainingError(
                    f"{path}: output {name} differs from PyTorch's (found shape "
                    f"{list(other.shape)}, expected {list(own.shape)}); report this as a defect"
                )
            scale = max(1.0, float(np.abs(own).max(initial=0)))
            worst = max(worst, float(np.abs(own - other).max(initial=0)) / scale)
    if worst > TOLERANCE:
        raise TrainingError(
            f"{path}: results differ from PyTorch's (found {worst:.1e} of the largest value, at "
            f"most {TOLERANCE:.0e}); report this as a defect"
        )
    return worst
