"""ONNX operators in PyTorch, as far as networks of convolutions use them.

Each maker reads the attributes and constants of one node once and returns a function of its
tensors, so that a trained network runs as one written by hand. The meaning of each operator is that
of https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the usual name

from models.training import shape_operators
from models.training.operator_node import Function, Node

Tensor = Any


def _conv(node: Node) -> Function:
    weights = node.constants[1]
    dims = 2 if weights is None else weights.ndim - 2
    if dims != 2:
        raise node.refuse(f"{dims} dimensions")
    stride = tuple(node.get("strides", (1, 1)))
    dilation = tuple(node.get("dilations", (1, 1)))
    groups = int(node.get("group", 1))
    around, padding = _padding(node)

    def run(x: Tensor, kernel: Tensor, bias: Tensor = None) -> Tensor:
        if around:
            x = F.pad(x, around)
        return F.conv2d(x, kernel, bias, stride, padding, dilation, groups)

    return run


def _padding(node: Node) -> tuple[tuple[int, ...] | None, tuple[int, int]]:
    """Return padding that is done before (left, right, top, bottom), and one that is symmetric."""
    mode = node.get("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        kernel = node.get("kernel_shape", None)
        # The padding of SAME depends on the size of the picture, except without a stride.
        if kernel is None or max(node.get("strides", (1, 1))) > 1 or not all(k % 2 for k in kernel):
            raise node.refuse(f"auto_pad {mode}")
        steps = node.get("dilations", (1, 1))
        return None, (kernel[0] // 2 * steps[0], kernel[1] // 2 * steps[1])
    top, left, bottom, right = node.get("pads", (0, 0, 0, 0)) if mode == "NOTSET" else (0,) * 4
    if top == bottom and left == right:
        return None, (top, left)
    return (left, right, top, bottom), (0, 0)


def _conv_transpose(node: Node) -> Function:
    stride = tuple(node.get("strides", (1, 1)))
    dilation = tuple(node.get("dilations", (1, 1)))
    extra = tuple(node.get("output_padding", (0, 0)))
    groups = int(node.get("group", 1))
    around, padding = _padding(node)
    if around or "output_shape" in node.attributes:
        raise node.refuse("uneven padding")
    return lambda x, kernel, bias=None: F.conv_transpose2d(
        x, kernel, bias, stride, padding, extra, groups, dilation
    )


def _norm(node: Node) -> Function:
    epsilon = float(node.get("epsilon", 1e-5))
    if node.get("training_mode", 0):
        raise node.refuse("training_mode 1")
    return lambda x, scale, shift, mean, variance: F.batch_norm(
        x, mean, variance, scale, shift, False, 0.0, epsilon
    )


def _clip(node: Node) -> Function:
    low, high = ((node.numbers(name, i) or [None])[0] for i, name in ((1, "min"), (2, "max")))
    if (low, high) == (0, 6):
        return F.relu6
    if low == 0 and high is None:
        return F.relu
    return lambda x: torch.clamp(x, low, high)


def _gemm(node: Node) -> Function:
    alpha, beta = float(node.get("alpha", 1)), float(node.get("beta", 1))
    first, second = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
        y = alpha * torch.matmul(a.t() if first else a, b.t() if second else b)
        return y if c is None else y + beta * c

    return run


def _pool(node: Node) -> Function:
    kernel = tuple(node.get("kernel_shape", ()))
    stride = tuple(node.get("strides", (1, 1)))
    dilation = tuple(node.get("dilations", (1, 1)))
    ceil = bool(node.get("ceil_mode", 0))
    around, padding = _padding(node)
    if len(kernel) != 2 or node.count > 1:
        raise node.refuse(f"kernel {kernel}, {node.count} outputs")
    if node.op == "MaxPool":

        def run(x: Tensor) -> Tensor:
            if around:
                x = F.pad(x, around, value=float("-inf"))
            return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)

        return run
    counted = bool(node.get("count_include_pad", 0))
    if (around and not counted) or max(dilation) > 1:
        raise node.refuse("uneven padding")

    def average(x: Tensor) -> Tensor:
        if around:
            x = F.pad(x, around)
        return F.avg_pool2d(x, kernel, stride, padding, ceil, counted)

    return average


def _mean(node: Node) -> Function:
    axes, keep = node.numbers("axes", 1), bool(node.get("keepdims", 1))
    if axes is None:
        raise node.refuse("no axes")
    return lambda x: x.mean(axes, keep)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _of(function: Function) -> Callable[[Node], Function]:
    """Return the maker of an operator without attributes."""
    return lambda node: function


def _hard_sigmoid(node: Node) -> Function:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _leaky(node: Node) -> Function:
    slope = float(node.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _elu(node: Node) -> Function:
    alpha = float(node.get("alpha", 1))
    return lambda x: F.elu(x, alpha)


def _gelu(node: Node) -> Function:
    form = node.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=form)


def _softmax(node: Node) -> Function:
    axis = int(node.get("axis", -1))
    return lambda x: torch.softmax(x, axis)


MAKERS: dict[str, Callable[[Node], Function]] = {
    **shape_operators.MAKERS,
    "Add": _of(torch.add),
    "AveragePool": _pool,
    "BatchNormalization": _norm,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _of(torch.div),
    "Dropout": _of(lambda x, *_: x),
    "Elu": _elu,
    "Erf": _of(torch.erf),
    "Exp": _of(torch.exp),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _of(lambda x: x.mean((2, 3), True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of(F.hardswish),
    "Identity": _of(lambda x: x),
    "LeakyRelu": _leaky,
    "MatMul": _of(torch.matmul),
    "MaxPool": _pool,
    "Mish": _of(F.mish),
    "Mul": _of(torch.mul),
    "Neg": _of(torch.neg),
    "PRelu": _of(_prelu),
    "Pow": _of(torch.pow),
    "ReduceMean": _mean,
    "Relu": _of(F.relu),
    "Sigmoid": _of(torch.sigmoid),
    "Softmax": _softmax,
    "Softplus": _of(F.softplus),
    "Sqrt": _of(torch.sqrt),
    "Sub": _of(torch.sub),
    "Tanh": _of(torch.tanh),
}
"""Operator -> maker of its function."""


def function_of(node: Node) -> Function:
    """Return the function of a node.

    Raises:
        TrainingError: the operator, or this form of it, is unknown.
    """
    maker = MAKERS.get(node.op)
    if maker is None:
        raise node.refuse("an unknown operator")
    return maker(node)


def as_array(value: Any) -> NDArray[np.float32]:
    """Return the values of a tensor as an array."""
    array: NDArray[np.float32] = value.detach().cpu().numpy()
    return array
