"""Operators of ONNX that PyTorch lacks, in the place of what computes the same in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class _Operator(torch.autograd.Function):
    """An operator of ONNX for `torch.onnx` without dynamo, which takes it from `symbolic`."""

    @staticmethod
    def forward(
        context: object, name: str, attributes: Mapping[str, Any], result: Tensor, *inputs: Tensor
    ) -> Tensor:
        """Return a tensor of the shape and dtype of the operator's output."""
        return result.clone()

    @staticmethod
    def symbolic(
        graph: Any, name: str, attributes: Mapping[str, Any], result: Any, *inputs: Any
    ) -> Any:
        """Add the operator to the graph."""
        kinds = {str: "s", int: "i", float: "f", list: "i"}
        own = {f"{key}_{kinds[type(value)]}": value for key, value in attributes.items()}
        kind = result.type()
        if kind.sizes():
            # The first length is that of the example alone: the number of regions, or of boxes.
            kind = kind.with_sizes([None, *kind.sizes()[1:]])
        return graph.op(name, *inputs, **own).setType(kind)


def operator(
    name: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    example: Tensor,
    version: int,
) -> Tensor:
    """Return the output of an operator of ONNX in the graph that is exported.

    Args:
        name: of the operator.
        inputs: of the operator.
        attributes: of the operator.
        example: tensor of the dtype and shape of its output; its first length may be another one
            when the graph runs.
        version: of the operators, for the exporter with dynamo.
    """
    found: Tensor
    if torch.compiler.is_exporting():
        found = torch.onnx.ops.symbolic(
            name, inputs, attributes, dtype=example.dtype, shape=example.shape, version=version
        )
    else:
        found = _Operator.apply(name, attributes, example, *inputs)
    return found
