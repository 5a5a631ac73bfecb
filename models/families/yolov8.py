"""The head of Ultralytics YOLOv8, and of v9, v11 and v12 after it.

A column per anchor point: centre, width and height in pixels of the input, then one score per
class; some exports have rows in place of columns. As in the reference's predictions, a box is a
candidate for its best class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, grid_cells, image_tensor
from models.metadata import names_in
from models.onnx_header import OnnxFile
from models.transform import Transform


class Yolov8(DetectorFamily):
    """YOLOv8, v9, v11, v12."""

    raw = "[1,4+C,N]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise a column per cell of the grids, or a row."""
        shape = file.outputs[0].shape
        if image_tensor(file) is None or len(file.outputs) != 1 or shape is None or len(shape) != 3:
            return None
        if file.metadata.get("end2end") == "True":
            return None
        cells, names = grid_cells(file), names_in(file.metadata)
        _, rows, columns = shape
        # Rows in place of columns are accepted only with further evidence: the names of the
        # classes, or the Softmax at the end of this family's box head.
        as_columns = rows is not None and rows > 4 and (cells is None or columns in (cells, None))
        as_rows = columns is not None and columns > 4 and (cells is None or rows in (cells, None))
        if names is not None:
            classes = len(names)
            as_columns = as_columns and rows == 4 + classes
            as_rows = as_rows and columns == 4 + classes
        elif as_columns and rows is not None:
            classes = rows - 4
        elif as_rows and columns is not None and "Softmax" in file.ops:
            classes = columns - 4
        else:
            return None
        if not as_columns and not as_rows:
            return None
        return Reading(
            pixels=Pixels(scale=1 / 255), outputs=(file.outputs[0].name,), classes=classes
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        columns = raw[0]
        if self.classes is not None and len(columns) != 4 + self.classes:
            columns = columns.T
        scores = columns[4:].max(axis=0)
        kept = np.flatnonzero(scores >= min_score)
        classes = columns[4:, kept].argmax(axis=0)
        centre, half = columns[:2, kept], columns[2:4, kept] / 2
        boxes = np.concatenate([centre - half, centre + half]).T
        return Candidates(
            transform.invert(boxes),
            scores[kept].astype(np.float32, copy=False),
            classes.astype(np.int32),
        )
