"""An ONNX graph as data: parts of it, shapes, the work of its nodes, and where it can be cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

IMAGES = "images"
"""Name of the input of every backbone."""
OPSET = 17
"""Version of the operators in graphs that are made here."""
IR_VERSION = 8
SIDE_STEP = 32
"""Sides of pictures are multiples of it, so that every stride divides them."""

Shape = tuple[int, ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WEIGHTED = _names("Conv ConvTranspose Gemm MatMul")
"""Operators that do the work of a network."""
ELEMENTWISE = _names(
    "Add BatchNormalization Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu "
    "Mish Mul Neg PRelu Pow Relu Sigmoid Softplus Sqrt Sub Tanh"
)
"""Operators whose output is as large as their input; they belong to the layer before."""
_OTHERS = _names(
    "AveragePool Cast Concat DepthToSpace Dropout Flatten GlobalAveragePool MaxPool Pad ReduceMean "
    "Reshape Resize Slice Softmax SpaceToDepth Split Squeeze Transpose Unsqueeze"
)
OPERATORS = ELEMENTWISE | WEIGHTED | _OTHERS
"""Operators that a backbone may be made of: those that OnnxNet runs."""
_NO_LAYER = _names(
    "Cast Dropout Flatten Identity Pad Reshape Slice Split Squeeze Transpose Unsqueeze"
)
"""Operators whose output is no end of a layer: it is only the former tensor in another form."""
_FOLDED = _names(
    "Add Cast Concat ConstantOfShape Div Gather Identity Mul Neg Reshape Shape Slice Sqrt Squeeze "
    "Sub Transpose Unsqueeze"
)
"""Operators that are computed once if all of their inputs are constants."""
_MAX_FOLDED = 200_000_000
"""Limit of the numbers in all constants that are computed, so that no file fills the memory."""


def input_info(name: str = IMAGES) -> Any:
    """Return the description of an input of pictures (N, 3, H, W), float32, of open size."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 3, "H", "W"))


def output_info(name: str) -> Any:
    """Return the description of an output of maps (N, C, h, w), float32, of open size."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", "C", None, None))


def make_model(
    nodes: Sequence[onnx.NodeProto],
    weights: Iterable[onnx.TensorProto],
    outputs: Sequence[str],
    opset: int = OPSET,
    inputs: Sequence[Any] | None = None,
) -> onnx.ModelProto:
    """Return a model with these nodes, in their order, and only those weights that they use."""
    from onnx import helper

    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "backbone",
        [input_info()] if inputs is None else list(inputs),
        [output_info(name) for name in outputs],
        [weight for weight in weights if weight.name in used],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the operators of a model."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def nodes_between(
    model: onnx.ModelProto, inputs: Iterable[str], outputs: Iterable[str]
) -> list[onnx.NodeProto]:
    """Return the nodes that lead from some tensors to others, in the order of the graph.

    Raises:
        KeyError: one of the outputs is not in the graph, or needs another input.
    """
    given = set(inputs)
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    producer = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    needed: set[int] = set()
    waiting = [name for name in outputs if name not in given]
    while waiting:
        name = waiting.pop()
        at = producer.get(name)
        if at is None:
            raise KeyError(name)
        if at not in needed:
            needed.add(at)
            inner = nodes[at].input
            waiting += [n for n in inner if n and n not in given and n not in constants]
    return [nodes[at] for at in sorted(needed)]


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the arrays of the weights and other constants of a graph, by name."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which what depends on no input is a constant; float16 becomes float32.

    Nodes that only pass a tensor on (Identity, Dropout) are removed.
    """
    from onnx import numpy_helper

    known = {name: _wide(value) for name, value in constants_of(model).items()}
    outputs = {value.name for value in model.graph.output}
    same: dict[str, str] = {}
    kept = []
    left = _MAX_FOLDED
    for original in model.graph.node:
        node = type(original)()
        node.CopyFrom(original)
        node.input[:] = [same.get(name, name) for name in node.input]
        constant = all(name in known for name in node.input if name)
        values = None
        if node.op_type == "Constant":
            values = _value_of(node)
        elif node.op_type in _FOLDED and constant:
            values = _evaluate(node, known, opset_of(model), left)
        if values is not None:
            left -= sum(value.size for value in values)
            known.update(zip(node.output, map(_wide, values), strict=True))
        elif node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input} | outputs
    folded = type(model)()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:], folded.graph.value_info[:]
    folded.graph.node.extend(kept)
    folded.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in known.items() if name in used
    )
    return folded


def _wide(value: NDArray[Any]) -> NDArray[Any]:
    """Return weights of 16 bits as float32."""
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _value_of(node: onnx.NodeProto) -> list[NDArray[Any]] | None:
    """Return the value of a node Constant; None: it is no array of numbers."""
    from onnx import helper, numpy_helper

    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return [numpy_helper.to_array(value)]
    if attribute.name in ("value_float", "value_floats"):
        return [np.array(value, np.float32)]
    if attribute.name in ("value_int", "value_ints"):
        return [np.array(value, np.int64)]
    return None


def _evaluate(
    node: onnx.NodeProto, known: Mapping[str, NDArray[Any]], opset: int, limit: int
) -> list[NDArray[Any]] | None:
    """Return the outputs of a node with constant inputs; None: they are unknown, or too large."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    if _size_of(node.op_type, [known[name] for name in node.input if name]) > limit:
        return None
    graph = helper.make_graph(
        [node],
        "constant",
        [],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
        [numpy_helper.from_array(known[name], name) for name in {*node.input} if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(model).run(None, {})
    except Exception:  # its errors have no common base; the node then stays as it is
        return None
    return [np.asarray(result) for result in results]


def _size_of(op: str, values: Sequence[NDArray[Any]]) -> int:
    """Return the largest number of numbers that a node may make of constants."""
    if op == "ConstantOfShape":
        return math.prod(map(abs, values[0].reshape(-1).tolist()))
    if op == "Gather":
        return math.prod(value.size for value in values)
    shapes = [value.shape for value in values]
    if op in ELEMENTWISE and len(shapes) == 2:
        sides = itertools.zip_longest(*map(reversed, shapes), fillvalue=1)
        return math.prod(map(max, sides))
    return sum(value.size for value in values)


def shapes_of(model: onnx.ModelProto, side: int, source: str = IMAGES) -> dict[str, Shape]:
    """Return the shapes of all tensors for one square picture, as far as they can be worked out.

    Args:
        model: a graph with an input of pictures.
        side: side of the picture in pixels.
        source: name of that input.
    """
    from onnx import TensorProto, helper, shape_inference

    open_model = type(model)()
    open_model.CopyFrom(model)
    graph = open_model.graph
    del graph.value_info[:]
    constants = {tensor.name for tensor in graph.initializer}
    image = helper.make_tensor_value_info(source, TensorProto.FLOAT, (1, 3, side, side))
    others = [value for value in graph.input if value.name not in (source, *constants)]
    outputs = [value.name for value in graph.output]
    del graph.input[:], graph.output[:]
    graph.input.extend([image, *others])
    graph.output.extend(helper.make_empty_tensor_value_info(output) for output in outputs)
    inferred = shape_inference.infer_shapes(open_model, data_prop=True).graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def work_of(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Return the multiplications (each with an addition) that a node does for one picture."""
    if node.op_type not in WEIGHTED:
        return 0
    output, weights = shapes.get(node.output[0]), shapes.get(node.input[1])
    if output is None or weights is None:
        return 0
    if node.op_type == "Conv":  # weights (out, in / groups, ...)
        return math.prod(output) * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, ...)
        return math.prod(shapes[node.input[0]]) * math.prod(weights[1:])
    inner = shapes.get(node.input[0], (1,))[-1]
    return math.prod(output) * inner


def cuts_of(model: onnx.ModelProto, end: str, source: str = IMAGES) -> list[str]:
    """Return the tensors through which everything on the way to `end` passes, in their order.

    Only the ends of layers are returned: a tensor from which elementwise nodes alone lead to the
    next cut is left out, as is everything before the first node with weights, and what only holds
    a former tensor in another form.
    """
    nodes = nodes_between(model, [source], [end])
    reached = {source}
    for node in nodes:
        if any(name in reached for name in node.input):
            reached.update(node.output)
    last = {name: at for at, node in enumerate(nodes) for name in node.input}
    live = {source}
    cuts: list[tuple[str, bool]] = []
    worked, began = False, False  # since the last cut, since the picture
    for at, node in enumerate(nodes):
        live |= {name for name in node.output if name in reached and last.get(name, -1) > at}
        live = {name for name in live if last[name] > at}
        began = began or node.op_type in WEIGHTED
        worked = worked or node.op_type not in ELEMENTWISE | _NO_LAYER
        here = node.output[0]
        if not began or not (live == {here} or here == end) or node.op_type in _NO_LAYER:
            continue
        cuts.append((here, worked))
        worked = False
    # A cut after which no other operators than elementwise ones follow is replaced by the next.
    return [
        name for (name, _), (_, after) in zip(cuts, [*cuts[1:], ("", True)], strict=True) if after
    ]
