"""The known facts of a node of a graph before it runs: its attributes and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from models.errors import TrainingError

Function = Callable[..., Any]
"""Tensors of a node to its output, or to a tuple of its outputs."""

STATIC: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (1, 2, 3),
    "ReduceMean": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Operator -> its inputs that are numbers known beforehand, not tensors."""


@dataclass(frozen=True)
class Node:
    """A node before it runs."""

    op: str
    name: str
    attributes: dict[str, Any]
    constants: tuple[NDArray[Any] | None, ...]
    """The constants among its inputs."""
    count: int
    """Number of its outputs."""

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, index: int) -> list[Any] | None:
        """Return numbers that are an attribute in old versions, and an input in new ones."""
        if name in self.attributes:
            value = self.attributes[name]
            return list(value) if isinstance(value, list | tuple) else [value]
        value = self.constants[index] if index < len(self.constants) else None
        return None if value is None or value.size == 0 else list(value.reshape(-1).tolist())

    def refuse(self, what: str) -> TrainingError:
        """Return the error for a form of an operator that cannot be run."""
        return TrainingError(
            f"operator {self.op} of the node {self.name or '?'}: this form cannot be trained here "
            f"(found {what}); use another model, or export it without"
        )
