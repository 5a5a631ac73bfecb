"""Embeddings: a vector for each image, near those of images of the same object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.families import evidence
from models.families.base import Output, Reading
from models.families.classify import IMAGENET
from models.families.whole_image import OfImage, ends_of, pixels_of_file, vector_length
from models.image_input import Pixels
from models.metadata import names_in
from models.onnx_header import OnnxFile
from models.output_layout import OutputLayout
from models.transform import Transform


class Embedding(NamedTuple):
    """The vector of an image."""

    vector: NDArray[np.float32]
    """(D,) of length 1."""


class Embed(OfImage[Embedding]):
    """A model that gives embeddings, by a stated layout."""

    task = "embed"
    outputs = (Output("vector", "float32", (None,)),)
    raw = "a vector [1,D]"
    column = ("embedding",)

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise one vector without activation, of another length than ImageNet's classes."""
        ends = ends_of(file)
        length = None if ends is None else vector_length(ends[0])
        if ends is None or length is None or length in IMAGENET or length < 32:
            return None
        tensor, marks, trace = ends
        names = names_in(file.metadata)
        if evidence.ACTIVATIONS & marks or (names is not None and len(names) == length):
            return None
        usual = Pixels(
            resize="stretch",
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        pixels, unsure = pixels_of_file(file, trace, usual)
        return Reading(
            pixels=pixels,
            outputs=(tensor.name,),
            classes=None,
            layout=OutputLayout(outputs={tensor.name: ("embedding",)}),
            unsure=unsure,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Embedding:
        """Return the vector, scaled to length 1; of zeros where the model gives none."""
        vector = raw[self._place].reshape(-1).astype(np.float32)
        norm = float(np.linalg.norm(vector))
        return Embedding(vector / np.float32(norm) if norm > 0 else np.zeros_like(vector))
