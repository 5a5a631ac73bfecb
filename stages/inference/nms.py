"""Non-maximum suppression: of the boxes on one object, only the best is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.suppress import suppress
from pipeline.frame import Frame
from pipeline.stage import Context, Resolved, RowLimit, Settings, Stage
from stages.detections import (
    CANDIDATES,
    WEAK_DETECTIONS,
    class_numbers,
    labels_of,
    put_detections,
)
from stages.thresholds import (
    Confidence,
    Suppression,
    candidate_score,
    detector_contract,
    hand_on_score,
    max_iou,
)

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


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
    max_candidates: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Number of best boxes that are compared with each other; limits the time per frame."""
    max_boxes: Annotated[int, msgspec.Meta(ge=1)] = 300
    """Number of best boxes that are given."""


class NonMaxSuppression(Stage):
    """Keeps the best box of each object; best score first, equal scores in their given order.

    Suppression is greedy and per class: a box is dropped if its IoU with a better box that is kept
    is above `max_iou`. Boxes without area overlap no other box. Rows with a score or coordinate
    that is not a finite number are dropped.

    The boxes of a model that suppresses overlaps itself (`end_to_end` in its contract) are only
    filtered by score and class, and sorted.

    Boxes that reach the confidence are handed on as `boxes`, weaker ones as `weak_boxes`, which
    only a tracker uses.
    """

    Settings = NonMaxSuppressionSettings
    takes = CANDIDATES
    gives = (*CANDIDATES, *WEAK_DETECTIONS)

    settings: NonMaxSuppressionSettings

    def __init__(self, settings: NonMaxSuppressionSettings, context: Context) -> None:
        """Look up the labels, and derive the thresholds.

        Raises:
            SetupError: `classes` names a label that the model does not have, or `min_score` is
                above the confidence.
        """
        super().__init__(settings, context)
        confidence = Confidence.of(context)
        self._min_score = candidate_score(settings.min_score, confidence)
        self._hand_on = hand_on_score(settings.min_score, confidence)
        self._max_iou = max_iou(settings.max_iou, context)
        contract = detector_contract(context)
        self._end_to_end = contract is not None and contract.end_to_end
        self._wanted: NDArray[np.int32] | None = None
        if settings.classes is not None:
            self._wanted = class_numbers(settings.classes, labels_of(context), "classes")

    @classmethod
    def resolve(cls, settings: NonMaxSuppressionSettings) -> Resolved:
        """Offer the score of boxes that are not needed, and the number of boxes at most."""
        rows = min(settings.max_boxes, settings.max_candidates)
        return Resolved((Suppression(settings.min_score), RowLimit(rows)))

    def process(self, frame: Frame) -> None:
        """Replace the candidates of a frame by those that are kept."""
        boxes, scores, classes = frame["boxes"], frame["scores"], frame["classes"]
        rows = self._candidates(boxes, scores, classes)
        if not self._end_to_end:
            settings = self.settings
            rows = rows[: settings.max_candidates]
            groups = None if settings.class_agnostic else classes[rows]
            rows = rows[suppress(boxes[rows], groups, self._max_iou)[: settings.max_boxes]]
        put_detections(frame, boxes[rows], scores[rows], classes[rows], self._hand_on)

    def effective(self) -> Mapping[str, Any]:
        """Return the thresholds in use, which depend on the model's card."""
        handed_on = {} if self._hand_on is None else {"confidence": self._hand_on}
        return {"min_score": self._min_score, **handed_on, "max_iou": self._max_iou}

    def _candidates(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
    ) -> NDArray[np.intp]:
        """Return the finite rows of a wanted class that reach `min_score`, best first."""
        good = scores >= self._min_score
        if self._wanted is not None:
            good &= np.isin(classes, self._wanted)
        rows = np.flatnonzero(good)
        finite = np.isfinite(boxes[rows]).all(axis=1) & np.isfinite(scores[rows])
        if not finite.all():
            rows = rows[finite]
        best_first: NDArray[np.intp] = rows[np.argsort(-scores[rows], kind="stable")]
        return best_first
