"""Thresholds of scores and overlaps: from settings, the run's `confidence` and the model's card.

The scores, from the lowest to the highest:

- `nms.min_score`: a box below it is dropped.
- `tracker.low_score`: a box from it on may continue a track seen in the last frame.
- `tracker.high_score`: a box from it on may continue any track.
- `confidence`: a box from it on may start and confirm a track; without a tracker it is an object.
- `tracker.new_track_score`: a box from it on may start a track, if that is to need more.

A stream may have a confidence of its own, a setting of non-maximum suppression; see `of_stream`.

A setting takes precedence over the card. Scores that are not set move as far as the set ones make
necessary; two set ones that contradict each other are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import msgspec

from models.card import Thresholds
from models.contract import Contract
from models.output_layout import BOX_TASKS
from pipeline.errors import SetupError
from pipeline.stage import Context

# Defaults, where neither the settings nor the card have a value.
MIN_SCORE = 0.1
LOW_SCORE = 0.3
HIGH_SCORE = 0.5
NEW_TRACK_SCORE = 0.65
MAX_IOU = 0.5


class Suppression(msgspec.Struct, frozen=True):
    """An offer of the stage that drops overlapping boxes."""

    min_score: float | None = None
    """Score below which it drops a box, where its settings give it."""


class StreamConfidences(msgspec.Struct, frozen=True):
    """An offer of the stage that drops overlapping boxes: streams with their own confidence."""

    scores: tuple[tuple[str, float], ...]
    """Name of a stream, and its confidence."""


class Confidence(NamedTuple):
    """The lowest score of an object, as far as it is known."""

    given: float | None = None
    """Value of the settings file or the command line."""
    of_card: float | None = None
    """Value of the model's card."""

    @classmethod
    def of(cls, context: Context) -> Confidence:
        """Return that of a stage, whose model is that of the nearest detector."""
        return cls(context.confidence, _thresholds(context).score)

    @property
    def known(self) -> float | None:
        """The given value, else that of the card."""
        return self.of_card if self.given is None else self.given


UNKNOWN = Confidence()
"""A confidence that is neither given nor in a card."""


class TrackScores(NamedTuple):
    """The scores of a tracker, in ascending order."""

    low: float
    high: float
    confirm: float
    """Smallest score of a box that confirms a new track."""
    new: float


def of_stream(context: Context, stream: str) -> Context:
    """Return the context of a stage for one stream: with the stream's own confidence, if any."""
    own = own_confidences(context).get(stream)
    return context if own is None else msgspec.structs.replace(context, confidence=own)


def own_confidences(context: Context) -> Mapping[str, float]:
    """Return the confidences of the streams that have their own, by the names of the streams."""
    offer = context.get(StreamConfidences)
    return {} if offer is None else dict(offer.scores)


def hand_on_score(min_score: float | None, confidence: Confidence) -> float | None:
    """Return the lowest score of a box that is handed on without a track; None: every box is.

    Args:
        min_score: setting of non-maximum suppression; None: not set. Without `confidence` it takes
            precedence over the card, as every setting does.
        confidence: confidence of the run and the card.
    """
    if confidence.given is None and min_score is not None:
        return min_score
    return confidence.known


def candidate_score(min_score: float | None, confidence: Confidence) -> float:
    """Return the score below which non-maximum suppression drops a box.

    Args:
        min_score: setting of non-maximum suppression; None: not set.
        confidence: confidence of the run and the card.

    Raises:
        SetupError: `min_score` is above the given confidence.
    """
    if min_score is None:
        return MIN_SCORE if confidence.known is None else min(MIN_SCORE, confidence.known)
    _check_order({"min_score": min_score, "confidence": confidence.given})
    return min_score


def track_scores(
    low_score: float | None,
    high_score: float | None,
    new_track_score: float | None,
    confidence: Confidence,
) -> TrackScores:
    """Return the scores of a tracker.

    Args:
        low_score: setting of the tracker; None: not set.
        high_score: setting of the tracker; None: not set.
        new_track_score: setting of the tracker; None: not set.
        confidence: confidence of the run and the card.

    Raises:
        SetupError: two given scores contradict each other.
    """
    _check_order(
        {
            "low_score": low_score,
            "high_score": high_score,
            "confidence": confidence.given,
            "new_track_score": new_track_score,
        }
    )
    floor = max(low_score or 0.0, high_score or 0.0)
    wanted = confidence.known
    new = new_track_score
    if new is None:
        new = max(NEW_TRACK_SCORE if wanted is None else wanted, floor)
    counts = new if wanted is None else min(wanted, new)
    high = high_score
    if high is None:
        high = max(min(HIGH_SCORE, counts), low_score or 0.0)
    low = min(LOW_SCORE, high) if low_score is None else low_score
    return TrackScores(low, high, high if wanted is None else max(high, counts), new)


def max_iou(setting: float | None, context: Context) -> float:
    """Work out the overlap above which the worse of two boxes is dropped.

    Args:
        setting: setting of non-maximum suppression; null: not given.
        context: context of the stage.
    """
    if setting is not None:
        return setting
    of_card = _thresholds(context).iou
    return MAX_IOU if of_card is None else of_card


def detector_contract(context: Context) -> Contract | None:
    """Return the contract of the nearest detector; models of other tasks have no say in boxes."""
    offers = (*context.offers, *context.offers_behind)
    contracts = (offer for offer in offers if isinstance(offer, Contract))
    return next((contract for contract in contracts if contract.task in BOX_TASKS), None)


def _thresholds(context: Context) -> Thresholds:
    contract = detector_contract(context)
    return Thresholds() if contract is None else contract.thresholds


def _check_order(scores: Mapping[str, float | None]) -> None:
    """Refuse given scores that are not in ascending order."""
    given = [(name, score) for name, score in scores.items() if score is not None]
    for (lower, low), (upper, high) in combinations(given, 2):
        if low > high:
            raise SetupError(
                f"{lower}: expected at most {upper} ({high}), found {low}; change one of the two"
            )
