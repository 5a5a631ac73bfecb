"""Every detector whose layout is stated: by its card, by `presets.yaml`, or by its file.

The outputs become tables of named columns (`table.py`). Rows that reach the score are chosen first,
and only their boxes are decoded. A row is a candidate for its best class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.families.box_decoder import BoxDecoder
from models.families.raw_rows import one_image
from models.families.recognise import recognise
from models.families.table import Table, TableReader
from models.image_input import Input
from models.onnx_header import OnnxFile
from models.output_layout import OutputLayout
from models.transform import Transform

PEAK_SIDE = 3
"""Side in cells of the square in which a peak is the largest score."""


class _Chosen(NamedTuple):
    """The rows of a table that reach a score; parallel arrays."""

    rows: NDArray[np.intp]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]


class Generic(DetectorFamily):
    """A detector with a stated layout.

    Args:
        image: the model's input.
        classes: number of classes, without background; None: not stated in the file.
        layout: layout of the outputs.
    """

    raw = "any outputs, described in the card's `output`"

    def __init__(
        self, image: Input, classes: int | None, layout: OutputLayout | None = None
    ) -> None:
        super().__init__(image, classes)
        assert layout is not None, "a contract of this family has a layout"
        self.layout = layout
        self._boxes = BoxDecoder(layout, image.size)
        background = layout.background is not None
        self._tables = TableReader(
            layout,
            None if classes is None else classes + background,
            self._boxes.rows,
            image.layout == "nhwc",
        )

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """See `recognise.py`.

        Raises:
            ContractError: several readings fit.
        """
        return recognise(file)

    def of_image(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int
    ) -> list[NDArray[Any]]:
        """See `Family.of_image`."""
        columns = self.layout.outputs.values()
        return [
            one_image(output, names, index, images)
            for output, names in zip(outputs, columns, strict=True)
        ]

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`.

        Raises:
            ValueError: the outputs are not as the layout says.
        """
        found = []
        for number, table in enumerate(self._tables.read(raw)):
            chosen = self._choose(table, min_score)
            found.append((self._boxes.corners(table, number, chosen.rows), *chosen[1:]))
        boxes, scores, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if self.results is not None:
            good = self.results.check(boxes, scores, classes, transform, self.input.size)
            if not good.all():
                boxes, scores, classes = boxes[good], scores[good], classes[good]
        return Candidates(transform.invert(boxes), scores, classes)

    def _choose(self, table: Table, min_score: float) -> _Chosen:
        """Return the rows that reach a score, with score and class of each."""
        layout = self.layout
        root = layout.combine == "geometric_mean"
        rows: NDArray[np.intp] = np.arange(0)
        objectness = table.get("objectness")
        if objectness is not None:
            # No class score is above 1, so objectness alone excludes nearly all rows.
            lowest = min_score**2 if root else min_score
            rows = np.flatnonzero(objectness >= _before(lowest, layout, alone=True))
            objectness = _activate(objectness[rows], layout, alone=True)
        single = table.get("score")
        if single is not None:
            if objectness is None:
                rows = np.flatnonzero(single >= _before(min_score, layout, alone=True))
            scores = _activate(single[rows], layout, alone=True)
            classes = np.zeros(len(rows)) if (of := table.get("class")) is None else of[rows]
            classes = classes - layout.class_offset
        else:
            all_scores = _without_background(table, layout)
            if objectness is None:
                rows = self._rows_with_a_score(table, all_scores, min_score)
            scores, classes = _best(all_scores, rows, table, layout)
        if objectness is not None:
            scores = np.sqrt(scores * objectness) if root else scores * objectness
        good = scores >= min_score
        return _Chosen(
            rows[good],
            scores[good].astype(np.float32, copy=False),
            classes[good].astype(np.int32),
        )

    def _rows_with_a_score(
        self, table: Table, scores: NDArray[Any], min_score: float
    ) -> NDArray[np.intp]:
        """Return the rows of which a class reaches a score, before the softmax if there is one."""
        layout = self.layout
        if layout.activation == "softmax":
            return np.arange(table.length)
        lowest = _before(min_score, layout)
        if scores.flags.c_contiguous and not layout.peaks:
            # Few of all the scores are high, so their rows are found before the best class of each.
            rows = np.flatnonzero(scores >= lowest) // scores.shape[1]
            return rows[np.diff(rows, prepend=-1) > 0]
        reached = scores.max(axis=1) >= lowest
        if layout.peaks and table.grid is not None:
            reached &= _peaks(scores, table.grid)
        return np.flatnonzero(reached)


def _without_background(table: Table, layout: OutputLayout) -> NDArray[Any]:
    """Return the scores (N, C); with the softmax, which needs all of them, the background too."""
    scores = table.columns["scores"]
    values = scores.rows[:, scores.start : scores.start + scores.width]
    if layout.background is None or layout.activation == "softmax":
        return values
    if layout.background == 0:
        return values[:, 1:]
    if layout.background == -1:
        return values[:, :-1]
    return np.delete(values, layout.background, axis=1)


def _best(
    scores: NDArray[Any], rows: NDArray[np.intp], table: Table, layout: OutputLayout
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the best score of each row, from 0 to 1, and its class."""
    values = scores[rows]
    if layout.activation == "softmax":
        values = values.astype(np.float32, copy=False)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
        if layout.background is not None:
            values = np.delete(values, layout.background, axis=1)
    if not len(values):
        return np.zeros(0, np.float32), np.zeros(0, np.int32)
    classes = values.argmax(axis=1)
    best = values[np.arange(len(values)), classes]
    if layout.activation == "sigmoid":
        best = _sigmoid(best)
    return best, classes


def _before(score: float, layout: OutputLayout, alone: bool = False) -> float:
    """Return the value that becomes a score by the activation; a softmax has none."""
    if layout.activation == "none" or (layout.activation == "softmax" and not alone):
        return score
    if score <= 0:
        return -np.inf
    return np.inf if score >= 1 else float(np.log(score / (1 - score)))


def _activate(values: NDArray[Any], layout: OutputLayout, alone: bool = False) -> NDArray[Any]:
    """Apply the activation to single values, for which a softmax is a sigmoid."""
    return values if layout.activation == "none" else _sigmoid(values)


def _sigmoid(values: NDArray[Any]) -> NDArray[np.float32]:
    values = values.astype(np.float32, copy=False)
    # In two parts, because exp of a large number overflows.
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def _peaks(scores: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the cells that have the largest score around them, in any class.

    Args:
        scores: (N, C), rows of cells one after the other.
        grid: columns and rows of cells.
    """
    columns, rows = grid
    maps = np.ascontiguousarray(scores.T).reshape(-1, rows, columns).astype(np.float32)
    around = np.ones((PEAK_SIDE, PEAK_SIDE), np.uint8)
    peaks = [(cv2.dilate(one, around) == one).reshape(-1) for one in maps]
    best = maps.reshape(len(maps), -1).argmax(axis=0)
    found: NDArray[np.bool_] = np.array(peaks)[best, np.arange(len(best))]
    return found
