"""The contract of a model: everything that a stage needs to run it, checked against its file."""

from __future__ import annotations

import msgspec

from models.card import Task, Thresholds
from models.image_input import Input
from models.onnx_header import Tensor
from models.output_layout import OutputLayout
from models.text import shown

SHOWN_LABELS = 4
"""Number of labels in a description."""


class Constant(msgspec.Struct, frozen=True):
    """An input that has the same value for every image."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Shape for one image."""
    values: tuple[float, ...]
    per_image: bool
    """Whether its first dimension is that of the images."""


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """A model, checked against its file; made by `models.inspect.inspect`."""

    name: str
    task: Task
    family: str
    """Name in `models.families.FAMILIES`, or of a preset of the family `generic`."""
    path: str
    """Absolute path of the model file."""
    size_bytes: int
    """Size of that file, and of those beside it that hold its weights."""
    sha256: str
    input: Input
    batch: int | None
    """Images per run; None: any number."""
    outputs: tuple[Tensor, ...]
    """Raw outputs, in the order in which the family's `decode` takes them."""
    classes: int | None
    """Number of classes in the outputs; None: not stated in the file."""
    labels: tuple[str, ...]
    """Names of the classes; empty: unknown."""
    end_to_end: bool
    """Whether the graph itself suppresses overlapping boxes."""
    layout: OutputLayout | None = None
    """Layout of the outputs, for the family `generic`."""
    constants: tuple[Constant, ...] = ()
    """Further inputs of the model, which do not depend on the image."""
    thresholds: Thresholds
    notes: tuple[str, ...] = ()
    """Facts that a user of the model should know."""
    licence: str | None = None

    def describe(self) -> str:
        """Describe the model for a person, one line per property."""
        expected = self.input
        values = f"pixel * {expected.scale:.6g}" if expected.scale != 1 else "pixel"
        if any(expected.mean) or expected.std != (1, 1, 1):
            values = f"({values} - {list(expected.mean)}) / {list(expected.std)}"
        resize: str = expected.resize
        if resize == "letterbox":
            resize = f"letterbox ({expected.anchor}, {expected.pad})"
        width, height = expected.size
        names = list(self.labels[:SHOWN_LABELS])
        if len(self.labels) > SHOWN_LABELS:
            names.append("...")
        thresholds = [
            f"{key} {value:.6g}"
            for key, value in msgspec.structs.asdict(self.thresholds).items()
            if value is not None
        ]
        rows = {
            "model": self.name,
            "file": self.path,
            "sha256": self.sha256,
            "licence": self.licence or "not stated",
            "task": self.task,
            "family": self.family + (", suppression in the graph" if self.end_to_end else ""),
            "input": f"{shown(expected.name, 60)} {expected.dtype} {expected.layout} "
            f"{width}x{height}, {resize}, {expected.colour} {values}",
            "batch": self.batch or "any",
            "outputs": ", ".join(map(str, self.outputs)),
            "limits": ", ".join(thresholds) or "not stated",
            "labels": f"{len(self.labels)}: {', '.join(names)}" if names else "unknown",
        }
        lines = [f"{name:<8} {shown(value)}" for name, value in rows.items()]
        lines += [f"{'note':<8} {shown(note)}" for note in self.notes]
        return "\n".join(lines)
