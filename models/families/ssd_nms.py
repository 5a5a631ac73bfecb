"""SSD with suppression in the graph, as TensorFlow Lite's TFLite_Detection_PostProcess gives it.

Boxes (N, 4) are y1, x1, y2, x2 from 0 to 1; classes (N,) count from 0 without the background;
scores (N,); and the number of rows that are filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, image_input
from models.families import Candidates
from models.onnx_header import OnnxFile
from models.transform import Transform


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    image = image_input(file)
    if image is None or len(file.outputs) != 4:
        return None
    # In this order, whatever their names: TensorFlow's own export has another one, and counts
    # classes from 1.
    boxes, classes, scores, number = (output.shape for output in file.outputs)
    if boxes is None or len(boxes) != 3 or boxes[2] != 4 or number != (1,):
        return None
    if classes != boxes[:2] or scores != boxes[:2] or "detection_classes" in str(file):
        return None
    unsure = {}
    if image.tensor.dtype != "uint8":
        unsure["scale"] = "SSD with float pixels: their range is not in the file"
    return Reading(
        pixels=Pixels(resize="stretch"),
        outputs=tuple(output.name for output in file.outputs),
        classes=None,
        end_to_end=True,
        unsure=unsure,
    )


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    boxes, classes, scores, number = outputs
    kept = np.flatnonzero(scores[: int(number)] >= min_score)
    width, height = contract.input.size
    pixels = boxes[kept][:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
    return Candidates(
        transform.invert(pixels),
        scores[kept].astype(np.float32, copy=False),
        classes[kept].astype(np.int32),
    )
