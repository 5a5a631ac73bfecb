"""The head of Ultralytics YOLOv5, of YOLOv7, and of others that decode their anchors in the graph.

A row per anchor, three for each cell of the grids 8, 16, 32: centre, width and height in pixels
of the input, objectness, and one score per class. Exports converted from TensorFlow (NHWC) give
boxes from 0 to 1 in place of pixels. As in the reference's predictions, a box is a candidate for
its best class only, at objectness * class score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, grid_cells, image_tensor
from models.onnx_header import OnnxFile
from models.transform import Transform

ANCHORS_PER_CELL = 3


class Yolov5(DetectorFamily):
    """YOLOv5, YOLOv7."""

    raw = "[1,N,5+C], N three times the cells of the grids 8, 16, 32"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise three rows per cell of the grids."""
        shape = file.outputs[0].shape
        if image_tensor(file) is None or shape is None or len(shape) != 3:
            return None
        # Some exports give the three grids as well, as further outputs of five dimensions.
        if any(o.shape is None or len(o.shape) != 5 for o in file.outputs[1:]):
            return None
        cells = grid_cells(file)
        if shape[1] is None or shape[2] is None or shape[2] < 6 or cells is None:
            return None
        if shape[1] != ANCHORS_PER_CELL * cells:
            return None
        return Reading(
            pixels=Pixels(scale=1 / 255), outputs=(file.outputs[0].name,), classes=shape[2] - 5
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        rows = raw[0]
        # No class score is above 1, so objectness alone excludes nearly all rows.
        rows = rows[rows[:, 4] >= min_score].astype(np.float32, copy=False)
        classes = rows[:, 5:].argmax(axis=1)
        scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
        good = scores >= min_score
        centre, half = rows[good, :2], rows[good, 2:4] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        if self.input.layout == "nhwc":
            boxes *= np.array(self.input.size * 2, np.float32)
        return Candidates(transform.invert(boxes), scores[good], classes[good].astype(np.int32))
