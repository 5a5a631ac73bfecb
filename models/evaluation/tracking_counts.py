"""Sums over a clip from which figures of tracking follow: of HOTA, CLEAR MOT and Identity.

The sums of several clips are the sums of all, so that clips combine as in TrackEval.
"""

from __future__ import annotations

from typing import NamedTuple

import lap
import numpy as np
from numpy.typing import NDArray

from models.evaluation.arrays import Rows
from models.evaluation.assignment import assign
from models.evaluation.tracks import EPSILON, MIN_IOU, ClipOverlaps, Overlaps

ALPHAS = np.arange(0.05, 0.99, 0.05, dtype=np.float64)
"""(19,) IoU thresholds of HOTA: .05 to .95."""
KEPT_GAIN = 1000
"""Gain of a match that was one in the frame before; any sum of overlaps in a frame is smaller."""
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2
"""Part of its boxes above which a true track is mostly tracked, and below which mostly lost."""


class HotaSums(NamedTuple):
    """Sums over matches, for each alpha; (19,) each."""

    matched: NDArray[np.float64]
    """Number of matches."""
    iou: NDArray[np.float64]
    """Sum of the overlaps of matches."""
    ass_a: NDArray[np.float64]
    """Sum of A(c), the Jaccard index of the tracks of a match."""
    ass_re: NDArray[np.float64]
    """Sum of the part of the true track that has the same match."""
    ass_pr: NDArray[np.float64]
    """Sum of the part of the found track that has the same match."""


class ClearSums(NamedTuple):
    """Counts of CLEAR MOT."""

    matched: float
    iou: float
    """Sum of the overlaps of matches."""
    id_switches: float
    fragments: float
    """Number of times that a true track is tracked again after an interruption."""
    mostly_tracked: float
    partly_tracked: float
    mostly_lost: float


def hota_sums(clip: ClipOverlaps) -> HotaSums:
    """Sum up a clip for HOTA (Luiten et al., IJCV 129, 2021; matching as in section 5.2)."""
    truth, found, iou = _hota_matches(clip)
    pairs, at = np.unique(truth * len(clip.found_sizes) + found, return_inverse=True)
    of_truth = clip.truth_sizes[pairs // max(1, len(clip.found_sizes))]
    of_found = clip.found_sizes[pairs % max(1, len(clip.found_sizes))]
    sums = HotaSums(*(np.zeros(len(ALPHAS)) for _ in HotaSums._fields))
    for number, alpha in enumerate(ALPHAS):
        near = iou >= alpha - EPSILON
        count = np.bincount(at[near], minlength=len(pairs))
        sums.matched[number] = np.count_nonzero(near)
        sums.iou[number] = iou[near].sum()
        squared = count * count
        sums.ass_a[number] = (squared / (of_truth + of_found - count)).sum()
        sums.ass_re[number] = (squared / of_truth).sum()
        sums.ass_pr[number] = (squared / of_found).sum()
    return sums


def clear_sums(clip: ClipOverlaps) -> ClearSums:
    """Sum up a clip for CLEAR MOT (Bernardin & Stiefelhagen, EURASIP J. IVP 2008)."""
    tracks = len(clip.truth_sizes)
    last = np.full(tracks, -1, np.intp)  # found track that matched last
    before = np.full(tracks, -1, np.intp)  # the same, in the last frame with boxes only
    times, runs = np.zeros(tracks, np.int64), np.zeros(tracks, np.int64)
    switches, overlap = 0, 0.0
    for frame in clip.frames:
        if not len(frame.truth) or not len(frame.found):
            continue
        rows, columns, iou = _clear_matches(frame, before)
        truth, found = frame.truth[rows], frame.found[columns]
        known = last[truth]
        switches += int(np.count_nonzero((known >= 0) & (known != found)))
        times[truth] += 1
        runs[truth] += before[truth] < 0
        last[truth] = found
        before[:] = -1
        before[truth] = found
        overlap += float(iou.sum())
    part = times / np.maximum(clip.truth_sizes, 1)
    mostly = int(np.count_nonzero(part > MOSTLY_TRACKED))
    partly = int(np.count_nonzero(part >= MOSTLY_LOST)) - mostly
    return ClearSums(
        matched=float(times.sum()),
        iou=overlap,
        id_switches=switches,
        fragments=float((runs[runs > 0] - 1).sum()),
        mostly_tracked=mostly,
        partly_tracked=partly,
        mostly_lost=tracks - mostly - partly,
    )


def identity_matches(clip: ClipOverlaps) -> float:
    """Count the boxes that match with the best assignment of whole tracks (IDTP).

    Ristani et al., ECCV 2016 workshops, section 3: the lowest sum of missed and false boxes is
    the highest sum of matches.
    """
    pairs = [
        np.stack([f.truth[f.rows[near]], f.found[f.columns[near]]])
        for f in clip.frames
        if (near := f.iou >= MIN_IOU).any()
    ]
    if not pairs:
        return 0.0
    matches: NDArray[np.float64] = np.zeros((len(clip.truth_sizes), len(clip.found_sizes)))
    truth, found = np.concatenate(pairs, axis=1)
    np.add.at(matches, (truth, found), 1)
    matches = matches[matches.any(axis=1)][:, matches.any(axis=0)]
    to, _ = lap.lapjv(-matches, extend_cost=True, return_cost=False)
    return float(matches[np.flatnonzero(to >= 0), to[to >= 0]].sum())


def _hota_matches(clip: ClipOverlaps) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Match each frame for HOTA; return true track, found track and overlap of all matches."""
    alignment = _alignment(clip)
    matches = []
    for frame, aligned in zip(clip.frames, alignment, strict=True):
        if len(frame.iou):
            rows, columns = assign(frame.dense(aligned * frame.iou))
            iou = frame.dense(frame.iou)[rows, columns]
            matches.append((frame.truth[rows], frame.found[columns], iou))
    none = np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0)
    truth, found, ious = zip(none, *matches, strict=True)
    return np.concatenate(truth), np.concatenate(found), np.concatenate(ious)


def _alignment(clip: ClipOverlaps) -> list[NDArray[np.float64]]:
    """Return for each frame, and each pair in it, how well the two tracks fit in the clip."""
    wide = max(1, len(clip.found_sizes))
    shares: list[NDArray[np.float64]] = [np.zeros(0)]
    keys: list[Rows] = [np.zeros(0, np.intp)]
    for frame in clip.frames:
        # Sums over whole rows and columns, so that it rounds as TrackEval does.
        iou = frame.dense(frame.iou)
        whole = iou.sum(0)[frame.columns] + iou.sum(1)[frame.rows] - frame.iou
        shares.append(np.divide(frame.iou, whole, out=np.zeros_like(whole), where=whole > EPSILON))
        keys.append(frame.truth[frame.rows] * wide + frame.found[frame.columns])
    pairs, at = np.unique(np.concatenate(keys), return_inverse=True)
    shared = np.bincount(at, np.concatenate(shares), minlength=len(pairs))
    union = clip.truth_sizes[pairs // wide] + clip.found_sizes[pairs % wide] - shared
    ends = np.cumsum([len(frame.iou) for frame in clip.frames], dtype=np.intp)[:-1]
    return np.split((shared / union)[at], ends) if clip.frames else []


def _clear_matches(frame: Overlaps, before: Rows) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Match a frame for CLEAR MOT: first matches of the frame before, then large overlaps."""
    near = frame.iou >= MIN_IOU - EPSILON
    rows, columns, iou = frame.rows[near], frame.columns[near], frame.iou[near]
    if _all_alone(rows) and _all_alone(columns):
        return rows, columns, iou
    gain, overlap = np.zeros((2, len(frame.truth), len(frame.found)))
    overlap[rows, columns] = iou
    kept = before[frame.truth[rows]] == frame.found[columns]
    gain[rows, columns] = KEPT_GAIN * kept + iou
    rows, columns = assign(gain)
    return rows, columns, overlap[rows, columns]


def _all_alone(members: Rows) -> bool:
    """Return whether no member occurs twice."""
    return len(members) < 2 or int(np.bincount(members).max()) == 1
