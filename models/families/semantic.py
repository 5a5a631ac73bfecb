"""Semantic segmentation: a class for each pixel (Long et al., CVPR 2015; DeepLab)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.families import evidence
from models.families.base import Output, Reading
from models.families.whole_image import MAX_STRIDE, OfImage, ends_of, pixels_of_file
from models.image_input import Pixels, image_tensor
from models.onnx_header import OnnxFile
from models.output_layout import Activation, OutputLayout
from models.transform import Transform

MIN_SIDE = 8
"""Cells of the side of a map, at least."""


class ClassMap(NamedTuple):
    """The classes of an image."""

    classes: NDArray[np.uint8]
    """(h, w) index into the labels, over the whole captured image; 255 at most."""


class Semantic(OfImage[ClassMap]):
    """A model that gives a class for each pixel, by a stated layout."""

    task = "semantic"
    outputs = (Output("classes", "uint8", (None, None)),)
    raw = "scores [1,C,h,w], or classes [1,h,w]"
    column = ("score_map", "class_map")

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise one map over the input: of classes, or of scores."""
        ends = ends_of(_main_output(file))
        if ends is None:
            return None
        tensor, marks, trace = ends
        shape = tensor.shape or ()
        image = image_tensor(file)
        assert image is not None
        whole = tensor.dtype.startswith(("int", "uint"))
        columns = "class_map" if whole else "score_map"
        sides = _sides(shape, whole)
        if sides is None or not _covers(sides, image.size):
            return None
        activation: Activation = "none" if evidence.ACTIVATIONS & marks else "sigmoid"
        pixels, unsure = pixels_of_file(file, trace, Pixels(resize="stretch", scale=1 / 255))
        channels = None
        if not whole:
            channels = next(
                (n for n in (shape[1], shape[3]) if n is not None and n not in sides), shape[1]
            )
        return Reading(
            pixels=pixels,
            outputs=(tensor.name,),
            classes=2 if channels == 1 else channels,
            layout=OutputLayout(outputs={tensor.name: (columns,)}, activation=activation),
            unsure=unsure,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> ClassMap:
        """Return the class with the highest score of each cell; see `Family.decode`.

        One channel alone is the score of class 1; class 0 is the rest.

        Raises:
            ValueError: the output is no map.
        """
        values = raw[self._place]
        while values.ndim > 3 or (values.ndim == 3 and values.dtype.kind in "iu"):
            if len(values) != 1:
                raise ValueError(f"expected a map (found shape {list(values.shape)})")
            values = values[0]
        if values.ndim == 2 and values.dtype.kind not in "iu":
            values = values[None]
        if values.ndim == 3:
            first = values.shape[0] <= values.shape[2]
            values = values if first else values.transpose(2, 0, 1)
            if len(values) == 1:
                limit = 0.0 if self.layout.activation == "sigmoid" else 0.5
                values = values[0] > limit
            else:
                values = values.argmax(axis=0)
        return ClassMap(self._own_part(values, transform).astype(np.uint8))

    def _own_part(self, values: NDArray[Any], transform: Transform) -> NDArray[Any]:
        """Return the cells of a map that are over the captured image, without the padding."""
        rows, columns = values.shape
        width, height = self.input.size
        left, top = transform.pad_x * columns / width, transform.pad_y * rows / height
        right = left + transform.width * transform.scale_x * columns / width
        bottom = top + transform.height * transform.scale_y * rows / height
        x1, y1 = max(0, round(left)), max(0, round(top))
        return values[
            y1 : max(y1 + 1, min(rows, round(bottom))), x1 : max(x1 + 1, min(columns, round(right)))
        ]


def _main_output(file: OnnxFile) -> OnnxFile:
    """Return the file with its main output alone, where others are maps of the same shape.

    DeepLab and FCN of torchvision give `out`, and `aux`, which only training needs.
    """
    shapes = {tensor.shape for tensor in file.outputs}
    if len(file.outputs) < 2 or len(shapes) > 1 or len(file.outputs[0].shape or ()) != 4:
        return file
    named = [tensor for tensor in file.outputs if tensor.name == "out"]
    return msgspec.structs.replace(file, outputs=tuple(named or file.outputs[:1]))


def _sides(shape: Sequence[int | None], whole: bool) -> tuple[int, int] | None:
    """Return height and width of a map in cells; None: the output is no map."""
    if whole:
        own = shape[1:]
        own = own[1:] if len(own) == 3 and own[0] == 1 else own
        if len(own) != 2 or own[0] is None or own[1] is None:
            return None
        return own[0], own[1]
    if len(shape) != 4 or None in shape[1:]:
        return None
    _, a, b, c = (length or 0 for length in shape)
    return (b, c) if a <= c else (a, b)


def _covers(sides: tuple[int, int], size: tuple[int | None, int | None]) -> bool:
    """Return whether a map may be over the input: of its shape, and not much smaller."""
    height, width = sides
    if min(sides) < MIN_SIDE:
        return False
    across, down = size
    if across is None or down is None:
        return True
    same = abs(across / width - down / height) < 0.1 * across / width
    return same and across / width * 1.01 >= 1 and across / width <= MAX_STRIDE
