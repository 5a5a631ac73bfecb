"""SSD (Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016) with decoded boxes.

Boxes (N, 4) are xyxy from 0 to 1, scores (N, C) are independent per class. A box is a candidate
for its best class only, as in TensorFlow.js coco-ssd, where the embedded weights come from. (The
TensorFlow Object Detection API makes it one for every class; a dog that may be a cat is then two
objects.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, image_input
from models.families import Candidates
from models.onnx_header import OnnxFile, Tensor
from models.transform import Transform

ARITHMETIC = frozenset({"Mul", "Sub", "Div", "Add"})
"""What a graph begins with that normalises pixels itself."""


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    image = image_input(file)
    tensors = [t for t in file.outputs if t.shape is not None and len(t.shape) == 3]
    # The raw outputs of DETR look alike, but are logits and boxes by centre.
    if image is None or len(file.outputs) != 2 or len(tensors) != 2 or _says(tensors, "logit"):
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
    raw = image.tensor.dtype == "uint8" or file.first_ops & ARITHMETIC
    if not raw:
        unsure["scale"] = (
            "SSD with float pixels: 0 to 255 (scale: 1) and 0 to 1 (scale: 0.003921569) are both "
            "in use"
        )
    return Reading(
        pixels=Pixels(resize="stretch"),
        outputs=(boxes[0].name, scores.name),
        classes=scores.shape[2],
        unsure=unsure,
    )


def _says(tensors: Sequence[Tensor], word: str) -> bool:
    return any(word in tensor.name.lower() for tensor in tensors)


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    boxes, scores = outputs
    # Few of all the scores are high, so their rows are found before anything is sorted by class.
    rows = np.flatnonzero(scores >= min_score) // scores.shape[1]
    rows = rows[np.diff(rows, prepend=-1) > 0]
    kept = scores[rows]
    classes = kept.argmax(axis=1)
    width, height = contract.input.size
    pixels = boxes[rows] * np.array([width, height, width, height], np.float32)
    return Candidates(
        transform.invert(pixels),
        kept[np.arange(len(kept)), classes].astype(np.float32, copy=False),
        classes.astype(np.int32),
    )
