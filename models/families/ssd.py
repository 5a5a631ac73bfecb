"""SSD (Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016) with decoded boxes.

Boxes (N, 4) are xyxy from 0 to 1, scores (N, C) are independent per class. A box is a candidate
for its best class only, as in TensorFlow.js coco-ssd, the source of the embedded weights. (The
TensorFlow Object Detection API makes it one for every class; a dog that may be a cat is then two
objects.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, image_tensor
from models.onnx_header import OnnxFile, Tensor
from models.transform import Transform

ARITHMETIC = frozenset({"Mul", "Sub", "Div", "Add"})
"""First operators of a graph that normalises pixels itself."""


class Ssd(DetectorFamily):
    """SSD without suppression in the graph."""

    raw = "boxes [1,N,4] and scores [1,N,C]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise boxes and scores of as many rows."""
        image = image_tensor(file)
        tensors = [t for t in file.outputs if t.shape is not None and len(t.shape) == 3]
        # The raw outputs of DETR have these shapes too, but are logits, and boxes by centre.
        if image is None or len(file.outputs) != 2 or len(tensors) != 2 or _has_logits(tensors):
            return None
        boxes = [t for t in tensors if t.shape and t.shape[2] == 4]
        if len(boxes) == 2:
            boxes = [t for t in boxes if "box" in t.name.lower()]
        if len(boxes) != 1:
            return None
        scores = next(t for t in tensors if t is not boxes[0])
        assert boxes[0].shape
        assert scores.shape
        if boxes[0].shape[1] != scores.shape[1]:
            return None
        unsure = {}
        raw_pixels = image.tensor.dtype == "uint8" or file.first_ops & ARITHMETIC
        if not raw_pixels:
            unsure["scale"] = (
                "SSD with float pixels: 0 to 255 (scale: 1) and 0 to 1 (scale: 0.003921569) are "
                "both in use"
            )
        return Reading(
            pixels=Pixels(resize="stretch"),
            outputs=(boxes[0].name, scores.name),
            classes=scores.shape[2],
            unsure=unsure,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        boxes, scores = raw
        # Few of all the scores are high, so their rows are found before the best class of each.
        rows = np.flatnonzero(scores >= min_score) // scores.shape[1]
        rows = rows[np.diff(rows, prepend=-1) > 0]
        kept = scores[rows]
        classes = kept.argmax(axis=1)
        width, height = self.input.size
        pixels = boxes[rows] * np.array([width, height, width, height], np.float32)
        return Candidates(
            transform.invert(pixels),
            kept[np.arange(len(kept)), classes].astype(np.float32, copy=False),
            classes.astype(np.int32),
        )


def _has_logits(tensors: Sequence[Tensor]) -> bool:
    return any("logit" in tensor.name.lower() for tensor in tensors)
