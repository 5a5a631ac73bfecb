"""Non-maximum suppression: of the boxes on one object, only the best is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.fusion import FusedScore
from models.boxes.nms import Method, NmsOptions, nms
from models.contract import Contract
from models.families.base import Candidates
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.messages import name_of
from pipeline.stage import Array, Context, Resolved, RowLimit, Settings, Stage
from stages.details import DETAILS
from stages.detections import (
    CANDIDATES,
    UNFILTERED,
    WEAK_DETECTIONS,
    WantsAllBoxes,
    check_streams,
    class_numbers,
    labels_of,
    put_unfiltered,
)
from stages.inference.detail_maker import RAW_DETAILS, DetailMaker, RawDetails
from stages.region import Region
from stages.thresholds import (
    Confidence,
    StreamConfidences,
    Suppression,
    candidate_score,
    detector_contract,
    hand_on_score,
    max_iou,
)

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class StreamRules(Settings, frozen=True):
    """Settings for one stream; null: as for all streams."""

    classes: list[str] | None = None
    """Labels of the objects to keep."""
    confidence: Fraction | None = None
    """Score from which on a box is an object, as the `confidence` of the run; at least `min_score`
    of the stage."""
    region: list[tuple[float, float]] | None = None
    """Corners of a polygon, x and y as fractions of the frame's width and height, in order. An
    object is kept if the middle of the lower edge of its box, where it stands, is inside."""

    def __str__(self) -> str:
        shown = [] if self.classes is None else [f"classes {' '.join(self.classes) or 'none'}"]
        if self.confidence is not None:
            shown.append(f"confidence {self.confidence:.6g}")
        if self.region is not None:
            shown.append(f"region of {len(self.region)} corners")
        return f"({', '.join(shown) or 'as all'})"


class NonMaxSuppressionSettings(Settings, frozen=True):
    """Settings of non-maximum suppression."""

    min_score: Fraction | None = None
    """Boxes with a lower score are dropped. Low by default, because the tracker continues tracks of
    half hidden objects with weak boxes; the score of an object is `confidence`. null: 0.1, or the
    confidence where that is less. Given without `confidence`, it also takes the place of the card's
    score where no tracker follows."""
    max_iou: Fraction | None = None
    """Overlap (IoU) above which the better of two boxes of a class is kept. Lower merges people
    who stand close, higher leaves several boxes on one object. null: as the card of the model says,
    else 0.5."""
    class_agnostic: bool = False
    """Whether boxes of different classes suppress each other too: for models that find both a car
    and a truck in one object."""
    classes: list[str] | None = None
    """Labels of the objects to keep; null: all. For a model without labels, the numbers of the
    classes, in quotes."""
    class_scores: dict[str, Fraction] = {}
    """Label -> score below which boxes of this class are dropped, at least `min_score`. So that a
    class needs more than others: `confidence` lower, and a score here for the others."""
    streams: dict[str, StreamRules] = {}
    """Name of a stream -> its own classes, confidence and region."""
    method: Method = "greedy"
    """greedy: the worse of two boxes that overlap is dropped; diou: not if their centres are apart;
    soft_linear, soft_gaussian: it gets a lower score; fusion: they become their mean."""
    sigma: Annotated[float, msgspec.Meta(gt=0)] = 0.5
    """Width of soft_gaussian: higher lowers scores less."""
    fused_score: FusedScore = "max"
    """Score of the boxes of `fusion`: that of the best, or the mean, which weak boxes lower."""
    max_candidates: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Number of best boxes that are compared with each other; limits the time per frame."""
    max_boxes: Annotated[int, msgspec.Meta(ge=1)] = 300
    """Number of best boxes that are given."""


class _Rules(NamedTuple):
    """The objects to keep of a stream."""

    wanted: NDArray[np.int32] | None
    """Classes; None: all."""
    hand_on: float | None
    """Lowest score of an object; None: there is no limit."""
    region: Region | None
    """Region of their feet; None: the whole frame."""


class NonMaxSuppression(Stage):
    """Keeps the best box of each object; best score first, equal scores in their given order.

    Suppression is greedy and per class: a box is dropped if its IoU with a better box that is kept
    is above `max_iou`. Boxes without area overlap no other box. Rows with a score or coordinate
    that is not a finite number are dropped. Other methods are in `models/boxes/nms.py`.

    The boxes of a model that suppresses overlaps itself (`end_to_end` in its contract) are only
    filtered by score, class and region, and sorted.

    Boxes that reach the confidence are handed on as `boxes`, weaker ones as `weak_boxes`, which
    only a tracker uses.

    The settings of streams are here, and not under `streams` of the settings file, because the
    pipeline that reads those does not know classes and boxes. So they are checked, shown, and
    changed by a reload as all settings of a stage are.
    """

    Settings = NonMaxSuppressionSettings
    takes = (*CANDIDATES, Array("transform", "float64", (4,), optional=True), *RAW_DETAILS)
    gives = (*CANDIDATES, *WEAK_DETECTIONS, *UNFILTERED, *DETAILS)

    settings: NonMaxSuppressionSettings

    def __init__(self, settings: NonMaxSuppressionSettings, context: Context) -> None:
        """Look up the labels, and derive the thresholds.

        Raises:
            SetupError: a setting names a label that the model does not have, the scores contradict
                each other, or a region is no polygon.
        """
        super().__init__(settings, context)
        labels, confidence = labels_of(context), Confidence.of(context)
        self._min_score = candidate_score(settings.min_score, confidence)
        self._max_iou = max_iou(settings.max_iou, context)
        self._gives_all = context.get_behind(WantsAllBoxes) is not None
        contract = detector_contract(context)
        self._end_to_end = contract is not None and contract.end_to_end
        self._details = DetailMaker(contract)
        self._check_method(contract)
        self._class_scores = self._scores_by_number(labels)
        self._options = NmsOptions(
            settings.method,
            self._max_iou,
            self._min_score,
            self._class_scores,
            settings.class_agnostic,
            settings.sigma,
            settings.fused_score,
            settings.max_candidates,
            # The boxes outside a region do not count.
            max_boxes=settings.max_candidates,
        )
        wanted = None
        if settings.classes is not None:
            wanted = class_numbers(settings.classes, labels, "classes")
        self._rules = _Rules(wanted, hand_on_score(settings.min_score, confidence), None)
        self._rules_of = {
            name: self._with_own(name, own, labels) for name, own in settings.streams.items()
        }

    @classmethod
    def resolve(cls, settings: NonMaxSuppressionSettings) -> Resolved:
        """Offer the score of boxes that are not needed, and the number of boxes at most.

        Streams with their own confidence are offered to the tracker.
        """
        rows = min(settings.max_boxes, settings.max_candidates)
        offers = (Suppression(settings.min_score), RowLimit(rows))
        confidences = tuple(
            (name, own.confidence)
            for name, own in settings.streams.items()
            if own.confidence is not None
        )
        return Resolved((*offers, StreamConfidences(confidences)) if confidences else offers)

    def process(self, frame: Frame) -> None:
        """Replace the candidates of a frame by those that are kept."""
        boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
        rules = self._rules_of.get(frame.stream, self._rules)
        raw = RawDetails.of(frame)
        rows: NDArray[np.integer] = np.arange(len(boxes))
        own: NDArray[np.integer]
        if self._gives_all:
            self._put_all(frame, raw)
        if rules.wanted is not None:
            rows = np.flatnonzero(np.isin(classes, rules.wanted))
            boxes, scores, classes = boxes[rows], scores[rows], classes[rows]
        if self._end_to_end:
            own = self._sorted(boxes, scores, classes)
            boxes, scores, classes = boxes[own], scores[own], classes[own]
        else:
            compared = boxes if raw.rotated is None else raw.rotated[rows]
            kept = nms(compared, scores, classes, self._options)
            own, scores = kept.rows, kept.scores
            # Only the fusion of upright boxes changes them.
            boxes = kept.boxes if raw.rotated is None else boxes[own]
            classes = kept.classes.astype(np.int32, copy=False)
        rows = rows[own]
        if rules.region is not None:
            own = np.flatnonzero(rules.region.contains_feet(boxes, frame.width, frame.height))
            boxes, scores, classes, rows = boxes[own], scores[own], classes[own], rows[own]
        best = slice(None if self._end_to_end else self.settings.max_boxes)
        left = Candidates(boxes[best], scores[best], classes[best])
        self._details.put(frame, left, raw, rows[best], rules.hand_on)

    def _put_all(self, frame: Frame, raw: RawDetails) -> None:
        """Add the boxes that are left of all classes and places, of each class for itself."""
        boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
        if self._end_to_end:
            rows = self._sorted(boxes, scores, classes)
            put_unfiltered(frame, boxes[rows], scores[rows], classes[rows])
        else:
            options = self._options._replace(class_agnostic=False)
            compared = boxes if raw.rotated is None else raw.rotated
            kept = nms(compared, scores, classes, options)
            own = kept.boxes if raw.rotated is None else boxes[kept.rows]
            put_unfiltered(frame, own, kept.scores, kept.classes)

    def effective(self) -> Mapping[str, Any]:
        """Return the thresholds in use, which depend on the model's card, and those of streams.

        Raises:
            SetupError: there is no stream of a name.
        """
        check_streams(self.settings.streams, self.context)
        hand_on = self._rules.hand_on
        handed_on = {} if hand_on is None else {"confidence": hand_on}
        method = {} if self.settings.method == "greedy" else {"method": self.settings.method}
        own = {f"streams.{name}": str(rules) for name, rules in self.settings.streams.items()}
        return {
            "min_score": self._min_score,
            **handed_on,
            "max_iou": self._max_iou,
            **method,
            **own,
        }

    def _check_method(self, contract: Contract | None) -> None:
        """Refuse a method that does not compare rotated boxes."""
        method = self.settings.method
        if contract is not None and contract.task == "oriented" and method in ("diou", "fusion"):
            raise SetupError(
                f"method: {method} is for upright boxes (found a model with task oriented); use "
                "greedy, soft_linear or soft_gaussian"
            )

    def _with_own(self, name: str, own: StreamRules, labels: Sequence[str]) -> _Rules:
        """Return the rules of a stream: its own settings, else those of the stage."""
        rules, where = self._rules, f"streams.{name}"
        if own.classes is not None:
            wanted = class_numbers(own.classes, labels, f"{where}.classes")
            rules = rules._replace(wanted=wanted)
        if own.confidence is not None:
            self._check_reached(own.confidence, f"{where}.confidence")
            rules = rules._replace(hand_on=own.confidence)
        if own.region is not None:
            rules = rules._replace(region=Region(own.region, f"{where}.region"))
        return rules

    def _scores_by_number(self, labels: Sequence[str]) -> Mapping[int, float] | None:
        """Return the lowest score of each class that has its own."""
        found = {}
        for label, score in self.settings.class_scores.items():
            self._check_reached(score, f"class_scores.{name_of(label)}")
            for number in class_numbers([label], labels, "class_scores").tolist():
                found[number] = score
        return found or None

    def _check_reached(self, score: float, where: str) -> None:
        """Refuse a score below that of the boxes which arrive."""
        if score < self._min_score:
            raise SetupError(
                f"{where}: expected at least min_score ({self._min_score:.6g}), found {score:.6g}; "
                "change one of the two"
            )

    def _sorted(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
    ) -> NDArray[np.intp]:
        """Return the finite rows that reach the score of their class, best first."""
        limits = np.full(len(scores), self._min_score, scores.dtype)
        for number, limit in (self._class_scores or {}).items():
            limits[classes == number] = limit
        good = np.isfinite(scores) & np.isfinite(boxes).all(axis=1) & (scores >= limits)
        rows = np.flatnonzero(good)
        best_first: NDArray[np.intp] = rows[np.argsort(-scores[rows], kind="stable")]
        return best_first
