"""The classes of single objects by a second model: which of many kinds of bottle, for example.

A single look may be wrong: the object is half hidden, blurred or small. So each try of a track is
a vote, and a class is shown once enough votes agree.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from models.contract import Contract
from pipeline.context import RowLimit
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.memory.saved_states import ANSWER_BYTES, STATE_BYTES
from pipeline.stage import Context
from stages.details import ATTRIBUTES, Attribute, AttributeLabels, put_attributes
from stages.inference.class_scores import ClassScores
from stages.inference.object_crops import CropSettings, ObjectCropStage, Track, saved_tracks

MAX_VOTES = 20
"""Newest votes of a track that count."""
TRACK_BYTES = 64 + 12 * MAX_VOTES
"""Room of a track in the saved state, at most."""
UNIT = 10_000
"""Scores of votes are kept as whole numbers of 1 / UNIT."""
ROUNDING = 1e-9


class ClassifyObjectsSettings(CropSettings, frozen=True, kw_only=True):
    """Settings of the classifier of objects."""

    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.8
    """Score that the best class of a try needs to be a vote; else the try is none."""
    min_votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] = 3
    """Votes that a class needs to be shown."""
    agreement: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """Part of all votes of the object that the class needs to be shown; the newest 20 count."""


class Vote(NamedTuple):
    """The class of one try."""

    number: int
    score: int
    """In units of 1 / UNIT."""


class Voted(Track, array_like=True):
    """A tracked object and its votes."""

    votes: list[Vote] = []


class ClassifyObjects(ObjectCropStage[Voted]):
    """Gives each object an attribute: the class that the votes of its track agree on.

    Each try votes for its best class, if that reaches `min_score`. The class with the most votes
    is shown while it has `min_votes` of them and the part `agreement` of all. An object without an
    id has one try alone: its class is shown if it reaches `min_score`.

    The labels of the boxes stay those of the detector.
    """

    Settings = ClassifyObjectsSettings
    tasks = ("classify",)
    gives = (ATTRIBUTES,)
    track = Voted
    max_tracks = saved_tracks(TRACK_BYTES, STATE_BYTES // 2)

    settings: ClassifyObjectsSettings

    def __init__(self, settings: ClassifyObjectsSettings, context: Context) -> None:
        """Check the labels.

        Raises:
            SetupError: the detector has no such label; or those of the model are too long.
        """
        super().__init__(settings, context)
        self._scores = ClassScores(self._contract, context.log)
        _check_answer(context, self._contract)

    @classmethod
    def offers_of(cls, contract: Contract) -> tuple[object, ...]:
        """Return the names of the classes."""
        return (AttributeLabels(names=contract.labels),)

    def process(self, frame: Frame) -> None:
        """Add the attributes of the objects to `attributes`."""
        assert self._family is not None
        trials = self.infer(frame)
        votes: dict[int, Vote] = {}
        for trial in trials:
            scores = self._scores.read(self._family, trial.raw, trial.transform)
            if len(scores):
                best = int(scores.argmax())
                if scores[best] >= self.settings.min_score:
                    votes[trial.row] = Vote(best, round(float(scores[best]) * UNIT))
        tracks = self.see(frame, trials)
        given: list[Attribute | None] = [None] * len(frame["boxes"])
        for row, vote in votes.items():
            if row in tracks:
                tracks[row].votes = [*tracks[row].votes, vote][-MAX_VOTES:]
            else:
                given[row] = self._attribute([vote])
        for row, track in tracks.items():
            if self.is_settled(track):
                given[row] = self._attribute(track.votes)
        put_attributes(frame, self.context.stage, given)

    def is_settled(self, track: Voted) -> bool:
        """Return whether the votes of a track agree."""
        if len(track.votes) < self.settings.min_votes:
            return False
        _, count = winner(track.votes)
        needed = max(self.settings.min_votes, self.settings.agreement * len(track.votes) - ROUNDING)
        return count >= needed

    def _attribute(self, votes: list[Vote]) -> Attribute:
        number, count = winner(votes)
        score = sum(vote.score for vote in votes if vote.number == number) / count / UNIT
        return Attribute(self._scores.label(number), number, round(score, 4), count)


def winner(votes: list[Vote]) -> tuple[int, int]:
    """Return the class with the most votes, of equal ones that with the highest scores, and how
    many votes it has."""
    sums: dict[int, tuple[int, int]] = {}
    for number, score in votes:
        count, total = sums.get(number, (0, 0))
        sums[number] = count + 1, total + score
    number = max(sums, key=lambda number: (*sums[number], -number))
    return number, sums[number][0]


def _check_answer(context: Context, contract: Contract) -> None:
    """Refuse labels with which the answer to a full frame could not be saved.

    Raises:
        SetupError: they are too long.
    """
    limit = context.get(RowLimit)
    if limit is None:
        return
    others = (offer for offer in context.offers[context.own_offers :])
    before = [offer for offer in others if isinstance(offer, AttributeLabels)]
    own = AttributeLabels(stage=context.stage, names=contract.labels)
    row_bytes = 2 + sum(_longest(offer) for offer in (own, *before))
    if limit.rows * row_bytes > ANSWER_BYTES:
        label = max(contract.labels, key=len, default="")
        raise SetupError(
            f"model {contract.name}: the answer to a frame of {limit.rows} boxes cannot be saved "
            f"with its labels (found {limit.rows * row_bytes} bytes, room for {ANSWER_BYTES}); "
            f"shorten labels such as {label[:40]!r}, or set max_boxes of the stage that suppresses "
            f"boxes to at most {ANSWER_BYTES // row_bytes}"
        )


def _longest(offer: AttributeLabels) -> int:
    """Return the bytes of the longest attribute with these labels, as JSON."""
    label = max(offer.names, key=lambda name: len(msgspec.json.encode(name)), default="0")
    attribute = Attribute(label, max(9999, len(offer.names)), 0.1234, MAX_VOTES)
    return len(msgspec.json.encode({offer.stage: attribute}))
