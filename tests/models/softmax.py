"""A family of another task, as a user would add it: classifiers that end in logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.families.base import Family, Output, Reading
from models.image_input import Pixels
from models.onnx_header import OnnxFile
from models.transform import Transform

TABLE_LINE = ("softmax", "tests.models.softmax:Softmax")
"""Name in a card, and place of the class: an entry of `FAMILIES`."""


class ClassScores(NamedTuple):
    """Classes of an image, best first; parallel arrays."""

    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.int32]
    """(N,) indices into the labels."""


class Softmax(Family[ClassScores]):
    """Logits of one row, with an axis of length 1 more than the family `classify` reads."""

    task = "classify"
    outputs = (Output("scores", "float32", (None,)), Output("classes", "int32", (None,)))
    raw = "logits [1,1,C]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise one output of three dimensions, of which two have the length 1."""
        shape = file.outputs[0].shape
        if len(file.outputs) != 1 or shape is None or shape[:2] != (1, 1) or len(shape) != 3:
            return None
        pixels = Pixels(resize="stretch", scale=1 / 255)
        return Reading(pixels=pixels, outputs=(file.outputs[0].name,), classes=shape[2])

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> ClassScores:
        """See `Family.decode`."""
        powers = np.exp(raw[0].reshape(-1) - raw[0].max())
        scores = powers / powers.sum()
        best = np.argsort(-scores, kind="stable")
        best = best[scores[best] >= min_score]
        return ClassScores(scores[best].astype(np.float32), best.astype(np.int32))
