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


def save(
    path: Path,
    input_shape: Sequence[Side],
    outputs: Mapping[str, ArrayLike | Sequence[Side]],
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
    ops: Sequence[str] = (),
    more_inputs: Mapping[str, Sequence[Side]] | None = None,
) -> Path:
    """Write a model that gives the same outputs for every image.

    Args:
        path: path of the file.
        input_shape: a text stands for an open dimension.
        outputs: name -> its value (an array), or only its shape (a tuple): then it is all zeros,
            and open dimensions are 1.
        dtype: dtype of the input.
        metadata: metadata of the file.
        ops: operators of further nodes, whose outputs are not used; "Mul" reads the input.
        more_inputs: name -> shape of further inputs, int64.
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
        nodes.append(helper.make_node("Identity", [f"{name}_value"], [name]))
        declared.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    for op in ops:
        inputs = ["images", "images"] if op == "Mul" else [constants[0].name]
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
