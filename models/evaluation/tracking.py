"""Figures of tracking: HOTA, CLEAR MOT and Identity, of one clip or of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.evaluation.arrays import check_unique, ratio
from models.evaluation.tracking_counts import (
    ALPHAS,
    ClearSums,
    HotaSums,
    clear_sums,
    hota_sums,
    identity_matches,
)
from models.evaluation.tracks import ClipBoxes, overlaps_of


class BoxCounts(NamedTuple):
    """Numbers of boxes, tracks and frames."""

    objects: float
    """Number of true boxes."""
    found: float
    """Number of found boxes."""
    truth_tracks: float
    found_tracks: float
    frames: float
    identity: float
    """Number of matches with the best assignment of whole tracks."""


class ClipSums(NamedTuple):
    """Sums over a clip; those of several clips are added."""

    boxes: BoxCounts
    hota: HotaSums
    clear: ClearSums


class TrackingFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of tracking, equal to those of TrackEval; ratios are from 0 to 1, MOTA up to 1.

    None: undefined, a division by 0. TrackEval shows 0 or 1 there.
    """

    hota: float | None
    """Higher order tracking accuracy: mean over IoU thresholds alpha of sqrt(DetA x AssA)."""
    det_a: float | None
    """Detection accuracy, mean over alpha, as all the following of HOTA."""
    ass_a: float | None
    """Association accuracy."""
    loc_a: float | None
    """Localisation accuracy: mean IoU of matches."""
    det_re: float | None
    """Recall of detections."""
    det_pr: float | None
    """Precision of detections."""
    ass_re: float | None
    """Recall of association: part of a true track that one found track has."""
    ass_pr: float | None
    """Precision of association: part of a found track that is on one true track."""
    hota_curve: tuple[float, ...]
    """HOTA at each alpha from .05 to .95, 19 values; empty if undefined, as the following."""
    det_a_curve: tuple[float, ...]
    ass_a_curve: tuple[float, ...]
    loc_a_curve: tuple[float, ...]
    mota: float | None
    """Tracking accuracy: 1 - (missed + false + id switches) / true boxes."""
    motp: float | None
    """Tracking precision: mean IoU of matches."""
    recall: float | None
    precision: float | None
    matched: int
    missed: int
    false: int
    id_switches: int
    fragments: int
    """Number of times that a true track is tracked again after an interruption."""
    mostly_tracked: int
    """Number of true tracks with a match in more than 80 % of their frames."""
    partly_tracked: int
    mostly_lost: int
    """Number of true tracks with a match in less than 20 % of their frames."""
    idf1: float | None
    """F1 of boxes under the best assignment of whole tracks."""
    idp: float | None
    idr: float | None
    idtp: int
    idfp: int
    idfn: int
    objects: int
    """Number of true boxes."""
    found: int
    """Number of found boxes."""
    truth_tracks: int
    found_tracks: int
    frames: int


def clip_sums(clip: ClipBoxes) -> ClipSums:
    """Measure one clip.

    Raises:
        EvaluationError: an array is wrong, or an id occurs twice in a frame.
    """
    overlaps = overlaps_of(clip)
    boxes = BoxCounts(
        objects=float(overlaps.truth_sizes.sum()),
        found=float(overlaps.found_sizes.sum()),
        truth_tracks=len(overlaps.truth_sizes),
        found_tracks=len(overlaps.found_sizes),
        frames=len(overlaps.frames),
        identity=identity_matches(overlaps),
    )
    return ClipSums(boxes, hota_sums(overlaps), clear_sums(overlaps))


def evaluate_tracks(clips: Sequence[ClipBoxes]) -> TrackingFigures:
    """Measure clips together, as TrackEval's COMBINED_SEQ does: not the mean over clips.

    Raises:
        EvaluationError: a name occurs twice, or an array is wrong.
    """
    check_unique("clips", [clip.name for clip in clips])
    return tracking_figures([clip_sums(clip) for clip in clips])


def tracking_figures(
    clips: Sequence[ClipSums], weights: NDArray[np.float64] | None = None
) -> TrackingFigures:
    """Make figures of the sums over clips.

    Args:
        clips: results of `clip_sums`.
        weights: (clips,) how often each clip counts; None: once. With weights that are no whole
            numbers, counts are rounded down.
    """
    if weights is None:
        weights = np.ones(len(clips))
    total = _total(clips, weights)
    boxes, clear = total.boxes, total.clear
    return TrackingFigures(
        **_of_hota(total),
        mota=ratio(2 * clear.matched - boxes.found - clear.id_switches, boxes.objects),
        motp=ratio(clear.iou, clear.matched),
        recall=ratio(clear.matched, boxes.objects),
        precision=ratio(clear.matched, boxes.found),
        matched=int(clear.matched),
        missed=int(boxes.objects - clear.matched),
        false=int(boxes.found - clear.matched),
        id_switches=int(clear.id_switches),
        fragments=int(clear.fragments),
        mostly_tracked=int(clear.mostly_tracked),
        partly_tracked=int(clear.partly_tracked),
        mostly_lost=int(clear.mostly_lost),
        idf1=ratio(2 * boxes.identity, boxes.objects + boxes.found),
        idp=ratio(boxes.identity, boxes.found),
        idr=ratio(boxes.identity, boxes.objects),
        idtp=int(boxes.identity),
        idfp=int(boxes.found - boxes.identity),
        idfn=int(boxes.objects - boxes.identity),
        objects=int(boxes.objects),
        found=int(boxes.found),
        truth_tracks=int(boxes.truth_tracks),
        found_tracks=int(boxes.found_tracks),
        frames=int(boxes.frames),
    )


def _total(clips: Sequence[ClipSums], weights: NDArray[np.float64]) -> ClipSums:
    """Add up clips, each as often as its weight says."""
    hota = (
        _weighted([clip.hota[field] for clip in clips], weights, len(ALPHAS))
        for field in range(len(HotaSums._fields))
    )
    clear = _weighted([clip.clear for clip in clips], weights, len(ClearSums._fields))
    boxes = _weighted([clip.boxes for clip in clips], weights, len(BoxCounts._fields))
    return ClipSums(BoxCounts(*boxes.tolist()), HotaSums(*hota), ClearSums(*clear.tolist()))


def _weighted(
    rows: Sequence[ArrayLike], weights: NDArray[np.float64], length: int
) -> NDArray[np.float64]:
    """Add up rows of a given length, each as often as its weight says."""
    table = np.asarray(rows, np.float64).reshape(len(rows), length)
    total: NDArray[np.float64] = weights @ table
    return total


def _of_hota(total: ClipSums) -> dict[str, Any]:
    """Make the figures of HOTA of sums (Luiten et al., IJCV 129, 2021, section 5)."""
    matched = total.hota.matched
    objects, found = total.boxes.objects, total.boxes.found
    boxes = objects + found
    det_a = matched / np.maximum(1, boxes - matched)
    per_match = 1 / np.maximum(1, matched)
    ass_a = total.hota.ass_a * per_match
    loc_a = np.where(matched > 0, total.hota.iou * per_match, 1)
    hota = np.sqrt(det_a * ass_a)
    some = bool(matched.any())

    def mean(values: NDArray[np.float64], defined: bool) -> float | None:
        return float(values.mean()) if defined else None

    def curve(values: NDArray[np.float64], defined: bool) -> tuple[float, ...]:
        return tuple(values.tolist()) if defined else ()

    return {
        "hota": mean(hota, boxes > 0),
        "det_a": mean(det_a, boxes > 0),
        "ass_a": mean(ass_a, some),
        "loc_a": mean(loc_a, some),
        "det_re": mean(matched / max(1, objects), objects > 0),
        "det_pr": mean(matched / max(1, found), found > 0),
        "ass_re": mean(total.hota.ass_re * per_match, some),
        "ass_pr": mean(total.hota.ass_pr * per_match, some),
        "hota_curve": curve(hota, boxes > 0),
        "det_a_curve": curve(det_a, boxes > 0),
        "ass_a_curve": curve(ass_a, some),
        "loc_a_curve": curve(loc_a, some),
    }
