"""Small networks, as state dicts and as ONNX graphs, and the files that PyTorch writes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.training import architectures
from models.training.backbone import Backbone

STEM, HEAD = 8, 16
"""Channels of the first and last layer of a small network."""


def state_dict(
    architecture: architectures.Architecture = architectures.MOBILENET_V2,
    names: str = "features.{layer}.{part}",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Weights of a narrow network of the architecture, with a classifier."""
    draw = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    layer = 0

    def add(*kernel: int) -> None:
        nonlocal layer
        out, fan = kernel[0], int(np.prod(kernel[1:]))
        values = {
            "weight": draw.normal(0, fan**-0.5, kernel),
            "norm.weight": draw.uniform(0.8, 1.2, out),
            "norm.bias": draw.normal(0, 0.5, out),
            "norm.running_mean": draw.normal(0, 0.2, out),
            "norm.running_var": draw.uniform(0.8, 1.2, out),
        }
        for part, value in values.items():
            found[names.format(layer=layer, part=part)] = value.astype(np.float32)
        count = names.format(layer=layer, part="norm.num_batches_tracked")
        found[count] = np.array(100, np.int64)
        layer += 1

    channels = STEM
    add(STEM, 3, 3, 3)
    for number, stage in enumerate(architecture.stages):
        out = 4 + 2 * number
        for _ in range(stage.blocks):
            wide = channels * stage.expansion
            if stage.expansion > 1:
                add(wide, channels, 1, 1)
            add(wide, 1, stage.kernel, stage.kernel)
            add(out, wide, 1, 1)
            channels = out
    add(HEAD, channels, 1, 1)
    found["classifier.1.weight"] = draw.normal(0, 1, (5, HEAD)).astype(np.float32)
    found["classifier.1.bias"] = draw.normal(0, 1, 5).astype(np.float32)
    return found


def backbone(architecture: architectures.Architecture = architectures.MOBILENET_V2) -> Backbone:
    """A narrow network whose default pictures are 64 pixels wide."""
    model = architectures.build(architecture, state_dict(architecture))
    return Backbone("small", "a test", "none", "nothing", 64, model)


class Net:
    """Writes an ONNX graph node by node; each method returns the name of its output."""

    def __init__(self, shape: Sequence[int | str] = (1, 3, 64, 64), seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shape = shape
        self.draw = np.random.default_rng(seed)

    def node(self, op: str, *inputs: str | np.ndarray | None, outputs: int = 1, **more: Any) -> Any:
        """Add a node; an array becomes a constant, and None an input that is missing."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray | np.generic):
                name = f"constant{len(self.constants)}"
                self.constants[name] = np.asarray(value)
                names.append(name)
            else:
                names.append(value or "")
        made = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, names, made, f"node{len(self.nodes)}", **more))
        return made[0] if outputs == 1 else made

    def conv(
        self, x: str, out: int, inner: int, side: int = 3, stride: int = 1, **more: Any
    ) -> str:
        """Add a convolution that pads to keep the size, with a bias."""
        group = more.get("group", 1)
        kernel = self.draw.normal(0, 0.3, (out, inner // group, side, side)).astype(np.float32)
        bias = self.draw.normal(0, 0.3, out).astype(np.float32)
        if "auto_pad" not in more and "pads" not in more:
            more["pads"] = [side // 2] * 4
        return self.node("Conv", x, kernel, bias, strides=[stride, stride], **more)

    def model(self, *outputs: str, opset: int = 17, dtype: int = TensorProto.FLOAT) -> Any:
        """The model with these outputs, and the input `x`."""
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", dtype, self.shape)],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def residual_net(net: Net) -> str:
    """A classifier with two residual blocks at stride 4."""
    x = net.node("Relu", net.conv("x", 8, 3, stride=2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for _ in range(2):
        y = net.node("Relu", net.conv(x, 8, 8))
        x = net.node("Relu", net.node("Add", net.conv(y, 8, 8), x))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.node("Gemm", pooled, net.draw.normal(0, 1, (8, 5)).astype(np.float32))


def save(path: Any, model: Any) -> str:
    """Write a model and return its path."""
    onnx.save(model, path)
    return str(path)


def torch_dict(weights: Mapping[str, np.ndarray]) -> Any:
    """The same weights as PyTorch's tensors."""
    import torch

    return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
