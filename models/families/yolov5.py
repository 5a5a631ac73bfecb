"""The head of Ultralytics YOLOv5, of YOLOv7, and of others that decode their anchors in the graph.

A row per anchor, three for each cell of the grids 8, 16, 32: centre, width and height in pixels
of the input, objectness, and one score per class. Exports that came through TensorFlow (NHWC)
give shares of the input in place of pixels. As in the reference's predictions, a box is a
candidate for its best class only, at objectness * class score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, grid_cells, image_input
from models.families import Candidates
from models.onnx_header import OnnxFile
from models.transform import Transform


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    shape = file.outputs[0].shape
    if image_input(file) is None or shape is None or len(shape) != 3:
        return None
    # Some exports give the three grids as well, as further outputs of five sides.
    if any(o.shape is None or len(o.shape) != 5 for o in file.outputs[1:]):
        return None
    cells = grid_cells(file)
    if shape[1] is None or shape[2] is None or shape[2] < 6 or cells is None:
        return None
    if shape[1] != 3 * cells:
        return None
    return Reading(
        pixels=Pixels(scale=1 / 255), outputs=(file.outputs[0].name,), classes=shape[2] - 5
    )


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    rows = outputs[0]
    # No class scores more than 1, so objectness alone rules out nearly all rows.
    rows = rows[rows[:, 4] >= min_score].astype(np.float32, copy=False)
    classes = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
    good = scores >= min_score
    centre, half = rows[good, :2], rows[good, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    if contract.input.layout == "nhwc":
        boxes *= np.array(contract.input.size * 2, np.float32)
    return Candidates(transform.invert(boxes), scores[good], classes[good].astype(np.int32))
