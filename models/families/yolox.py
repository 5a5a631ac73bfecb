"""YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430), not yet decoded.

A row per grid cell, strides 8, 16, 32: centre (in cells, from the cell's corner), log of width
and height (in cells), objectness, and one score per class. As in the reference, a box is a
candidate for its best class only, at objectness * class score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, grid_cells, image_input
from models.families import Candidates
from models.onnx_header import OnnxFile
from models.transform import Transform

STRIDES = (8, 16, 32)


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    image = image_input(file)
    shape = file.outputs[0].shape
    if image is None or len(file.outputs) != 1 or shape is None or len(shape) != 3:
        return None
    # Ultralytics models say so in their metadata; one with Exp in its graph is decoded already.
    if "names" in file.metadata or "Exp" in file.ops:
        return None
    cells = grid_cells(file, STRIDES)
    if shape[1] is not None and cells is not None and shape[1] != cells:
        return None
    if shape[2] is not None and shape[2] < 6:
        return None
    return Reading(
        pixels=Pixels(anchor="top_left", colour="bgr"),
        outputs=(file.outputs[0].name,),
        classes=None if shape[2] is None else shape[2] - 5,
    )


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    rows = outputs[0]
    # No class scores more than 1, so objectness alone rules out nearly all rows.
    kept = np.flatnonzero(rows[:, 4] >= min_score)
    rows = rows[kept].astype(np.float32, copy=False)
    classes = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
    good = scores >= min_score
    rows, kept = rows[good], kept[good]
    corner, stride = _grid(*contract.input.size)
    with np.errstate(over="ignore"):  # an infinite box is clipped to the picture
        half = np.exp(rows[:, 2:4]) * (stride[kept] / 2)
    centre = (rows[:, :2] + corner[kept]) * stride[kept]
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return Candidates(transform.invert(boxes), scores[good], classes[good].astype(np.int32))


@lru_cache(maxsize=4)
def _grid(width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Corner (N, 2), in cells, and stride (N, 1), in pixels, of every cell."""
    corners, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)
