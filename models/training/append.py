"""Appends a classifier to the graph of a backbone, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.training.graph import IMAGES
from models.training.packages import package

if TYPE_CHECKING:
    from onnx import ModelProto


def append_linear(
    piece: ModelProto,
    size: int,
    tensor: str,
    pooling: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> ModelProto:
    """Return the model from `images` uint8 (N, size, size, 3) BGR to `scores` (N, C).

    Args:
        piece: graph from `IMAGES` to `tensor`.
        size: side of the input in pixels.
        tensor: name of the map (N, K, h, w).
        pooling: (h * w, P) that makes the code of a map, (K * P,), which gets unit mean square.
        weight: (C, K * P).
        bias: (C,).
    """
    onnx = package("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    channels = weight.shape[1] // pooling.shape[1]
    constants = {
        "pooling": pooling,
        "weight": np.ascontiguousarray(weight.T),
        "bias": bias,
        "bgr": np.array([2, 1, 0], np.int64),
        "as_rows": np.array([0, channels, -1], np.int64),
        "as_codes": np.array([0, -1], np.int64),
        "shortest": np.array(1e-6, np.float32),
        "ones": np.ones((weight.shape[1], 1), np.float32),
        "root": np.array(np.sqrt(weight.shape[1]), np.float32),
    }
    node = helper.make_node
    before = [
        node("Transpose", ["images"], ["channels"], perm=[0, 3, 1, 2]),
        node("Gather", ["channels", "bgr"], ["rgb"], axis=1),
        node("Cast", ["rgb"], [IMAGES + ".float"], to=onnx.TensorProto.FLOAT),
    ]
    after = [
        node("Reshape", [tensor, "as_rows"], ["rows"]),
        node("MatMul", ["rows", "pooling"], ["pooled"]),
        node("Reshape", ["pooled", "as_codes"], ["plain_codes"]),
        # ReduceL2 takes its axes differently before and after opset 18.
        node("Mul", ["plain_codes", "plain_codes"], ["squares"]),
        node("MatMul", ["squares", "ones"], ["sum_of_squares"]),
        node("Sqrt", ["sum_of_squares"], ["length"]),
        node("Max", ["length", "shortest"], ["safe_length"]),
        node("Div", ["plain_codes", "safe_length"], ["unit_codes"]),
        node("Mul", ["unit_codes", "root"], ["codes"]),
        node("Gemm", ["codes", "weight", "bias"], ["values"]),
        node("Softmax", ["values"], ["scores"], axis=1),
    ]
    model = type(piece)()
    model.CopyFrom(piece)
    graph = model.graph
    for own in graph.node:
        own.input[:] = [IMAGES + ".float" if name == IMAGES else name for name in own.input]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    graph.input.append(info("images", uint8, ["batch", size, size, 3]))
    graph.output.append(info("scores", float32, ["batch", len(bias)]))
    onnx.checker.check_model(model)
    return model
