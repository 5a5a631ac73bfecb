"""A part of an ONNX graph as a PyTorch network, to be trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import TrainingError
from models.training import graph
from models.training.operator_node import STATIC, Function, Node
from models.training.operators import as_array, function_of

if TYPE_CHECKING:
    import onnx

_TRAINED: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
}
"""Operator -> its inputs whose constants are trained; others stay as they are."""


class Step:
    """A node that runs: its function, and the names of its tensors."""

    def __init__(self, op: str, function: Function, inputs: list[str | None], outputs: list[str]):
        self.op = op
        self.function = function
        self.inputs = inputs
        """Tensors and weights; None: an optional one that is missing."""
        self.outputs = outputs
        self.done: list[str] = []
        """Tensors that no later node needs."""


class OnnxNet(nn.Module):
    """The nodes of a graph between some tensors, with their weights as parameters.

    Parameters are named by the constant in the graph, with "/" for ".". Batch normalisation keeps
    its mean and variance, also while training (few pictures tell them worse than ImageNet did),
    and only its scale and shift are trained.

    Args:
        model: graph of the operators in `graph.OPERATORS`.
        inputs: names of the tensors that `forward` takes.
        outputs: names of the tensors that it returns.

    Raises:
        TrainingError: an output does not follow from the inputs, or an operator is unknown.
    """

    def __init__(
        self, model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.names: dict[str, str] = {}
        """Name of a constant in the graph -> that of the parameter or buffer."""
        try:
            nodes = graph.nodes_between(model, inputs, outputs)
        except KeyError as error:
            raise TrainingError(
                f"backbone: a tensor does not follow from the inputs (found {error.args[0]!r}); "
                f"inputs are {', '.join(inputs)}"
            ) from None
        constants = graph.constants_of(model)
        self.steps = [self._step(node, constants) for node in nodes]
        self._forget()

    def forward(self, *tensors: Any) -> list[Any]:
        """Return the outputs, in their order, for tensors in the order of the inputs."""
        values: dict[str | None, Any] = dict(zip(self.inputs, tensors, strict=True))
        values[None] = None
        for step in self.steps:
            self.run(step, values)
            for name in step.done:
                del values[name]
        return [values[name] for name in self.outputs]

    def run(self, step: Step, values: dict[str | None, Any]) -> None:
        """Run one node on the tensors in `values`, and add its outputs to them."""
        names = self.names
        arguments = [
            values[name] if name in values else getattr(self, names[str(name)])
            for name in step.inputs
        ]
        result = step.function(*arguments)
        if len(step.outputs) == 1:
            values[step.outputs[0]] = result
        else:
            values.update(zip(step.outputs, result, strict=True))

    def parameters_by_block(self, tensors: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the parameters of each part of the network, from its inputs on.

        Args:
            tensors: names of tensors at which a part ends, in the order of the graph; the last
                part has no such tensor, and the name "".
        """
        waiting = list(tensors)
        part: list[Any] = []
        seen: set[str] = set()
        for step in self.steps:
            for name in step.inputs:
                attribute = self.names.get(name or "")
                if attribute in self._parameters and attribute not in seen:
                    seen.add(str(attribute))
                    part.append(getattr(self, str(attribute)))
            while waiting and waiting[0] in step.outputs:
                yield waiting.pop(0), part
                part = []
        yield "", part

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the values of all parameters, by the names of the constants in the graph."""
        return {
            name: as_array(getattr(self, attribute)).copy()
            for name, attribute in self.names.items()
            if attribute in self._parameters
        }

    def _step(self, node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> Step:
        """Return a node that runs; its weights become parameters and buffers."""
        from onnx import helper

        outputs = list(node.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        known = tuple(constants.get(name) if name else None for name in node.input)
        attributes = {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}
        described = Node(node.op_type, node.name, attributes, known, len(outputs))
        static = STATIC.get(node.op_type, ())
        for index in static:
            if index < len(node.input) and node.input[index] and known[index] is None:
                raise described.refuse("a number that depends on the picture")
        inputs: list[str | None] = []
        for index, name in enumerate(node.input):
            if index in static:
                continue
            inputs.append(name or None)
            value = known[index]
            if value is not None:
                trained = index in _TRAINED.get(node.op_type, ())
                self._add(name, value, trained and value.dtype == np.float32)
        return Step(node.op_type, function_of(described), inputs, outputs)

    def _add(self, name: str, value: NDArray[Any], trained: bool) -> None:
        """Add a constant as a parameter, or as a buffer that is not trained."""
        if name in self.names:
            return
        attribute = name.replace(".", "/")
        if hasattr(self, attribute):  # of nn.Module, or of another name with a dot
            attribute = f"weights/{len(self.names)}/{attribute}"
        self.names[name] = attribute
        tensor = torch.from_numpy(np.array(value))
        if trained:
            self.register_parameter(attribute, nn.Parameter(tensor))
        else:
            self.register_buffer(attribute, tensor)

    def _forget(self) -> None:
        """Note after which step each tensor is needed no more."""
        last: dict[str, int] = {}
        for at, step in enumerate(self.steps):
            for name in (*step.outputs, *(n for n in step.inputs if n and n not in self.names)):
                last[name] = at
        for name, at in last.items():
            if name not in self.outputs and name:
                self.steps[at].done.append(name)


def _value(value: Any) -> Any:
    """Return an attribute with texts as str."""
    return value.decode() if isinstance(value, bytes) else value
