"""Small ONNX files with the names and shapes of real models, written by the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}

Side = int | str
Layers = Sequence[tuple[int, tuple[str, ...]]]
"""Channels of each layer, and the operations between it and the output; if the first of these is
"linear", the layer is a matrix product, as at the end of a transformer."""


def save(
    path: Path,
    input_shape: Sequence[Side],
    outputs: Mapping[str, ArrayLike | Sequence[Side]],
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
    ops: Sequence[str] = (),
    more_inputs: Mapping[str, Sequence[Side]] | None = None,
    layers: Mapping[str, Layers] | None = None,
) -> Path:
    """Write a model that gives the same outputs for every image.

    Args:
        path: path of the file.
        input_shape: a text stands for an open dimension.
        outputs: name -> its value (an array), or only its shape (a tuple): then it is all zeros,
            and open dimensions are 1.
        dtype: dtype of the input.
        metadata: metadata of the file.
        ops: operators of further nodes, whose outputs are not used; "Mul" scales the input.
        more_inputs: name -> shape of further inputs, int64.
        layers: output -> the layers whose values reach it, without changing them.
    """
    nodes, constants, declared = [], [], []
    for name, value in outputs.items():
        if isinstance(value, tuple):
            shape: Sequence[Side] = value
            value = np.zeros([side if isinstance(side, int) else 1 for side in value], np.float32)
        else:
            value = np.asarray(value, np.float32)
            shape = value.shape
        constants.append(numpy_helper.from_array(value, f"{name}_value"))
        ends = _layers(name, (layers or {}).get(name, ()), input_shape, nodes, constants)
        op = "Sum" if ends else "Identity"
        nodes.append(helper.make_node(op, [f"{name}_value", *ends], [name]))
        declared.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    for op in ops:
        if op == "Mul":
            constants.append(numpy_helper.from_array(np.float32(1 / 128), "factor"))
        inputs = ["images", "factor"] if op == "Mul" else [constants[0].name]
        nodes.append(helper.make_node(op, inputs, [f"unread_{op}"]))
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("images", TYPES[dtype], input_shape),
            *(
                helper.make_tensor_value_info(name, TensorProto.INT64, shape)
                for name, shape in (more_inputs or {}).items()
            ),
        ],
        declared,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def _layers(
    name: str, layers: Layers, input_shape: Sequence[Side], nodes: list, constants: list
) -> list[str]:
    """Add convolutions of the image, whose values become 0 before the output; return their ends."""
    if not layers:
        return []
    image = f"{name}_image"
    nodes.append(helper.make_node("Cast", ["images"], [f"{image}_float"], to=TensorProto.FLOAT))
    order = [0, 1, 2, 3] if input_shape[1] == 3 else [0, 3, 1, 2]
    nodes.append(helper.make_node("Transpose", [f"{image}_float"], [image], perm=order))
    zero = numpy_helper.from_array(np.zeros(1, np.float32), f"{name}_zero")
    shape = numpy_helper.from_array(np.array([1], np.int64), f"{name}_shape")
    row = numpy_helper.from_array(np.array([1, 1], np.int64), f"{name}_row")
    constants += [zero, shape, row]
    ends = []
    for i, (channels, between) in enumerate(layers):
        value = f"{name}_layer{i}"
        weights = np.zeros((channels, 3, 1, 1), np.float32)
        constants.append(numpy_helper.from_array(weights, f"{value}_weights"))
        inputs = [image, f"{value}_weights"]
        nodes.append(helper.make_node("Conv", inputs, [value], strides=[32, 32]))
        if between[:1] == ("linear",):
            nodes.append(helper.make_node("ReduceMax", [value], [f"{value}_max"], keepdims=0))
            nodes.append(
                helper.make_node("Reshape", [f"{value}_max", f"{name}_row"], [f"{value}_row"])
            )
            product = np.zeros((1, channels), np.float32)
            constants.append(numpy_helper.from_array(product, f"{value}_product"))
            inputs = [f"{value}_row", f"{value}_product"]
            nodes.append(helper.make_node("MatMul", inputs, [f"{value}_linear"]))
            value, between = f"{value}_linear", between[1:]
        for op in ("ReduceMax", *between):
            nodes.append(helper.make_node(op, [value], [f"{value}_{op}"]))
            value = f"{value}_{op}"
        nodes.append(helper.make_node("Mul", [value, f"{name}_zero"], [f"{value}_none"]))
        inputs = [f"{value}_none", f"{name}_shape"]
        nodes.append(helper.make_node("Reshape", inputs, [f"{value}_end"]))
        ends.append(f"{value}_end")
    return ends


DECODED = ("Exp",)
"""Operations behind a layer of boxes that works out boxes in the graph."""


def yolox_layers(classes: int = 80) -> Mapping[str, Layers]:
    """Return the layers of a YOLOX with boxes that are not worked out in the graph."""
    return {"output": [(4, ()), (1, ("Sigmoid",)), (classes, ("Sigmoid",))]}


def ssd_layers(classes: int) -> Mapping[str, Layers]:
    """Return the layers of an SSD with boxes worked out in the graph."""
    return {"boxes": [(12, DECODED)], "scores": [(3 * classes, ("Sigmoid",))]}


def save_endless(path: Path, products: int = 20_000) -> Path:
    """Write a detector whose constants onnxruntime computes for minutes while it loads it."""
    side = numpy_helper.from_array(np.array([512, 512], np.int64), "side")
    last = f"c{products}"
    nodes = [helper.make_node("ConstantOfShape", ["side"], ["c0"])]
    nodes += [helper.make_node("MatMul", [f"c{i}", "c0"], [f"c{i + 1}"]) for i in range(products)]
    nodes.append(helper.make_node("ReduceSum", [last], ["sum"], keepdims=0))
    model = onnx.load(save(path, [1, 3, 64, 64], {"output0": (1, 6, 84)}))
    (answer,) = model.graph.node
    answer.op_type = "Add"
    answer.input.append("sum")
    model.graph.initializer.append(side)
    nodes.append(helper.make_node("Add", answer.input, answer.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path
