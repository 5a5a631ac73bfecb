"""Small models whose answer the picture decides: mean colours of what they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = {"red": (0, 0, 200), "green": (0, 200, 0), "blue": (200, 0, 0)}
"""Label -> a colour (BGR) to which the classifier gives it, by a score of nearly 1."""
NAMES = tuple(COLOURS)
SIDE = 32
LENGTH = 48
"""Numbers of an embedding."""


def picture(width: int, height: int, **places: tuple[int, int, int, int]) -> np.ndarray:
    """Return a black image with filled boxes: name of a colour, and a number -> xyxy."""
    image = np.zeros((height, width, 3), np.uint8)
    for name, (x1, y1, x2, y2) in places.items():
        image[y1:y2, x1:x2] = COLOURS[name.rstrip("0123456789")]
    return image


def classifier(
    path: Path, batch: int | str = "N", names: tuple[str, ...] = NAMES, strength: float = 0.1
) -> Path:
    """Write a classifier: softmax of the mean of red, green and blue.

    Args:
        path: path of the file.
        batch: images per run; a text: any number.
        names: labels in its metadata; empty: none.
        strength: factor of the means; low gives scores of nearly 1/3.
    """
    nodes = [*_means(), helper.make_node("MatMul", ["means", "matrix"], ["scaled"])]
    nodes.append(helper.make_node("Softmax", ["scaled"], ["scores"], axis=1))
    values = {"matrix": np.eye(3, dtype=np.float32) * np.float32(strength)}
    return _save(path, nodes, values, batch, {"scores": (batch, 3)}, names)


def embedder(path: Path, batch: int | str = "N", length: int = LENGTH) -> Path:
    """Write a model of embeddings: the means of red, green and blue, each repeated."""
    matrix = np.zeros((3, length), np.float32)
    for channel in range(3):
        matrix[channel, channel::3] = 1
    nodes = [*_means(), helper.make_node("MatMul", ["means", "matrix"], ["vector"])]
    return _save(path, nodes, {"matrix": matrix}, batch, {"vector": (batch, length)}, ())


def segmenter(path: Path, batch: int | str = "N") -> Path:
    """Write a model of classes of pixels: the strongest channel of each 4x4 pixels."""
    pool = {"kernel_shape": [4, 4], "strides": [4, 4]}
    nodes = [*_floats(), helper.make_node("AveragePool", ["rgb"], ["map"], **pool)]
    cells = SIDE // 4
    return _save(path, nodes, {}, batch, {"map": (batch, 3, cells, cells)}, NAMES)


def _floats() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["rgb"], perm=[0, 3, 1, 2]),
    ]


def _means() -> list[onnx.NodeProto]:
    axes = {"axes": [2, 3], "keepdims": 0}
    return [*_floats(), helper.make_node("ReduceMean", ["rgb"], ["means"], **axes)]


def _save(path, nodes, constants, batch, outputs, names) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if names:
        helper.set_model_props(model, {"names": str(dict(enumerate(names)))})
    onnx.save(model, path)
    return path
