"""A stage that runs a model: its settings, its contract, its runtime. Base of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models import families, zoo
from models.contract import Contract
from models.errors import DeviceError, ModelError, ProviderError
from models.families.base import Family
from models.feed import feed
from models.runtime import (
    Device,
    Profile,
    Runtime,
    check_device,
    expected_device,
    gpu_present,
)
from models.transform import Transform
from pipeline.errors import DeviceFailed, SetupError
from pipeline.graph.placement import usable_cores
from pipeline.stage import BatchSettings, Context, InferenceStage, Resolved, Resources
from stages.inference.preprocess import PixelWriter

STAGES_OF = {
    **dict.fromkeys(("detect", "localize", "segment", "keypoints", "oriented"), "detector"),
    "classify": "classify, or classify_objects behind a tracker",
    "semantic": "semantic",
    "embed": "embed_objects, behind a tracker",
}
"""Task of a model -> the stages that take it, for messages."""


class ModelSettings(BatchSettings, frozen=True, kw_only=True):
    """Settings of a stage that runs a model."""

    model: str
    """Name of a card, path of a card (.yaml), or of a model (.onnx)."""
    device: Device = "auto"
    """auto: the best device that loads; any other: only that one, else the run does not start."""
    profile: Profile = "throughput"
    """throughput: one thread per process; latency: all cores."""
    threads: Annotated[int, Meta(ge=1)] | None = None
    """CPU threads per process; null: by the profile."""
    spin: bool = False
    """Whether threads without work spin: faster if nothing else runs on the machine, else it takes
    a core from the other programs."""


def replicas_of(replicas: Literal["auto"] | int, settings: ModelSettings) -> int:
    """Return the number of processes that run a model.

    Args:
        replicas: setting; auto: one per usable core, or one with a GPU or with profile latency.
        settings: settings of the stage.
    """
    if replicas != "auto":
        return replicas
    on_cpu = expected_device(settings.device) in ("cpu", "openvino")
    many = on_cpu and settings.profile == "throughput"
    return max(1, usable_cores() // (settings.threads or 1)) if many else 1


class ModelStage(InferenceStage):
    """Base of the stages that run a model."""

    Settings = ModelSettings
    tasks: ClassVar[tuple[str, ...]]
    """Tasks of the models that the stage takes."""

    def __init__(self, settings: ModelSettings, context: Context, contract: Contract) -> None:
        """Keep the contract of the model; load nothing yet."""
        super().__init__(settings, context)
        self._contract = contract
        self._runtime: Runtime | None = None
        self._family: Family[Any] | None = None

    @classmethod
    def contract_of(cls, settings: ModelSettings) -> Contract:
        """Return the contract of the model, which has one of the tasks of the stage.

        Raises:
            SetupError: the model cannot be used here, or the device is not available.
        """
        try:
            contract = zoo.resolve(settings.model, cls.tasks)
            families.load(contract.family).check_packages()
            check_device(settings.device)
        except ModelError as error:
            raise SetupError(str(error)) from None
        except OSError as error:
            raise SetupError(f"model {settings.model}: cannot be read: {error.strerror}") from None
        if contract.task not in cls.tasks:
            raise SetupError(
                f"model {contract.name} has task {contract.task}, which this stage does not take "
                f"({', '.join(cls.tasks)}); choose another model, or use a stage for it: "
                f"{STAGES_OF[contract.task]}"
            )
        return contract

    @classmethod
    def resolve(cls, settings: ModelSettings) -> Resolved:
        """Offer the model's contract.

        Raises:
            SetupError: the model cannot be used, or the device is not available.
        """
        return Resolved((cls.contract_of(settings),))

    @classmethod
    def resources(cls, settings: ModelSettings) -> Resources:
        """Declare the model file and its card, which it reads."""
        return Resources(reads=tuple(zoo.files_of(settings.model)))

    @classmethod
    def single_process(cls, settings: ModelSettings) -> Sequence[ModelSettings]:
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
            self.run_model(np.zeros(expected.shape, expected.dtype))

    def close(self) -> None:
        """Release the model."""
        self._runtime = None

    def info(self) -> Mapping[str, str]:
        """Return the provider that runs the model."""
        return {"provider": self._runtime.provider} if self._runtime else {}

    def run_model(self, images: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """Run the model on inputs (n, ...), and return its raw outputs.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        assert self._runtime is not None
        assert self._family is not None
        inputs = feed(self._contract, images)
        if self._family.makes:
            images = inputs[self._contract.input.name]
            inputs |= self._family.further_inputs(images, self.beat)
        try:
            return self._runtime.run(inputs)
        except ProviderError as error:
            raise DeviceFailed(str(error)) from None


class OwnModel(msgspec.Struct, frozen=True):
    """Offer of a stage to itself: its model. A changed file is another offer, so a reload restarts
    the stage."""

    contract: Contract


class ViewModelStage(ModelStage):
    """Base of the stages that run a model on parts of the captured image, which are views of it.

    They prepare the input themselves, so no `preprocess` is needed, and offer no `Contract`: that
    is of the detector.
    """

    max_at_once: ClassVar[int] = 16
    """Images in one run of a model that takes any number."""

    def __init__(self, settings: ModelSettings, context: Context) -> None:
        own = context.offers[: context.own_offers]
        found = (offer.contract for offer in own if isinstance(offer, OwnModel))
        contract = next(found, None) or self.contract_of(settings)
        super().__init__(settings, context, contract)
        self._pixels = PixelWriter(contract.input)

    @classmethod
    def resolve(cls, settings: ModelSettings) -> Resolved:
        """Offer the model to the stage itself.

        Raises:
            SetupError: the model cannot be used, or the device is not available.
        """
        return Resolved((OwnModel(cls.contract_of(settings)),))

    def run_views(
        self, views: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[Sequence[NDArray[Any]], Transform]]:
        """Run the model on some images.

        Args:
            views: (H, W, 3) uint8 BGR each, one pixel at least; not copied.

        Yields:
            The raw outputs for each image, without the axis of images, and the transform from the
            pixels of the view to those of the input.
        """
        assert self._family is not None
        expected = self._contract.input
        at_once = self._contract.batch or self.max_at_once
        for start in range(0, len(views), at_once):
            some = views[start : start + at_once]
            inputs = np.empty((len(some), *expected.shape[1:]), expected.dtype)
            transforms = [
                self._pixels.fit_into(view, inputs[i : i + 1]) for i, view in enumerate(some)
            ]
            outputs = self.run_model(inputs)
            images = self._contract.batch or len(some)
            for i, transform in enumerate(transforms):
                yield self._family.of_image(outputs, i, images), transform
            self.beat()  # many runs take long on purpose
