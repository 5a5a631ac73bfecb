"""The contract of a method: one way from a backbone and labelled images to a model.

A method is a class in `methods/` with a line in `METHODS`. One that learns by gradients derives
from `GradientMethod` in `gradient.py`, and has only its examples, its head, its loss and its
results to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.datasets.base import LabelledImage
from models.training.augment import Augmentation, Image
from models.training.export import largest_difference

if TYPE_CHECKING:
    from models.training.backbone import Backbone

Needs = Literal["class", "box", "main_object", "mask", "class_map"]
"""Truth that an image must have: a class; boxes; one main object, with its class and box; boxes
with masks; a class per pixel."""
Figures = Mapping[str, float]
"""Name of a figure -> its value, higher is better; the first is the one that decides."""
Result = Any
"""Answer of a model about one image; its form is that of the method."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that all methods have; a method adds its own and changes defaults."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = None
    """Side of the input in pixels; null: that of the backbone."""
    layers: Annotated[int, Meta(ge=0, le=1000)] | None = None
    """Number of blocks of the backbone, from the input, that stay as they are; null: the method's
    own choice."""
    views: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Views of each image, of which one is the image itself; 1: no augmentation."""
    augment: Augmentation = Augmentation()
    """Limits of the augmentation."""


class Job(NamedTuple):
    """The input of a method."""

    backbone: Backbone
    labels: tuple[str, ...]
    train: Sequence[LabelledImage]
    val: Sequence[LabelledImage]
    settings: Any
    """`Settings` of the method."""
    seed: int
    folder: Path
    """Folder of the run, where it may write."""
    cache: Path
    """Folder of computed features, shared by all runs."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    report: Callable[[Progress], None] = lambda _: None
    """Called with the progress, a few times a second at most."""


class Progress(NamedTuple):
    """State of a phase of the training."""

    phase: str
    """features, training, measuring."""
    done: int
    total: int
    text: str = ""
    """Losses and figures of the latest epoch."""


class ModelCard(NamedTuple):
    """The part of the card that the method decides."""

    task: str
    family: str
    output: Mapping[str, Any]
    """Keys of `output`, see docs/cards.md."""
    thresholds: Mapping[str, float] = {}
    """Chosen on the validation images."""
    labels: Sequence[str] | None = None
    """Labels of the model; None: those of the job."""


class Method:
    """A way to train a model."""

    Settings: ClassVar[type[Settings]] = Settings
    needs: ClassVar[Needs] = "class"
    on_gpu: ClassVar[bool] = False
    """Whether it can train on a GPU."""
    held_out: ClassVar[int] = 8
    """Validation images on which the exported model is compared with the network."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settings = job.settings
        self.curves: list[dict[str, float]] = []
        """Per epoch: losses by term and figures on the validation images."""
        self.best_epoch = -1
        """Number of the epoch that is kept; -1: the method has none."""
        self.notes: list[str] = []
        """Findings for the report, such as a chosen setting and its alternatives."""
        self.charts: dict[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]] = {}
        """Further curves for the report: title -> (values across, name -> values up)."""
        self.thresholds: Mapping[str, float] = {}
        """Thresholds that `choose_thresholds` has chosen."""

    def advice(self) -> list[str]:
        """Return lines about settings that do not suit the data, shown before the training."""
        return []

    def estimate_s(self) -> float:
        """Return about how many seconds `fit` takes, measured on a small part of it."""
        raise NotImplementedError

    def fit(self) -> None:
        """Learn from the training images; the validation images decide which weights are kept.

        Continues where an interrupted run of the same job in the same folder ended.
        """
        raise NotImplementedError

    def predict(self, images: Sequence[LabelledImage]) -> list[Result]:
        """Return the result of each image, as the exported model gives it."""
        raise NotImplementedError

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Result]) -> Figures:
        """Return the figures of results, the main one first."""
        raise NotImplementedError

    def baseline(self, images: Sequence[LabelledImage], results: Sequence[Result]) -> Figures:
        """Return the figures of a simple answer, beside which those of the results are to be seen.

        Their names say what the answer is. Most methods have none.
        """
        return {}

    def merit(self, figures: Figures) -> Sequence[float]:
        """Return the values that decide which epoch is best, the first one first."""
        return tuple(figures.values())

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Result]
    ) -> Mapping[str, float]:
        """Return the thresholds for the card, chosen on the validation images."""
        return {}

    def error(self, image: LabelledImage, result: Result) -> float:
        """Return how wrong the result of an image is; 0: right."""
        raise NotImplementedError

    def doubt(self, image: LabelledImage, result: Result) -> float:
        """Return how sure the result is that the label of an image is wrong, 0 to 1."""
        return 0.0

    def charts_of(
        self, images: Sequence[LabelledImage], results: Sequence[Result]
    ) -> list[tuple[str, bytes]]:
        """Return pictures of the results for the report: title and PNG each.

        Raises:
            EvaluationError: matplotlib is not installed.
        """
        return []

    def draw(self, pixels: Image, image: LabelledImage, result: Result) -> Image:
        """Return a picture of a result beside the truth.

        Args:
            pixels: (H, W, 3) BGR, in another size for the report; may be drawn on.
            image: the image, with its size and truth.
            result: its result.
        """
        raise NotImplementedError

    def export(self, path: Path) -> ModelCard:
        """Write the model as ONNX, and return its part of the card.

        Its input is `images`, uint8 (N, size, size, 3) in BGR: an image stretched to `size`.
        """
        raise NotImplementedError

    def further_cards(self) -> Mapping[str, ModelCard]:
        """Return other ways to run the exported model: end of the card's name -> its part."""
        return {}

    def inputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the inputs of the exported model, with those that its family makes of an image.

        Args:
            pixels: (1, size, size, 3) uint8 BGR.
        """
        return {"images": pixels}

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs that the exported model must give, computed without it.

        Args:
            pixels: (1, size, size, 3) uint8 BGR.
        """
        raise NotImplementedError

    @classmethod
    def from_scratch(cls, settings: Any) -> Any | None:
        """Return the settings with which all layers learn, from random weights.

        Args:
            settings: `Settings` of the method.

        Returns:
            None: the method cannot train all layers.
        """
        return None

    def difference(
        self, own: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]
    ) -> float:
        """Return how much `outputs` of the network and of the exported model differ, from 0."""
        return largest_difference(own, other)

    @property
    def size(self) -> int:
        """Return the side of the input in pixels."""
        return int(self.settings.size or self.job.backbone.size)
