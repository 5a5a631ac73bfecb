"""A network that has seen other pictures, as an ONNX graph that can be cut between its layers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import TrainingError
from models.training import graph
from models.training.graph import IMAGES

if TYPE_CHECKING:
    import onnx


class Block(NamedTuple):
    """A place where the network can be cut: one tensor through which everything passes."""

    tensor: str
    """Name in the graph."""
    stride: int
    """Pixels of the picture per pixel of the tensor."""
    channels: int


class Measured(NamedTuple):
    """The blocks of a graph, and the work up to each."""

    blocks: tuple[Block, ...]
    work: tuple[int, ...]
    """Multiplications for one picture of the default size, up to and with each block."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its head: pictures to maps of features.

    Its graph has the input `images`, float32 (N, 3, H, W), RGB, 0 to 255, with H and W multiples
    of 32, and one output: its last map.
    """

    name: str
    origin: str
    """Package, file or address of the weights."""
    licence: str
    """The licence of the weights as their origin states it, or "unknown"."""
    seen: str
    """The pictures that it was trained on: "ImageNet-1k", "COCO", "nothing", "unknown"."""
    size: int
    """Default side of a picture in pixels."""
    model: onnx.ModelProto

    @cached_property
    def _measured(self) -> Measured:
        return measure(self.model, self.size)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The places where it can be cut, in order; the last is its output."""
        return self._measured.blocks

    @cached_property
    def levels(self) -> dict[int, Block]:
        """Stride -> the last block of this stride."""
        return {block.stride: block for block in self.blocks}

    @cached_property
    def sha256(self) -> str:
        """The digest of its weights, by their names, shapes and bytes."""
        digest = hashlib.sha256()
        for name, value in sorted(graph.constants_of(self.model).items()):
            digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def cut_for(self, part: float) -> int:
        """Return how many blocks do about this part of the work, 0 to 1."""
        work = (0, *self._measured.work)
        return min(range(len(work)), key=lambda number: abs(work[number] / work[-1] - part))

    def piece(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the part of the graph from the pictures to some of its tensors.

        Raises:
            TrainingError: there is no such tensor.
        """
        try:
            nodes = graph.nodes_between(self.model, [IMAGES], outputs)
        except KeyError as error:
            raise TrainingError(
                f"{self.name}: the backbone has no such tensor (found {error.args[0]!r}); choose "
                "one of its blocks: run.py train --backbone NAME --layers list"
            ) from None
        weights = self.model.graph.initializer
        return graph.make_model(nodes, weights, outputs, graph.opset_of(self.model))

    def with_weights(self, weights: Mapping[str, NDArray[Any]]) -> Backbone:
        """Return a backbone with the same graph and other values of some weights.

        Args:
            weights: name in the graph -> values of the same shape; others stay.
        """
        from onnx import numpy_helper

        model = type(self.model)()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                new = np.ascontiguousarray(weights[tensor.name], np.float32)
                assert list(new.shape) == list(tensor.dims), tensor.name
                tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
        return replace(self, model=model)


def measure(model: onnx.ModelProto, side: int) -> Measured:
    """Return the blocks of a graph with one output, and the work up to each of them."""
    shapes = graph.shapes_of(model, side)
    end = model.graph.output[0].name
    blocks, work, total = [], [], 0
    cuts = [name for name in graph.cuts_of(model, end) if len(shapes.get(name, ())) == 4]
    waiting = iter(cuts)
    cut = next(waiting, None)
    for node in graph.nodes_between(model, [IMAGES], [end]):
        total += graph.work_of(node, shapes)
        if cut is not None and cut in node.output:
            _, channels, height, _ = shapes[cut]
            blocks.append(Block(cut, stride_of(side, height), channels))
            work.append(total)
            cut = next(waiting, None)
    return Measured(tuple(blocks), tuple(work))


def stride_of(side: int, map_side: int) -> int:
    """Return the power of two that is nearest to the pixels of a picture per pixel of a map."""
    return 1 << max(round(math.log2(side / max(map_side, 1))), 0)


def describe(backbone: Backbone) -> str:
    """Return a table of the blocks: number, stride, channels, work below it in per cent, tensor."""
    measured = backbone._measured
    whole = max(measured.work[-1], 1)
    rows: list[Iterable[object]] = [("layers", "stride", "channels", "work", "tensor")]
    for number, (block, work) in enumerate(zip(*measured, strict=True), 1):
        share = f"{100 * work / whole:.0f} %"
        rows.append((number, block.stride, block.channels, share, block.tensor))
    lines = []
    for row in rows:
        *numbers, tensor = map(str, row)
        lines.append("".join(f"{cell:>9}" for cell in numbers) + f"  {tensor}")
    return "\n".join(lines)
