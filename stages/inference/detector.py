"""The detector: runs the model, and decodes its outputs into candidate boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.contract import Contract
from models.families.base import Candidates, Detailed, DetectorFamily
from models.output_layout import BOX_TASKS, without_details
from models.results import Results, describe
from models.transform import Transform
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved
from stages.details import DETAILS, Skeleton
from stages.detections import (
    CANDIDATES,
    UNFILTERED,
    WEAK_DETECTIONS,
    Labels,
    WantsAllBoxes,
    put_unfiltered,
)
from stages.inference.detail_maker import RAW_DETAILS, DetailMaker
from stages.inference.model import ModelSettings, ModelStage, replicas_of
from stages.thresholds import Confidence, Suppression, candidate_score, hand_on_score

CHECK_FRAMES = 20
"""Frames after which the results are looked at again."""
OBJECT_SCORE = 0.5
"""Score of an object where neither the settings nor the card state one, to count objects."""
MIN_SCORE = 0.05
"""Lowest score of a candidate where no non-maximum suppression follows."""


class DetectorSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of the detector."""

    model: str = "ssdlite_mobilenet_v2"
    """Name of a card, path of a card (.yaml), or of a model (.onnx)."""
    task: Literal["detect"] | None = None
    """detect: only the boxes of a model that gives masks, keypoints or rotated boxes too, which
    saves their cost; null: all that it gives."""
    replicas: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    """Number of processes that run the model; auto: one per usable core, or one with a GPU or with
    profile latency."""


class Detector(ModelStage):
    """Runs the model and gives candidate boxes, from which NMS then removes overlaps.

    `boxes` (N, 4) float32 xyxy in pixels of the captured frame, `scores` (N,) float32 from 0 to
    1, `classes` (N,) int32 indices into the model's labels. Where no following stage offers a
    `Suppression`, there is no NMS: then candidates below the confidence are left out, or, with a
    model that suppresses overlaps itself, given as `weak_boxes` and so on.

    Masks, keypoints and rotated boxes are given too, where the task of the model has them. NMS
    makes them ready (`detail_maker.py`); without it, they are ready here.
    """

    Settings = DetectorSettings
    tasks = BOX_TASKS
    takes = (Array("input"), Array("transform", "float64", (4,)))
    gives = (*CANDIDATES, *WEAK_DETECTIONS, *UNFILTERED, *DETAILS, *RAW_DETAILS)

    def __init__(self, settings: DetectorSettings, context: Context) -> None:
        super().__init__(settings, context, context.require(Contract))
        suppression = context.get_behind(Suppression)
        self._nms_follows = suppression is not None
        self._gives_all = context.get_behind(WantsAllBoxes) is not None
        self._hand_on = hand_on_score(None, Confidence.of(context))
        self._min_score = self._lowest_score(suppression.min_score if suppression else None)
        self.results = Results(
            self._contract.classes or len(self._contract.labels) or None,
            Confidence.of(context).known or OBJECT_SCORE,
            self._contract.end_to_end,
        )
        self._reported = False
        self._details = DetailMaker(self._contract)

    def _lowest_score(self, asked: float | None) -> float:
        """Return the lowest score of a candidate.

        Args:
            asked: lowest score that the following NMS needs; None: not set.
        """
        if self._nms_follows:
            confidence = Confidence.of(self.context)
            return candidate_score(None, confidence) if asked is None else asked
        if self._hand_on is None:
            return MIN_SCORE
        # A tracker cannot use weak candidates that overlap each other.
        return min(MIN_SCORE, self._hand_on) if self._contract.end_to_end else self._hand_on

    @classmethod
    def resolve(cls, settings: DetectorSettings) -> Resolved:  # type: ignore[override]
        """Offer the model's contract and its labels, and choose the number of replicas.

        Raises:
            SetupError: the model cannot be used, or the device is not available.
        """
        contract = cls.contract_of(settings)
        if settings.task == "detect" and contract.layout is not None:
            layout = without_details(contract.layout)
            contract = msgspec.structs.replace(contract, task="detect", layout=layout)
        replicas = replicas_of(settings.replicas, settings)
        offers: tuple[object, ...] = (contract, Labels(tuple(contract.labels)))
        points = None if contract.layout is None else contract.layout.keypoints
        if contract.task == "keypoints" and points is not None:
            offers += (Skeleton(points.names, points.edges),)
        return Resolved(offers, replicas)

    def open(self) -> None:
        """Load the model.

        Raises:
            SetupError: the device or the model does not load.
            DeviceFailed: the device that ran the model before a crash does not load.
        """
        super().open()
        if isinstance(self._family, DetectorFamily):
            self._family.results = self.results

    def process(self, frame: Frame) -> None:
        """Add `boxes`, `scores` and `classes`."""
        self._add(frame, self.infer(frame), 0, self._contract.batch or 1)

    def infer(self, frame: Frame) -> Sequence[NDArray[Any]]:
        """Return the model's raw outputs for a frame; the bench measures it as bare inference.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        return self.run_model(frame["input"])

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames, as many in one run as the model's batch allows."""
        at_once = self._contract.batch or len(frames)
        for start in range(0, len(frames), at_once):
            some = frames[start : start + at_once]
            outputs = self.run_model(np.concatenate([frame["input"] for frame in some]))
            for i, frame in enumerate(some):
                self._add(frame, outputs, i, self._contract.batch or len(some))

    def close(self) -> None:
        """Release the model, and report results that look wrong, if there were few."""
        if not self._reported:
            self._report()
        super().close()

    def counters(self) -> Mapping[str, int]:
        """Return the number of boxes at the confidence, and of rows that no detector gives."""
        failed = self.results.failed
        return {"boxes": self.results.rows} | ({"failed_rows": failed} if failed else {})

    def _report(self) -> None:
        """Report once that the results look wrong."""
        odd = self.results.odd()
        if odd:
            self._reported = True
            self.context.log.warning("model %s: %s", self._contract.name, describe(odd))

    def _add(self, frame: Frame, outputs: Sequence[NDArray[Any]], index: int, images: int) -> None:
        transform = Transform.of(frame["transform"], frame.width, frame.height)
        self._put(frame, self._decode(outputs, index, images, transform))

    def _decode(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int, transform: Transform
    ) -> Detailed:
        assert self._family is not None
        own = self._family.of_image(outputs, index, images)
        if isinstance(self._family, DetectorFamily):
            found = self._family.decode_detailed(own, transform, self._min_score)
        else:
            found = Detailed(Candidates(*self._family.decode(own, transform, self._min_score)))
        if not self._reported and self.results.frames % CHECK_FRAMES == 0:
            self._report()
        return found

    def _put(self, frame: Frame, found: Detailed) -> None:
        boxes, scores, classes = found.candidates
        if self._nms_follows:
            frame.put("boxes", boxes)
            frame.put("scores", scores)
            frame.put("classes", classes)
            self._details.put_raw(frame, found)
            return
        if self._gives_all:
            put_unfiltered(frame, boxes, scores, classes)
        raw = self._details.raw(frame, found)
        self._details.put(frame, found.candidates, raw, np.arange(len(boxes)), self._hand_on)
