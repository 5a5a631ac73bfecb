"""Facts about a model file for the rules that recognise it, and the readings that they give."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.families import evidence
from models.image_input import ImageTensor, grid_cells
from models.onnx_header import OnnxFile, Tensor
from models.onnx_trace import Trace

MAX_FINISHED = 1000
"""Rows of a model that has chosen them; more are those of a grid."""
P2, P6, TINY = (4, 8, 16, 32), (8, 16, 32, 64), (16, 32)
GRIDS = ((8, 16, 32), P6, TINY, P2, (32,), (16,), (8, 16))
"""Strides of the grids in use, the usual ones first."""


class Guess(NamedTuple):
    """A reading of a file."""

    preset: str
    outputs: dict[str, tuple[str, ...]]
    """Name of an output -> its columns."""
    changes: dict[str, Any] = {}
    """Keys of the layout in place of the preset's."""
    unsure: dict[str, str] = {}
    """Key of a card -> why the file does not determine it."""
    about: str = ""
    """Difference from the other readings of the same file."""


class Clues(NamedTuple):
    """Facts about a file for the rules."""

    file: OnnxFile
    trace: Trace
    image: ImageTensor
    labels: int | None
    """Number of names of classes in the metadata."""
    rtdetr: bool
    """Whether the metadata names the decoder of RT-DETR."""
    points: tuple[int, int] | None
    """Number of keypoints and of numbers for each, in the metadata."""
    ultralytics: bool
    """Whether the metadata is that of an exporter of Ultralytics' kind: names, stride or imgsz."""

    def heads(self, tensor: Tensor) -> list[evidence.Head]:
        """Return the layers that give an output."""
        width, height = self.image.size
        size = None if width is None or height is None else (width, height)
        return evidence.heads(self.trace, tensor.name, size)

    def cells(self, strides: tuple[int, ...] = (8, 16, 32)) -> int | None:
        """Count the cells of grids over the input; None where its size is open."""
        return grid_cells(self.file, strides)

    def unsure_scale(self) -> dict[str, str]:
        """Return the question of the range of pixels; exporters with metadata use one range."""
        return {} if self.ultralytics else {"input.scale": SCALE}


SCALE = "float pixels may be 0 to 1, scale: 0.00392157, or 0 to 255, scale: 1"
"""Why the range of pixels is not known."""
