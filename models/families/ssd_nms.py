"""SSD with suppression in the graph: the outputs of TensorFlow Lite's TFLite_Detection_PostProcess.

Boxes (N, 4) are y1, x1, y2, x2 from 0 to 1; classes (N,) count from 0 without the background;
scores (N,); and the number of valid rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, image_tensor
from models.onnx_header import OnnxFile
from models.transform import Transform


class SsdNms(DetectorFamily):
    """SSD with suppression in the graph."""

    raw = "boxes [1,N,4], classes [1,N], scores [1,N] and number [1]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise four outputs by shape and order."""
        image = image_tensor(file)
        if image is None or len(file.outputs) != 4:
            return None
        # In this order, with any names: TensorFlow's own export has another order, and counts
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
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        boxes, classes, scores, number = raw
        kept = np.flatnonzero(scores[: int(number)] >= min_score)
        width, height = self.input.size
        pixels = boxes[kept][:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
        return Candidates(
            transform.invert(pixels),
            scores[kept].astype(np.float32, copy=False),
            classes[kept].astype(np.int32),
        )
