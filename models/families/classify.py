"""Classifiers: one score for each class, of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.families import evidence
from models.families.base import Output, Reading
from models.families.whole_image import NORMS, OfImage, as_scores, ends_of, pixels_of_file
from models.families.whole_image import vector_length as length_of
from models.image_input import Pixels
from models.metadata import names_in
from models.onnx_header import OnnxFile
from models.output_layout import Activation, OutputLayout
from models.transform import Transform

IMAGENET = (1000, 1001)
"""Numbers of classes of ImageNet, without and with background first."""
BYTES = 128
"""Scores of a classifier whose output is uint8 are parts of 255."""


class Probabilities(NamedTuple):
    """The scores of an image."""

    scores: NDArray[np.float32]
    """(C,) from 0 to 1, by class."""


class Classify(OfImage[Probabilities]):
    """A classifier, by a stated layout."""

    task = "classify"
    outputs = (Output("scores", "float32", (None,)),)
    raw = "scores [1,C]"
    column = ("scores",)

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise one vector, unless its layers show an embedding."""
        ends = ends_of(file)
        length = None if ends is None else length_of(ends[0])
        if ends is None or length is None:
            return None
        tensor, marks, trace = ends
        names = names_in(file.metadata)
        active = bool(evidence.ACTIVATIONS & marks)
        labelled = names is not None and len(names) == length
        if NORMS & marks and not active:
            return None
        if not (active or labelled or length in IMAGENET) and length >= BYTES:
            return None
        usual = Pixels(resize="crop", scale=1 / 255)
        pixels, unsure = pixels_of_file(file, trace, usual)
        if file.metadata.get("task") == "classify":
            pixels, unsure = usual, {}
        activation: Activation = "none" if active or tensor.dtype == "uint8" else "softmax"
        background = 0 if length == IMAGENET[1] else None
        layout = OutputLayout(
            outputs={tensor.name: ("scores",)}, activation=activation, background=background
        )
        return Reading(
            pixels=msgspec.structs.replace(pixels, resize="crop"),
            outputs=(tensor.name,),
            classes=length - (background is not None),
            layout=layout,
            unsure=unsure,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Probabilities:
        """Return the scores of all classes, also those below `min_score`; see `Family.decode`."""
        values = raw[self._place]
        if values.dtype == np.uint8:
            values = values.astype(np.float32) / 255
        return Probabilities(as_scores(values, self.layout))
