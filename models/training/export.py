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
from models.golden import TOLERANCE, difference

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
Arrays = Mapping[str, NDArray[Any]]
"""Name of an output -> its value."""


def export(
    net: nn.Module,
    size: int,
    outputs: Sequence[str],
    path: Path,
    batched: bool = True,
    further: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a network as ONNX.

    Args:
        net: takes images (N, size, size, 3) uint8 BGR.
        size: side of the input in pixels.
        outputs: names of its outputs.
        path: file to write.
        batched: whether any number of images can be run at once, and outputs have one row for each;
            else one image, and outputs have one row for each object.
        further: examples of inputs that it takes besides, each with any number of rows; then one
            image is run at once, and an output has any number of rows in its second axis.
    """
    import torch

    example = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    axes = {name: {0: "batch" if batched else "objects"} for name in outputs}
    if batched:
        axes["images"] = {0: "batch"}
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
    outputs: Callable[[NDArray[np.uint8]], Arrays],
    inputs: Sequence[Arrays],
    compare: Callable[[Arrays, Arrays], float],
) -> float:
    """Compare an exported model with the network that it was made from.

    Args:
        path: the ONNX file.
        outputs: returns the outputs of the network by name.
        inputs: those of the model by name; `images` is (1, size, size, 3) uint8 BGR.
        compare: returns the difference of outputs of the network and of the model.

    Returns:
        the largest difference.

    Raises:
        TrainingError: the model differs.
    """
    run = runtime.open_graph(path.read_bytes())
    worst = 0.0
    for arrays in inputs:
        own = outputs(arrays["images"])
        worst = max(worst, compare(own, dict(zip(own, run(arrays), strict=True))))
    if worst > TOLERANCE:
        raise TrainingError(
            f"{path}: results differ from PyTorch's (found {worst:.1e} of the largest value, at "
            f"most {TOLERANCE:.0e}); report this as a defect"
        )
    return worst


def largest_difference(own: Arrays, other: Arrays) -> float:
    """Return the largest difference of outputs, as a part of the largest value of the output."""
    worst = 0.0
    for name, values in own.items():
        if values.shape != other[name].shape:
            return float("inf")
        worst = max(worst, difference(values, other[name]))
    return worst
