"""Models that answer about the whole image: what their families share, and how files are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.families import evidence
from models.families.base import Family
from models.image_input import WHOLE_DTYPES, Input, Pixels, image_tensor
from models.metadata import names_in
from models.onnx_header import OnnxFile, Tensor
from models.onnx_trace import Trace, read
from models.output_layout import OutputLayout

Result_co = TypeVar("Result_co", bound=tuple[NDArray[Any], ...], covariant=True)
SCALE = "float pixels may be 0 to 1, scale: 0.00392157, or 0 to 255, with a mean and a std"
"""Why the range of pixels is not known."""
MAX_STRIDE = 32
"""Pixels of the input for each cell of a map of classes, at most."""
NORMS = frozenset({"ReduceL2", "LpNormalization"})
"""Operations that make a vector of length 1."""


class OfImage(Family[Result_co], Generic[Result_co]):
    """Base of the families of models that answer about the whole image, by a stated layout.

    Args:
        image: the model's input.
        classes: number of classes, without background; None: not stated in the file.
        layout: layout of the outputs.
    """

    column: ClassVar[tuple[str, ...]]
    """Columns of which the first that a layout has is decoded."""

    def __init__(
        self, image: Input, classes: int | None, layout: OutputLayout | None = None
    ) -> None:
        super().__init__(image, classes)
        assert layout is not None, "a contract of this family has a layout"
        self.layout = layout
        columns = list(layout.outputs.values())
        self._place = next(i for i, names in enumerate(columns) if names[0] in self.column)

    def of_image(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int
    ) -> list[NDArray[Any]]:
        """See `Family.of_image`."""
        return [output[index] if len(output) == images else output for output in outputs]


def ends_of(file: OnnxFile) -> tuple[Tensor, frozenset[str], Trace] | None:
    """Return the only output of a file, the operations in front of it, and the graph.

    None: the file has several outputs, or takes no image.
    """
    image = image_tensor(file)
    if image is None or len(file.outputs) != 1 or file.outputs[0].shape is None:
        return None
    trace = read(file.path)
    tensor = file.outputs[0]
    heads = evidence.heads(trace, tensor.name, None)
    return tensor, evidence.marks_of(heads), trace


def vector_length(tensor: Tensor) -> int | None:
    """Return the numbers of an output that is one vector for each image; None: it is no such."""
    shape = tensor.shape or ()
    if len(shape) == 4 and shape[2:] == (1, 1):
        shape = shape[:2]
    if len(shape) != 2 or shape[1] is None or shape[1] < 2 or tensor.dtype.startswith("int"):
        return None
    return shape[1]


def pixels_of_file(file: OnnxFile, trace: Trace, usual: Pixels) -> tuple[Pixels, dict[str, str]]:
    """Return the preparation of images as far as the file shows it, and what it leaves open.

    Args:
        file: the model file.
        trace: its graph.
        usual: defaults of the family.

    Returns:
        The preparation, and key of a card -> why the file does not determine it.
    """
    image = image_tensor(file)
    assert image is not None
    if image.tensor.dtype in WHOLE_DTYPES:
        return usual, {}
    inside = evidence.prepared(trace, image.tensor.name)
    if inside.pixel_range is not None:
        scale = 1.0 if inside.pixel_range == 255 else 1 / 255
        pixels = {"scale": scale, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        return Pixels(resize=usual.resize, colour=usual.colour, **pixels), {}  # type: ignore[arg-type]
    return usual, {"input.scale": SCALE}


def classes_of_image(layout: OutputLayout, file: OnnxFile) -> int | None:
    """Return the number of classes of a model that answers about the whole image; None: unknown."""
    tensors = {tensor.name: tensor for tensor in file.outputs}
    for name, columns in layout.outputs.items():
        shape = tensors[name].shape
        if shape is None:
            continue
        own = shape[1:] if len(shape) > 1 else shape
        if columns[0] == "scores" and own:
            count = own[0] if all(length == 1 for length in own[1:]) else own[-1]
            return _without_background(count, layout)
        if columns == ("score_map",) and len(own) == 3:
            channels = own[0] if _is_channels_first(own) else own[2]
            return 2 if channels == 1 else channels
    return layout.classes or len(names_in(file.metadata) or ()) or None


def _is_channels_first(own: Sequence[int | None]) -> bool:
    """Return whether a map has its classes first: the shorter one of the two ends."""
    first, last = own[0], own[2]
    return first is not None and (last is None or first <= last)


def _without_background(count: int | None, layout: OutputLayout) -> int | None:
    if count is None:
        return layout.classes
    return count - (layout.background is not None)


def as_scores(values: NDArray[Any], layout: OutputLayout) -> NDArray[np.float32]:
    """Return the scores (C,) of all classes, from 0 to 1, without the background."""
    scores: NDArray[np.float32] = values.reshape(-1).astype(np.float32)
    if layout.activation == "softmax":
        powers = np.exp(scores - scores.max())
        scores = np.asarray(powers / powers.sum(), np.float32)
    elif layout.activation == "sigmoid":
        scores = np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))), np.float32)
    if layout.background is not None:
        scores = np.delete(scores, layout.background)
    return scores
