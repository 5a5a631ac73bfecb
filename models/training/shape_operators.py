"""ONNX operators that change the form of a tensor and not its numbers, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the usual name

from models.training.operator_node import Function, Node

Tensor = Any


def _reshape(node: Node) -> Function:
    shape = node.numbers("shape", 1)
    if shape is None or (0 in shape and node.get("allowzero", 0)):
        raise node.refuse("a shape that depends on the picture")

    def run(x: Tensor) -> Tensor:
        return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape)])

    return run


def _flatten(node: Node) -> Function:
    axis = int(node.get("axis", 1))
    if axis != 1:
        raise node.refuse(f"axis {axis}")
    return lambda x: x.flatten(1)


def _slice(node: Node) -> Function:
    starts, ends = node.numbers("starts", 1), node.numbers("ends", 2)
    if starts is None or ends is None:
        raise node.refuse("bounds that depend on the picture")
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = node.numbers("steps", 4) or [1] * len(starts)
    if min(steps) < 1:
        raise node.refuse("a negative step")
    limit = 2**31 - 1  # exporters write up to 2**63 - 1 for the end

    def run(x: Tensor) -> Tensor:
        parts = [slice(None)] * x.dim()
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            stop = None if end >= limit else end
            parts[axis] = slice(start if start > -limit else 0, stop, step)
        return x[tuple(parts)]

    return run


def _split(node: Node) -> Function:
    axis, sizes = int(node.get("axis", 0)), node.numbers("split", 1)
    if sizes is not None:
        return lambda x: torch.split(x, sizes, axis)
    count = node.count
    return lambda x: torch.split(x, -(-x.shape[axis] // count), axis)


def _pad(node: Node) -> Function:
    pads, mode = node.numbers("pads", 1), node.get("mode", "constant")
    if pads is None or node.numbers("axes", 3) is not None or mode not in ("constant", "reflect"):
        raise node.refuse(f"mode {mode}")
    value = float((node.numbers("value", 2) or [0])[0])
    half = len(pads) // 2
    around = [side for i in reversed(range(half)) for side in (pads[i], pads[half + i])]
    if mode == "reflect":
        if any(around[4:]):
            raise node.refuse("mode reflect over channels")
        return lambda x: F.pad(x, around[:4], "reflect")
    while around and around[-2:] == [0, 0]:
        del around[-2:]
    return lambda x: F.pad(x, around, value=value)


def _resize(node: Node) -> Function:
    mode, scales = node.get("mode", "nearest"), node.numbers("scales", 2)
    how = node.get("coordinate_transformation_mode", "half_pixel")
    if scales is None or scales[:2] != [1, 1]:
        raise node.refuse("a size that depends on the picture")
    factors = tuple(float(scale) for scale in scales[2:])
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    near = node.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and whole and (how == "asymmetric") == (near == "floor"):
        return lambda x: F.interpolate(x, scale_factor=factors, mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel"):
        return lambda x: F.interpolate(
            x, scale_factor=factors, mode="bilinear", align_corners=False
        )
    raise node.refuse(f"mode {mode}, {how}, {near}")


def _squeeze(node: Node) -> Function:
    axes = node.numbers("axes", 1)
    if axes is None:
        raise node.refuse("no axes")
    return lambda x: torch.squeeze(x, tuple(axes))


def _unsqueeze(node: Node) -> Function:
    axes = node.numbers("axes", 1)
    if axes is None or min(axes) < 0:
        raise node.refuse(f"axes {axes}")

    def run(x: Tensor) -> Tensor:
        for axis in sorted(axes):
            x = x.unsqueeze(axis)
        return x

    return run


def _cast(node: Node) -> Function:
    if node.get("to", 1) != 1:
        raise node.refuse(f"type {node.get('to', 1)}")
    return lambda x: x.float()


def _depth_to_space(node: Node) -> Function:
    if node.get("mode", "DCR") != "CRD":
        raise node.refuse("mode DCR")
    size = int(node.attributes["blocksize"])
    return lambda x: F.pixel_shuffle(x, size)


def _space_to_depth(node: Node) -> Function:
    size = int(node.attributes["blocksize"])

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * size * size, h // size, w // size)

    return run


def _concat(node: Node) -> Function:
    axis = int(node.attributes["axis"])
    return lambda *parts: torch.cat(parts, axis)


def _transpose(node: Node) -> Function:
    order: Sequence[int] | None = node.get("perm", None)
    return lambda x: x.permute(*(order or reversed(range(x.dim()))))


MAKERS: dict[str, Callable[[Node], Function]] = {
    "Cast": _cast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operator -> maker of its function."""
