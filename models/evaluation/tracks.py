"""Tracks in a clip: true and found boxes with ids, how they overlap, and ignored ones removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import Boxes, Rows, areas_of, check_boxes, check_lengths
from models.evaluation.assignment import assign

EPSILON = float(np.finfo(np.float64).eps)
"""Tolerance of comparisons with thresholds, that of TrackEval."""
MIN_IOU = 0.5
"""Overlap from which on boxes match, except in HOTA."""


class FrameBoxes(NamedTuple):
    """True and found boxes of one frame."""

    truth_ids: NDArray[np.integer]
    """(N,) track ids, each once."""
    truth_boxes: Boxes
    """(N, 4) float64 xyxy in px."""
    found_ids: NDArray[np.integer]
    """(M,) track ids, each once."""
    found_boxes: Boxes
    """(M, 4) float64 xyxy in px."""


class ClipBoxes(NamedTuple):
    """True and found boxes of all frames of a clip."""

    name: str
    """Name within the data set, unique."""
    frames: Sequence[FrameBoxes]
    """In order; a frame without boxes has empty arrays."""


class Overlaps(NamedTuple):
    """One frame, ready to be measured."""

    truth: Rows
    """(N,) numbers of the true tracks in the clip, from 0."""
    found: Rows
    """(M,) numbers of the found tracks in the clip, from 0."""
    rows: Rows
    """(P,) rows of `truth` of the pairs that overlap."""
    columns: Rows
    """(P,) rows of `found` of these pairs."""
    iou: NDArray[np.float64]
    """(P,) IoU of these pairs."""

    def dense(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make (N, M) of a value for each pair; 0 where boxes do not overlap."""
        matrix = np.zeros((len(self.truth), len(self.found)))
        matrix[self.rows, self.columns] = values
        return matrix


class ClipOverlaps(NamedTuple):
    """A clip, ready to be measured."""

    frames: list[Overlaps]
    truth_sizes: NDArray[np.int64]
    """(G,) number of boxes of each true track."""
    found_sizes: NDArray[np.int64]
    """(F,) number of boxes of each found track."""


def overlaps_of(clip: ClipBoxes) -> ClipOverlaps:
    """Number the tracks of a clip, and compute the overlaps in all frames.

    Raises:
        EvaluationError: an array is wrong, or an id occurs twice in a frame.
    """
    for number, frame in enumerate(clip.frames):
        where = f"{clip.name}: frame {number}"
        _check_tracks(f"{where}: truth", frame.truth_ids, frame.truth_boxes)
        _check_tracks(f"{where}: found", frame.found_ids, frame.found_boxes)
    truth, truth_sizes = _numbered([frame.truth_ids for frame in clip.frames])
    found, found_sizes = _numbered([frame.found_ids for frame in clip.frames])
    frames = []
    for frame, i, j in zip(clip.frames, truth, found, strict=True):
        iou = box_ious(frame.truth_boxes, frame.found_boxes)
        rows, columns = np.nonzero(iou)
        frames.append(Overlaps(i, j, rows, columns, iou[rows, columns]))
    return ClipOverlaps(frames, truth_sizes, found_sizes)


def without_ignored(frame: FrameBoxes, ignored: NDArray[np.bool_]) -> FrameBoxes:
    """Remove ignored true boxes, and the found boxes that match them.

    All true boxes take part in the matching, at IoU .50 with the largest sum, as in TrackEval's
    MotChallenge2DBox for distractors: a found box that matches a real one better is kept.

    Args:
        frame: boxes of a frame.
        ignored: (N,) whether a true box is neither to be found nor wrong to be found.

    Raises:
        EvaluationError: an array is wrong.
    """
    check_lengths("frame", len(frame.truth_ids), [("ignored", ignored)])
    if not ignored.any():
        return frame
    _check_tracks("frame: truth", frame.truth_ids, frame.truth_boxes)
    _check_tracks("frame: found", frame.found_ids, frame.found_boxes)
    iou = box_ious(frame.truth_boxes, frame.found_boxes)
    iou[iou < MIN_IOU - EPSILON] = 0
    rows, columns = assign(iou)
    kept = np.ones(len(frame.found_ids), np.bool_)
    kept[columns[ignored[rows]]] = False
    real = ~ignored
    return FrameBoxes(
        frame.truth_ids[real],
        frame.truth_boxes[real],
        frame.found_ids[kept],
        frame.found_boxes[kept],
    )


def box_ious(truth: Boxes, found: Boxes) -> NDArray[np.float64]:
    """Return the (N, M) IoU of boxes; a box without area overlaps none."""
    # In the order of TrackEval, so that it rounds the same.
    p, q = truth[:, None, :], found[None, :, :]
    low, high = np.minimum(p, q), np.maximum(p, q)
    width = np.maximum(low[..., 2] - high[..., 0], 0)
    shared: NDArray[np.float64] = width * np.maximum(low[..., 3] - high[..., 1], 0)
    of_truth, of_found = areas_of(truth), areas_of(found)
    union = of_truth[:, None] + of_found[None, :] - shared
    shared[of_truth <= EPSILON] = 0
    shared[:, of_found <= EPSILON] = 0
    union[shared == 0] = 1
    return shared / union


def _check_tracks(where: str, ids: NDArray[np.integer], boxes: Boxes) -> None:
    """Refuse arrays that do not fit together."""
    check_boxes(where, boxes)
    check_lengths(where, len(boxes), [("ids", ids)])
    if len(ids) and not np.issubdtype(ids.dtype, np.integer):
        raise EvaluationError(f"{where}: ids are {ids.dtype}; give integers")
    values = ids.tolist()
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise EvaluationError(
            f"{where}: id {twice} occurs twice; give each track one box in a frame"
        )


def _numbered(ids: Sequence[NDArray[np.integer]]) -> tuple[list[Rows], NDArray[np.int64]]:
    """Replace ids by numbers from 0; return them for each frame, and the number of each."""
    lengths = [len(of_frame) for of_frame in ids]
    start = np.zeros(0, np.int64)
    _, numbers, sizes = np.unique(
        np.concatenate([start, *ids]), return_inverse=True, return_counts=True
    )
    return np.split(numbers, np.cumsum(lengths)[:-1]) if ids else [], sizes
