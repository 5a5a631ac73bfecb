"""Non-maximum suppression: of boxes that lie on the same object, only the best is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.config import hint, is_number
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.messages import display_value
from pipeline.stage import Array, Settings, Stage
from stages.detections import WEAK, labels_of, put_detections
from stages.thresholds import Confidence, candidate_score, hand_on_score, max_iou

LARGEST_PX = 2.0**15
"""Where overlaps are measured, coordinates beyond this count as being there."""
LEAST_AREA_PX2 = 1e-9
"""A box with less area overlaps nothing."""

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]

CANDIDATES = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
)
"""xyxy in px of the captured frame, 0 to 1, indices into the model's labels; one row per box."""


class NonMaxSuppressionSettings(Settings, frozen=True):
    """Settings of non-maximum suppression."""

    min_score: Fraction | None = None
    """Boxes with a lower score are dropped. Low by default, because the tracker continues
    tracks of objects that are half hidden with weak boxes; how sure an object must be is
    `confidence`. null: 0.1, or the confidence where that is less. Given without `confidence`,
    it also takes the place of the card's score where no tracker follows."""
    max_iou: Fraction | None = None
    """Of two boxes of a class that overlap more than this, the better is kept. Lower merges
    people who stand close, higher leaves several boxes on one object. null: as the card of the
    model says, else 0.5."""
    class_agnostic: bool = False
    """Whether boxes of different classes suppress each other too: for models that call one
    object a car and a truck."""
    classes: list[str] | None = None
    """Labels of the objects to keep; null: all. For a model without labels, the numbers of the
    classes, in quotes."""
    max_candidates: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Only so many boxes, the best, are compared with each other; bounds the time of a frame."""
    max_boxes: Annotated[int, msgspec.Meta(ge=1)] = 300
    """Only so many boxes, the best, are handed on."""


class NonMaxSuppression(Stage):
    """Keeps the best box of each object; the best score comes first, equal ones keep their order.

    Greedy suppression, class by class: a box is dropped if it overlaps one that is kept and has a
    better score by more than `max_iou`. Boxes without area overlap nothing. Rows with a score or
    coordinate that is not a finite number are dropped.

    The boxes of a model with suppression of its own (`end_to_end` in its contract) are only
    filtered by score and class, and sorted.

    Boxes that reach the confidence are handed on as `boxes`, weaker ones as `weak_boxes`, which are
    for the tracker alone.
    """

    Settings = NonMaxSuppressionSettings
    takes = CANDIDATES
    gives = (*CANDIDATES, *WEAK)

    settings: NonMaxSuppressionSettings

    def __init__(self, settings: NonMaxSuppressionSettings, facts: Mapping[str, Any]) -> None:
        """Look the labels up, and work the thresholds out.

        Raises:
            SetupError: `classes` names a label that the model does not have, or `min_score` is
                above the confidence.
        """
        super().__init__(settings, facts)
        confidence = Confidence.of(facts)
        self._min_score = candidate_score(settings.min_score, confidence)
        self._hand_on = hand_on_score(settings.min_score, confidence)
        self._max_iou = max_iou(settings.max_iou, facts)
        self._end_to_end = bool(getattr(facts.get("contract"), "end_to_end", False))
        self._wanted: NDArray[np.int32] | None = None
        if settings.classes is not None:
            self._wanted = class_numbers(settings.classes, labels_of(facts))

    @classmethod
    def resolve(cls, settings: NonMaxSuppressionSettings) -> Mapping[str, Any]:
        """Report which boxes need not be given at all, and how many are handed on at most."""
        most = min(settings.max_boxes, settings.max_candidates)
        return {"min_score": settings.min_score, "max_boxes": most}

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
        """The thresholds, which depend on the model's card."""
        handed_on = {} if self._hand_on is None else {"confidence": self._hand_on}
        return {"min_score": self._min_score, **handed_on, "max_iou": self._max_iou}

    def _candidates(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
    ) -> NDArray[np.intp]:
        """Rows that are finite, good enough and of a wanted class, best first."""
        good = scores >= self._min_score
        if self._wanted is not None:
            good &= np.isin(classes, self._wanted)
        rows = np.flatnonzero(good)
        finite = np.isfinite(boxes[rows]).all(axis=1) & np.isfinite(scores[rows])
        if not finite.all():
            rows = rows[finite]
        best_first: NDArray[np.intp] = rows[np.argsort(-scores[rows], kind="stable")]
        return best_first


def suppress(
    boxes: NDArray[np.float32], groups: NDArray[np.int32] | None, max_iou: float
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression (Neubeck & Van Gool, ICPR 2006, with IoU as the overlap).

    Args:
        boxes: (N, 4) xyxy in px, best first, finite.
        groups: (N,) only boxes of the same group suppress each other; None: all do.
        max_iou: a box that overlaps a better one that is kept by more than this is dropped.

    Returns:
        (K,) the rows that are kept, best first.
    """
    corners = np.clip(boxes.astype(np.float64), -LARGEST_PX, LARGEST_PX)
    size = corners[:, 2:] - corners[:, :2]
    solid = (size > 0).all(axis=1) & (size[:, 0] * size[:, 1] > LEAST_AREA_PX2)
    if not solid.all():
        # OpenCV takes any two boxes without area for the same.
        rows = np.flatnonzero(solid)
        kept = rows[suppress(boxes[rows], None if groups is None else groups[rows], max_iou)]
        return np.sort(np.concatenate([kept, np.flatnonzero(~solid)]))
    if groups is not None and len(groups) and (groups != groups[0]).any():
        # Side by side no group overlaps another; rounding moves a box by less than 1e-6 px.
        corners[:, 0] += groups * (2 * LARGEST_PX)
    ranks = range(len(boxes), 0, -1)  # in place of scores, which OpenCV wants above 0
    xywh = np.concatenate([corners[:, :2], size], axis=1).tolist()
    return np.asarray(cv2.dnn.NMSBoxes(xywh, ranks, 0.0, max_iou), np.intp).reshape(-1)


def class_numbers(names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int32]:
    """The classes that have one of the names.

    Args:
        names: labels; numbers as text where the model has no labels.
        labels: of the model; empty where it has none.

    Raises:
        SetupError: there is no such label; names one that is close.
    """
    numbers: list[int] = []
    for name in names:
        found = [number for number, label in enumerate(labels) if label == name]
        if not labels:
            if not is_number(name):
                raise SetupError(
                    "classes: expected numbers, as the model tells no labels; found "
                    f"{display_value(name)}"
                )
            found = [int(name)]
        elif not found:
            raise SetupError(
                f"classes: the model has no label {display_value(name)}{hint(name, tuple(labels))}"
            )
        numbers += found
    return np.array(numbers, np.int32)
