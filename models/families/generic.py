"""Every model with boxes whose layout is stated: by its card, by `presets.yaml`, or by its file.

The outputs become tables of named columns (`table.py`). Rows that reach the score are chosen first,
and only their boxes are decoded. A row is a candidate for its best class only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.rotated import upright_around
from models.families import keypoints, oriented
from models.families.base import Candidates, Detailed, Details, DetectorFamily, Reading
from models.families.box_decoder import BoxDecoder
from models.families.keypoints import Places, box_around, decode_points
from models.families.of_image import outputs_of_image
from models.families.oriented import rotated_of
from models.families.raw_rows import NO_EXTENT
from models.families.recognise import recognise
from models.families.table import Table, TableReader
from models.image_input import Input
from models.onnx_header import OnnxFile
from models.output_layout import OutputLayout, kind_of_boxes
from models.transform import Transform

PEAK_SIDE = 3
"""Side in cells of the square in which a peak is the largest score."""
LARGEST = 1 - 2.0**-24
"""A sigmoid of float32 above this is 1."""
MARGIN = 1e-3
"""Larger than what rounding moves a value before the sigmoid."""


class _Chosen(NamedTuple):
    """The rows of a table that reach a score; parallel arrays."""

    rows: NDArray[np.intp]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]


class Generic(DetectorFamily):
    """A model that finds boxes, with a stated layout.

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
        has_boxes = kind_of_boxes(layout) is not None
        self._boxes = BoxDecoder(layout, image.size) if has_boxes else None
        background = layout.background is not None
        self._tables = TableReader(
            layout,
            None if classes is None else classes + background,
            NO_EXTENT if self._boxes is None else self._boxes.extent,
            image.layout == "nhwc",
        )
        columns = list(layout.outputs.values())
        self._prototypes = _place_of("prototypes", columns)
        self._masks = _place_of("masks", columns)

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
        return outputs_of_image(outputs, tuple(self.layout.outputs.values()), index, images)

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`.

        Raises:
            ValueError: the outputs are not as the layout says.
        """
        return self.decode_detailed(raw, transform, min_score).candidates

    def decode_detailed(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Detailed:
        """See `decode`."""
        found, before = [], 0
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers that are not finite
            for number, table in enumerate(self._tables.read(raw)):
                chosen = self._choose(table, min_score)
                found.append(self._decode(table, number, chosen, before, raw))
                before += table.length
            boxes, scores, classes = (
                np.concatenate(parts) for parts in zip(*(own for own, _ in found), strict=True)
            )
            details = _joined([own for _, own in found])
            # Infinite sides end at the border of the image; one that is not a number has no place.
            good = ~np.isnan(boxes).any(axis=1)
            if self.results is not None:
                good &= self.results.check(boxes, scores, classes, transform, self.input.size)
            if not good.all():
                boxes, scores, classes = boxes[good], scores[good], classes[good]
                details = details.take(good)
            captured = _captured(details, transform)
            if captured.rotated is not None:
                hulls = upright_around(captured.rotated)
                boxes = transform.apply(hulls)  # clipped below, as all are
            prototypes = None if self._prototypes is None else raw[self._prototypes]
            candidates = Candidates(transform.invert(boxes), scores, classes)
            return Detailed(candidates, captured, prototypes)

    def _decode(
        self,
        table: Table,
        number: int,
        chosen: _Chosen,
        before: int,
        raw: Sequence[NDArray[Any]],
    ) -> tuple[Candidates, Details]:
        """Decode the chosen rows of a table: boxes and details in pixels of the input."""
        rows, layout = chosen.rows, self.layout
        points = coefficients = masks = rotated = None
        places = Places()
        if self._boxes is not None:
            boxes = self._boxes.corners(table, number, rows, before)
            places = self._boxes.places(table, number, rows, before)._replace(boxes=boxes)
        numbers = table.rows_of("keypoints", rows)
        if numbers is not None:
            points = decode_points(numbers, layout.keypoints, self.input.size, places)
        if self._boxes is None:
            assert points is not None, "a layout without boxes has keypoints"
            boxes, _ = box_around(points)
        angles = table.get("angle")
        if angles is not None:
            rotated = rotated_of(boxes, angles[rows], layout)
        if self._prototypes is not None:
            coefficients = table.rows_of("coefficients", rows)
        if self._masks is not None:
            masks = _grids(raw[self._masks], before + table.length)[before + rows]
        details = Details(points, rotated, coefficients, masks)
        return Candidates(boxes, chosen.scores, chosen.classes), details

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
            objectness = _activate(objectness[rows], layout)
        single = table.get("score")
        if single is not None:
            if objectness is None:
                rows = np.flatnonzero(single >= _before(min_score, layout, alone=True))
            scores = _activate(single[rows], layout)
            classes = _class_numbers(table, rows, layout)
        elif "scores" not in table.columns:
            return self._by_points(table, min_score)
        else:
            all_scores = _without_background(table, layout)
            if layout.peaks and table.length and self._boxes is not None:
                all_scores = _at_peaks(all_scores, self._boxes.cells(table))
            if objectness is None:
                rows = self._rows_with_a_score(table, all_scores, min_score)
            scores, classes = _best(all_scores, rows, layout)
        if objectness is not None:
            scores = np.sqrt(scores * objectness) if root else scores * objectness
        good = (scores >= min_score) & (classes >= 0)
        return _Chosen(rows[good], scores[good], classes[good])

    def _by_points(self, table: Table, min_score: float) -> _Chosen:
        """Return the rows whose points have a mean score that is high enough."""
        rows = np.arange(table.length)
        numbers = table.rows_of("keypoints", rows)
        assert numbers is not None, "a layout without scores has keypoints"
        points = decode_points(numbers, self.layout.keypoints, self.input.size, Places())
        _, scores = box_around(points)
        good = scores >= min_score
        return _Chosen(rows[good], scores[good], np.zeros(int(good.sum()), np.int32))

    def _rows_with_a_score(
        self, table: Table, scores: NDArray[Any], min_score: float
    ) -> NDArray[np.intp]:
        """Return the rows of which a class reaches a score, before the softmax if there is one."""
        layout = self.layout
        if layout.activation == "softmax":
            return np.arange(table.length)
        lowest = _before(min_score, layout)
        if layout.peaks:
            lowest = max(lowest, float(np.finfo(np.float32).min))  # above that of other cells
        if scores.flags.c_contiguous:
            # Few of all the scores are high, so their rows are found before the best class of each.
            rows = np.flatnonzero(scores >= lowest) // scores.shape[1]
            return rows[np.diff(rows, prepend=-1) > 0]
        return np.flatnonzero(scores.max(axis=1) >= lowest)


def _place_of(column: str, columns: Sequence[tuple[str, ...]]) -> int | None:
    """Return the place of the output of one column; None: there is none."""
    return columns.index((column,)) if (column,) in columns else None


def _grids(masks: NDArray[Any], rows: int) -> NDArray[np.float32]:
    """Return masks as (rows, h, w), whatever axes of length 1 they have.

    Raises:
        ValueError: they are not as many as rows.
    """
    height, width = masks.shape[-2:]
    if masks.size != rows * height * width:
        raise ValueError(f"masks: expected {rows} (found shape {list(masks.shape)})")
    return masks.reshape(rows, height, width).astype(np.float32, copy=False)


def _joined(parts: Sequence[Details]) -> Details:
    """Join the details of several levels."""
    return Details(
        *(
            None if any(value is None for value in values) else np.concatenate(values)
            for values in zip(*parts, strict=True)
        )
    )


def _captured(details: Details, transform: Transform) -> Details:
    """Convert details from pixels of the input to pixels of the captured image."""
    points, rotated = details.keypoints, details.rotated
    return details._replace(
        keypoints=None if points is None else keypoints.to_captured(points, transform),
        rotated=None if rotated is None else oriented.to_captured(rotated, transform),
    )


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


def _class_numbers(table: Table, rows: NDArray[np.intp], layout: OutputLayout) -> NDArray[np.int32]:
    """Return the class of each row from the column `class`, rounded; -1 where it is none."""
    given = table.get("class")
    if given is None:
        return np.zeros(len(rows), np.int32)
    numbers = np.rint(given[rows].astype(np.float64)) - layout.class_offset
    valid = (numbers >= 0) & (numbers <= np.iinfo(np.int32).max)
    return np.where(valid, numbers, -1).astype(np.int32)


def _best(
    scores: NDArray[Any], rows: NDArray[np.intp], layout: OutputLayout
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the best score of each row, from 0 to 1, and its class."""
    if not len(rows):
        return np.zeros(0, np.float32), np.zeros(0, np.int32)
    values = scores[rows]
    if layout.activation == "softmax":
        values = values.astype(np.float32, copy=False)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
        if layout.background is not None:
            values = np.delete(values, layout.background, axis=1)
    classes = values.argmax(axis=1)
    best = values[np.arange(len(values)), classes].astype(np.float32, copy=False)
    if layout.activation == "sigmoid":
        best = _sigmoid(best)
    return best, classes.astype(np.int32)


def _before(score: float, layout: OutputLayout, alone: bool = False) -> float:
    """Return a value that every score from `score` on has before the activation.

    It excludes most rows early; the score itself decides. A softmax has no such value.
    """
    if layout.activation == "none" or (layout.activation == "softmax" and not alone):
        return score
    if score <= 0:
        return -np.inf
    score = min(score, LARGEST)
    return float(np.log(score / (1 - score))) - MARGIN


def _activate(values: NDArray[Any], layout: OutputLayout) -> NDArray[np.float32]:
    """Apply the activation to single values, for which a softmax is a sigmoid."""
    if layout.activation == "none":
        return values.astype(np.float32, copy=False)
    return _sigmoid(values)


def _sigmoid(values: NDArray[Any]) -> NDArray[np.float32]:
    values = values.astype(np.float32, copy=False)
    # In two parts, because exp of a large number overflows.
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def _at_peaks(scores: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the scores at local maxima of the map of their class, minus infinity elsewhere.

    Source: Zhou et al., "Objects as Points", arXiv 1904.07850, section 4.

    Args:
        scores: (N, C), rows of cells one after the other.
        grid: columns and rows of cells.
    """
    columns, rows = grid
    maps = np.array(scores.T, np.float32, order="C").reshape(-1, rows, columns)
    around = np.ones((PEAK_SIDE, PEAK_SIDE), np.uint8)
    for one in maps:
        one[cv2.dilate(one, around) != one] = -np.inf
    return maps.reshape(len(maps), -1).T
