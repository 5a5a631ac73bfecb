"""Models that need no suppression and give finished rows: x1, y1, x2, y2, score, class.

Boxes are in pixels of the input. YOLOv10 and later end-to-end models of Ultralytics, exports with
suppression inside, and CenterNet look like this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, image_input
from models.families import Candidates
from models.metadata import names_in
from models.onnx_header import OnnxFile
from models.transform import Transform


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    shape = file.outputs[0].shape
    if image_input(file) is None or len(file.outputs) != 1 or shape is None or len(shape) != 3:
        return None
    # More rows than this are raw outputs of a model of one or two classes.
    if shape[2] != 6 or shape[1] is None or shape[1] > 1000:
        return None
    names = names_in(file.metadata)
    unsure = {}
    if names is None:
        unsure = {
            "scale": "finished rows from float pixels: 0 to 1 (scale: 0.003921569, YOLOv10) and "
            "0 to 255 (scale: 1, CenterNet) are both in use"
        }
    return Reading(
        pixels=Pixels(scale=1 / 255),
        outputs=(file.outputs[0].name,),
        classes=None if names is None else len(names),
        end_to_end=True,
        unsure=unsure,
    )


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    rows = outputs[0]
    rows = rows[rows[:, 4] >= min_score].astype(np.float32, copy=False)
    return Candidates(transform.invert(rows[:, :4]), rows[:, 4], rows[:, 5].astype(np.int32))
