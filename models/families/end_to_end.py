"""Models without need of suppression that give finished rows: x1, y1, x2, y2, score, class.

Boxes are in pixels of the input. YOLOv10 and later end-to-end models of Ultralytics, exports with
suppression in the graph, and CenterNet have this layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, image_tensor
from models.metadata import names_in
from models.onnx_header import OnnxFile
from models.transform import Transform

MAX_ROWS = 1000
"""More rows are the raw outputs of a model of one or two classes."""


class EndToEnd(DetectorFamily):
    """Finished rows."""

    raw = f"[1,N,6], N at most {MAX_ROWS}"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise few rows of six columns."""
        shape = file.outputs[0].shape
        if image_tensor(file) is None or len(file.outputs) != 1 or shape is None or len(shape) != 3:
            return None
        if shape[2] != 6 or shape[1] is None or shape[1] > MAX_ROWS:
            return None
        names = names_in(file.metadata)
        unsure = {}
        if names is None:
            unsure["scale"] = (
                "finished rows from float pixels: 0 to 1 (scale: 0.003921569, YOLOv10) and "
                "0 to 255 (scale: 1, CenterNet) are both in use"
            )
        return Reading(
            pixels=Pixels(scale=1 / 255),
            outputs=(file.outputs[0].name,),
            classes=None if names is None else len(names),
            end_to_end=True,
            unsure=unsure,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        rows = raw[0]
        rows = rows[rows[:, 4] >= min_score].astype(np.float32, copy=False)
        return Candidates(transform.invert(rows[:, :4]), rows[:, 4], rows[:, 5].astype(np.int32))
