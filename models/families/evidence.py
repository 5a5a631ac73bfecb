"""Evidence in a graph: how it prepares its image, and which layers give its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.onnx_trace import Constant, Node, Trace

MAX_STEPS = 40
"""Operations after the input that are looked at."""
MIN_GRID = 64
"""Numbers from which on a constant of several dimensions is a grid: points or strides of rows."""
MAX_DISTRIBUTION = 32
"""Largest number of bins of a distribution."""
FOLLOWED = frozenset(
    (
        *("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Pad"),
        *("Resize", "Upsample", "Expand", "QuantizeLinear", "DequantizeLinear", "Clip"),
    )
)
"""Operations that leave the values as they are."""
LAYERS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "FusedConv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
}
"""Operation with weights -> the place of the weights among its inputs."""
LINEAR = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
ACTIVATIONS = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
"""Operations behind which scores are from 0 to 1."""
PICKING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Operations that pick some of the values."""
FINISHING = frozenset({"NonMaxSuppression", "TopK"})
"""Operations that choose the best rows."""


class Prepared(NamedTuple):
    """Work on the image inside the graph: value = factor * pixel + offset."""

    factor: float
    """Largest of the channels."""
    offset: float
    """Of the channel with the largest absolute value."""
    reversed: bool
    """Whether the order of the channels is reversed."""

    @property
    def pixel_range(self) -> int | None:
        """Upper end of the pixels that the graph expects, 255 or 1; None: it does not show."""
        if self.factor == 1 and self.offset == 0:
            return None
        if self.factor <= 0.1 or (self.factor <= 1.01 and abs(self.offset) >= 2):
            return 255
        return 1 if self.factor >= 1 and abs(self.offset) <= 5 else None


class Head(NamedTuple):
    """A layer whose values reach an output without another layer between."""

    channels: int | None
    """Numbers that it gives for each place; None: not known."""
    linear: bool
    """Whether it is a matrix product, as at the end of a transformer."""
    marks: frozenset[str]
    """Operations on the way to the output, and `grid`, `bins`, `fraction` and `pixels`."""


def prepared(trace: Trace, image: str) -> Prepared:
    """Return the work that a graph does on its image before the first layer.

    Args:
        trace: the graph.
        image: name of the input.
    """
    factor: NDArray[np.float64] = np.ones(1)
    offset: NDArray[np.float64] = np.zeros(1)
    is_reversed, name = False, image
    for _ in range(MAX_STEPS):
        readers = trace.readers.get(name, [])
        step = next((node for node in readers if _reverses(trace, node)), None)
        if step is not None:
            is_reversed = not is_reversed
        elif len(readers) == 1:
            step = readers[0]
            affine = _affine(trace, step, name)
            if affine is not None:
                factor, offset = factor * affine[0], offset * affine[0] + affine[1]
            elif step.op not in FOLLOWED:
                break
        else:
            break
        name = step.outputs[0]
    largest = offset[np.abs(offset).argmax()]
    return Prepared(float(np.abs(factor).max()), float(largest), is_reversed)


def heads(trace: Trace, output: str, size: tuple[int, int] | None) -> list[Head]:
    """Return the layers that give the values of an output.

    Args:
        trace: the graph.
        output: name of the output.
        size: width and height of the model's input in pixels, where they are known.
    """
    marks: dict[str, set[str]] = {output: set()}
    found: list[Head] = []
    for node in reversed(trace.nodes):
        live = [marks[name] for name in node.outputs if name in marks]
        if not live:
            continue
        if node.op == "DynamicQuantizeLinear" and node.outputs[0] not in marks:
            continue  # only the scale of quantised values, whose layer was found before
        here = set().union(*live)
        dims = _weights(trace, node)
        if node.op in LAYERS and not _is_distribution(dims):
            linear = node.op in LINEAR
            found.append(Head(_channels(node, dims), linear, frozenset(here)))
            continue
        here |= {node.op} | _arithmetic(trace, node, size)
        if node.op in LAYERS:
            here.add("bins")
        for name in node.inputs:
            if name and name not in trace.constants:
                marks.setdefault(name, set()).update(here)
    return found


def marks_of(found: Iterable[Head]) -> frozenset[str]:
    """Return the marks of some heads together."""
    return frozenset().union(*(head.marks for head in found))


def channels_of(found: Iterable[Head]) -> frozenset[int]:
    """Return the channels of some heads together."""
    return frozenset(head.channels for head in found if head.channels is not None)


def units_of(marks: Iterable[str]) -> dict[str, str]:
    """Return the units of boxes as a change of a layout; empty: pixels, or not known."""
    marks = set(marks)
    return {"units": "fraction"} if "fraction" in marks and "pixels" not in marks else {}


def is_decoded(marks: Iterable[str]) -> bool:
    """Return whether boxes are worked out on the way: by a grid, or by formulas of offsets."""
    return bool({"grid", "Exp", "Pow", "Range", "bins"} & set(marks))


def _reverses(trace: Trace, node: Node) -> bool:
    """Return whether a node reverses three channels."""
    if node.op == "Gather" and len(node.inputs) > 1:
        order = _values(trace, node.inputs[1])
        return order is not None and order.tolist() == [2, 1, 0]
    if node.op == "Slice" and len(node.inputs) > 4:
        steps = _values(trace, node.inputs[4])
        return steps is not None and -1 in steps.tolist()
    return False


def _affine(
    trace: Trace, node: Node, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return factor and offset of an operation with a constant; None: it is no such."""
    one, none = np.ones(1), np.zeros(1)
    if node.op == "BatchNormalization" and len(node.inputs) == 5:
        parts = [_values(trace, part) for part in node.inputs[1:]]
        scale, bias, mean, variance = parts
        if scale is None or bias is None or mean is None or variance is None:
            return None
        factor = scale / np.sqrt(variance + node.numbers.get("epsilon", (1e-5,))[0])
        return factor, bias - mean * factor
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
    value = _values(trace, other)
    if value is None or value.size not in (1, 3) or not np.isfinite(value).all():
        return None
    if node.op == "Mul":
        return value, none
    if node.op == "Add":
        return one, value
    if node.inputs[0] != name:
        return None
    if node.op == "Sub":
        return one, -value
    return (1 / value, none) if value.all() else None


def _arithmetic(trace: Trace, node: Node, size: tuple[int, int] | None) -> set[str]:
    """Return the marks of an operation with a constant."""
    if node.op not in ("Mul", "Div", "Add", "Sub"):
        return set()
    found: set[str] = set()
    for name in node.inputs:
        constant = _constant(trace, name)
        if constant is None:
            continue
        count = int(np.prod(constant.dims, dtype=np.int64)) if constant.dims else 1
        if count >= MIN_GRID and sum(length > 1 for length in constant.dims) > 1:
            found.add("grid")
        if constant.values is not None and size is not None and node.op in ("Mul", "Div"):
            values = set(np.abs(constant.values).tolist())
            sides = {float(side) for side in size}
            inverse = any(any(abs(v * side - 1) < 1e-3 for side in sides) for v in values)
            if inverse if node.op == "Mul" else bool(values & sides):
                found.add("fraction")
            if bool(values & sides) if node.op == "Mul" else inverse:
                found.add("pixels")
    return found


def _values(trace: Trace, name: str) -> NDArray[np.float64] | None:
    constant = _constant(trace, name)
    return None if constant is None else constant.values


def _constant(trace: Trace, name: str) -> Constant | None:
    """Return a constant, also behind operations that leave its values as they are."""
    for _ in range(4):
        if name in trace.constants:
            return trace.constants[name]
        maker = trace.makers.get(name)
        if maker is None or maker.op not in FOLLOWED or not maker.inputs:
            return None
        name = maker.inputs[0]
    return None


def _weights(trace: Trace, node: Node) -> tuple[int, ...] | None:
    place = LAYERS.get(node.op)
    if place is None or len(node.inputs) <= place:
        return None
    constant = _constant(trace, node.inputs[place])
    if constant is None and node.op in LINEAR:
        constant = _constant(trace, node.inputs[0])
    return None if constant is None else constant.dims


def _is_distribution(dims: tuple[int, ...] | None) -> bool:
    """Return whether weights are those of an expectation over bins: many numbers to one."""
    if dims is None:
        return False
    if len(dims) == 4:
        return dims[0] == 1 and 4 < dims[1] <= MAX_DISTRIBUTION and dims[2:] == (1, 1)
    return (len(dims) <= 2 and dims[-1] == 1 and 4 < dims[0] <= MAX_DISTRIBUTION + 1) or (
        len(dims) == 1 and 4 < dims[0] <= MAX_DISTRIBUTION + 1
    )


def _channels(node: Node, dims: tuple[int, ...] | None) -> int | None:
    if not dims:
        return None
    if node.op in LINEAR:
        return dims[0] if node.numbers.get("transB", (0.0,))[0] else dims[-1]
    if node.op == "ConvTranspose":
        return dims[1] * int(node.numbers.get("group", (1.0,))[0])
    return dims[0]
