"""Random weights for the graph of a backbone, so that what it has seen can be measured.

Weights are normal numbers, scaled layer by layer so that each output has unit variance on a batch
of random pictures (LSUV: Mishkin and Matas, "All you need is a good init", 2016). Without it,
features of a deep network fade or explode, and the comparison would be unfair.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.training.backbone import Backbone
from models.training.graph import IMAGES
from models.training.onnx_net import OnnxNet, Step

PICTURES = 4
_GRIDS_PX = (4, 16, 64)
"""Sizes of the spots in random pictures."""
MIN_DEVIATION = 1e-6
"""Standard deviation below which an output is constant, and is not scaled."""


def random_backbone(backbone: Backbone, seed: int) -> Backbone:
    """Return a backbone with the same graph and random weights; the same for each seed.

    Args:
        backbone: the one whose graph is used.
        seed: seed of the weights and of the pictures by which they are scaled.
    """
    draw = np.random.default_rng(seed)
    net = OnnxNet(backbone.model, [IMAGES], [backbone.blocks[-1].tensor])
    attributes = {attribute: name for name, attribute in net.names.items()}
    values: dict[str | None, Any] = {None: None}
    values[IMAGES] = torch.from_numpy(_pictures(draw, backbone.size))
    new: dict[str, NDArray[np.float32]] = {}
    with torch.no_grad():
        for step in net.steps:
            weights = [n for n in step.inputs if n and net.names.get(n) in net._parameters]
            for index, name in enumerate(weights):
                parameter = getattr(net, net.names[name])
                parameter.copy_(_first_values(draw, step.op, index, parameter))
            if step.op == "BatchNormalization":
                _make_neutral(net, step, new)
            net.run(step, values)
            if weights and step.op != "BatchNormalization":
                deviation = float(values[step.outputs[0]].std())
                if deviation > MIN_DEVIATION:
                    getattr(net, net.names[weights[0]]).div_(deviation)
                    net.run(step, values)
            for done in step.done:
                del values[done]
    assert len(attributes) == len(net.names)
    return replace(
        backbone.with_weights({**net.weights(), **new}),
        name=f"{backbone.name}-random",
        origin=f"random numbers of seed {seed}, in the graph of {backbone.name}",
        licence="none needed",
        seen="nothing",
    )


def _first_values(draw: np.random.Generator, op: str, index: int, parameter: Any) -> Any:
    """Return values before scaling: kernels are normal numbers, scales 1 and shifts 0."""
    shape = tuple(parameter.shape)
    if index == 0 and op == "BatchNormalization":
        return torch.ones(shape)
    if index == 0 and op != "PRelu":
        return torch.from_numpy(draw.standard_normal(shape, np.float32))
    return torch.zeros(shape)


def _make_neutral(net: OnnxNet, step: Step, new: dict[str, NDArray[np.float32]]) -> None:
    """Set the mean and variance of a batch normalisation to 0 and 1."""
    for name, value in zip(step.inputs[3:5], (0.0, 1.0), strict=True):
        buffer = getattr(net, net.names[str(name)])
        buffer.fill_(value)
        new[str(name)] = buffer.numpy().copy()


def _pictures(draw: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return pictures of coloured spots of several sizes, (N, 3, side, side), 0 to 255."""
    pictures = np.zeros((PICTURES, 3, side, side), np.float32)
    for spot in _GRIDS_PX:
        cells = -(-side // spot)
        grid = draw.random((PICTURES, 3, cells, cells), np.float32) / len(_GRIDS_PX)
        pictures += grid.repeat(spot, 2).repeat(spot, 3)[:, :, :side, :side]
    return pictures * 255
