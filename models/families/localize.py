"""Localisation: one class and one box of the whole image, from a net with two outputs.

Source of the task: Sermanet et al., "OverFeat", ICLR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from models.families.base import Reading
from models.families.generic import Generic
from models.image_input import Pixels
from models.onnx_header import OnnxFile, Tensor
from models.output_layout import OutputLayout


class Localize(Generic):
    """A model that gives scores [N,K] and a box [N,4] for each image."""

    task = "localize"
    raw = "a box [1,4] and scores [1,K]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise two vectors, one of four numbers; their coding has to be stated in a card."""
        if len(file.outputs) != 2:
            return None
        boxes = [tensor for tensor in file.outputs if _length(tensor) == 4]
        others = [tensor for tensor in file.outputs if (_length(tensor) or 0) > 1]
        if len(boxes) != 1 or len(others) != 2:
            return None
        box = boxes[0]
        scores = next(tensor for tensor in others if tensor is not box)
        return cls.reading(box.name, scores.name, _length(scores))

    @classmethod
    def reading(cls, box: str, scores: str, classes: int | None) -> Reading:
        """Return the reading of two outputs by their names."""
        layout = OutputLayout(
            outputs={box: ("x1", "y1", "x2", "y2"), scores: ("scores",)},
            units="fraction",
            activation="softmax",
            end_to_end=True,
        )
        unsure = {
            "output.outputs": "the box may be x1 y1 x2 y2 or cx cy w h",
            "output.units": "boxes as fractions of the sides and in pixels are both in use",
            "output.activation": "scores may be logits, softmax, or from 0 to 1, none",
            "input.scale": "float pixels may be 0 to 1, or 0 to 255",
        }
        return Reading(
            pixels=Pixels(resize="stretch", scale=1 / 255),
            outputs=(box, scores),
            classes=classes,
            layout=layout,
            end_to_end=True,
            unsure=unsure,
        )

    def of_image(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int
    ) -> list[NDArray[Any]]:
        """Return the row of one image of each output."""
        return [output[index : index + 1].reshape(1, -1) for output in outputs]


def _length(tensor: Tensor) -> int | None:
    """Return the numbers of an output that is one vector for each image; None: it is no such."""
    shape = tensor.shape or ()
    return shape[1] if len(shape) == 2 and shape[0] in (None, 1) else None
