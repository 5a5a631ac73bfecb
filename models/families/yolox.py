"""YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv 2107.08430), not yet decoded.

A row per grid cell, strides 8, 16, 32: centre (in cells, from the cell's corner), log of width
and height (in cells), objectness, and one score per class. As in the reference, a box is a
candidate for its best class only, at objectness * class score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import STRIDES, Input, Pixels, grid_cells, image_tensor
from models.onnx_header import OnnxFile
from models.transform import Transform


class Yolox(DetectorFamily):
    """YOLOX as its authors export it."""

    raw = "[1,N,5+C], N cells of the grids 8, 16, 32"

    def __init__(self, image: Input, classes: int | None) -> None:
        super().__init__(image, classes)
        self._corner, self._stride = _grid(*image.size)

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise one row per cell of the grids."""
        image = image_tensor(file)
        shape = file.outputs[0].shape
        if image is None or len(file.outputs) != 1 or shape is None or len(shape) != 3:
            return None
        # Models of Ultralytics have names in their metadata; an Exp in the graph decodes boxes.
        if "names" in file.metadata or "Exp" in file.ops:
            return None
        cells = grid_cells(file)
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
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        rows = raw[0]
        # No class score is above 1, so objectness alone excludes nearly all rows.
        kept = np.flatnonzero(rows[:, 4] >= min_score)
        rows = rows[kept].astype(np.float32, copy=False)
        classes = rows[:, 5:].argmax(axis=1)
        scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
        good = scores >= min_score
        rows, kept = rows[good], kept[good]
        corner, stride = self._corner[kept], self._stride[kept]
        with np.errstate(over="ignore"):  # an infinite box is clipped to the image
            half = np.exp(rows[:, 2:4]) * (stride / 2)
        centre = (rows[:, :2] + corner) * stride
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return Candidates(transform.invert(boxes), scores[good], classes[good].astype(np.int32))


def _grid(width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return corner (N, 2), in cells, and stride (N, 1), in pixels, of every cell."""
    corners, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)
