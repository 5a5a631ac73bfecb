"""The detector: runs the model, and decodes its outputs into candidate boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models import families, zoo
from models.contract import Contract
from models.errors import DeviceError, ModelError, ProviderError
from models.families.base import Candidates, DetectorFamily, Family
from models.feed import feed
from models.results import Results, describe
from models.runtime import Device, Profile, Runtime, check_device, expected_device, gpu_present
from models.transform import Transform
from pipeline.errors import DeviceFailed, SetupError
from pipeline.frame import Frame
from pipeline.graph.placement import usable_cores
from pipeline.stage import Array, BatchSettings, Context, InferenceStage, Resolved, Resources
from stages.detections import (
    CANDIDATES,
    UNFILTERED,
    WEAK_DETECTIONS,
    Labels,
    WantsAllBoxes,
    put_detections,
    put_unfiltered,
)
from stages.thresholds import Confidence, Suppression, candidate_score, hand_on_score

TASK = "detect"
"""Task of the models that this stage runs."""
CHECK_FRAMES = 20
"""Frames after which the results are looked at again."""
OBJECT_SCORE = 0.5
"""Score of an object where neither the settings nor the card state one, to count objects."""
MIN_SCORE = 0.05
"""Lowest score of a candidate where no non-maximum suppression follows."""


class DetectorSettings(BatchSettings, frozen=True):
    """Settings of the detector."""

    model: str = "ssdlite_mobilenet_v2"
    """Name of a card, path of a card (.yaml), or of a model (.onnx)."""
    device: Device = "auto"
    """auto: the best device that loads; any other: only that one, else the run does not start."""
    replicas: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    """Number of processes that run the model; auto: one per usable core, or one with a GPU or with
    profile latency."""
    profile: Profile = "throughput"
    """throughput: one thread per replica; latency: one replica with all cores."""
    threads: Annotated[int, Meta(ge=1)] | None = None
    """CPU threads per replica; null: by the profile."""
    spin: bool = False
    """Whether threads without work spin: faster if nothing else runs on the machine, else it takes
    a core from the other programs."""


class Detector(InferenceStage):
    """Runs the model and gives candidate boxes, from which NMS then removes overlaps.

    `boxes` (N, 4) float32 xyxy in pixels of the captured frame, `scores` (N,) float32 from 0 to
    1, `classes` (N,) int32 indices into the model's labels. Where no following stage offers a
    `Suppression`, there is no NMS: then candidates below the confidence are left out, or, with a
    model that suppresses overlaps itself, given as `weak_boxes` and so on.
    """

    Settings = DetectorSettings
    takes = (Array("input"), Array("transform", "float64", (4,)))
    gives = (*CANDIDATES, *WEAK_DETECTIONS, *UNFILTERED)

    def __init__(self, settings: DetectorSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._contract: Contract = context.require(Contract)
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
        self._runtime: Runtime | None = None
        self._family: Family[Candidates] | None = None

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
    def resolve(cls, settings: DetectorSettings) -> Resolved:
        """Offer the model's contract and its labels, and choose the number of replicas.

        Raises:
            SetupError: the model cannot be used, or the device is not available.
        """
        try:
            contract = zoo.resolve(settings.model)
            check_device(settings.device)
        except ModelError as error:
            raise SetupError(str(error)) from None
        except OSError as error:
            raise SetupError(f"model {settings.model}: cannot be read: {error.strerror}") from None
        if contract.task != TASK:
            raise SetupError(
                f"model {contract.name} has task {contract.task}, this stage needs task {TASK}; "
                "choose another model"
            )
        replicas = None if settings.replicas == "auto" else settings.replicas
        if replicas is None:
            on_cpu = expected_device(settings.device) in ("cpu", "openvino")
            many = on_cpu and settings.profile == "throughput"
            replicas = max(1, usable_cores() // (settings.threads or 1)) if many else 1
        return Resolved((contract, Labels(tuple(contract.labels))), replicas)

    @classmethod
    def resources(cls, settings: DetectorSettings) -> Resources:
        """Declare the model file and its card, which it reads."""
        return Resources(reads=tuple(zoo.files_of(settings.model)))

    @classmethod
    def single_process(cls, settings: DetectorSettings) -> Sequence[DetectorSettings]:
        """Return those of a plain script: threads that spin, threads that do not, one thread."""
        return [
            msgspec.structs.replace(settings, **changes)
            for changes in (
                {"profile": "latency", "spin": True},
                {"profile": "latency", "spin": False},
                {"profile": "throughput"},
            )
        ]

    def open(self) -> None:
        """Load the model.

        Raises:
            SetupError: the device or the model does not load.
            DeviceFailed: the device that ran the model before a crash does not load.
        """
        own = self.settings
        before = self.context.previous_info.get("provider")
        try:
            self._runtime = Runtime(
                self._contract,
                own.device,
                own.profile,
                own.threads,
                before,
                own.spin,
                self.abandon,
                cores=usable_cores(),
            )
        except DeviceError as error:
            # A GPU returns after a reset by its driver; the restart budget limits the wait.
            raise (SetupError if before is None else DeviceFailed)(str(error)) from None
        except ModelError as error:
            raise SetupError(str(error)) from None
        model = self._contract
        self._family = families.make(model.family, model.input, model.classes, model.layout)
        if isinstance(self._family, DetectorFamily):
            self._family.results = self.results
        if own.device == "auto" and gpu_present() and not self._runtime.on_gpu:
            self.context.log.warning(
                "this machine has a GPU, but the model runs with %s%s; install "
                "onnxruntime-gpu[cuda,cudnn] in place of onnxruntime, or set device: cpu",
                self._runtime.provider,
                "".join(f", because {why}" for why in self._runtime.passed_over),
            )
        if self._runtime.on_gpu:
            # The first run on a GPU takes seconds, for which no frame should have to wait.
            expected = self._contract.input
            self._run(np.zeros(expected.shape, expected.dtype))

    def process(self, frame: Frame) -> None:
        """Add `boxes`, `scores` and `classes`."""
        self._add(frame, self.infer(frame), 0, self._contract.batch or 1)

    def infer(self, frame: Frame) -> Sequence[NDArray[Any]]:
        """Return the model's raw outputs for a frame; the bench measures it as bare inference.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        return self._run(frame["input"])

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames, as many in one run as the model's batch allows."""
        at_once = self._contract.batch or len(frames)
        for start in range(0, len(frames), at_once):
            some = frames[start : start + at_once]
            outputs = self._run(np.concatenate([frame["input"] for frame in some]))
            for i, frame in enumerate(some):
                self._add(frame, outputs, i, self._contract.batch or len(some))

    def close(self) -> None:
        """Release the model, and report results that look wrong, if there were few."""
        if not self._reported:
            self._report()
        self._runtime = None

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

    def info(self) -> Mapping[str, str]:
        """Return the provider that runs the model."""
        return {"provider": self._runtime.provider} if self._runtime else {}

    def _run(self, images: NDArray[Any]) -> Sequence[NDArray[Any]]:
        assert self._runtime is not None
        try:
            return self._runtime.run(feed(self._contract, images))
        except ProviderError as error:
            raise DeviceFailed(str(error)) from None

    def _add(self, frame: Frame, outputs: Sequence[NDArray[Any]], index: int, images: int) -> None:
        transform = Transform.of(frame["transform"], frame.width, frame.height)
        self._put(frame, self._decode(outputs, index, images, transform))

    def _decode(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int, transform: Transform
    ) -> Candidates:
        assert self._family is not None
        own = self._family.of_image(outputs, index, images)
        found = self._family.decode(own, transform, self._min_score)
        if not self._reported and self.results.frames % CHECK_FRAMES == 0:
            self._report()
        return found

    def _put(self, frame: Frame, found: Candidates) -> None:
        if not self._nms_follows:
            if self._gives_all:
                put_unfiltered(frame, found.boxes, found.scores, found.classes)
            put_detections(frame, found.boxes, found.scores, found.classes, self._hand_on)
            return
        frame.put("boxes", found.boxes)
        frame.put("scores", found.scores)
        frame.put("classes", found.classes)
