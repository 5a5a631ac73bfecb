"""Base of all families: how the outputs of one kind of model are recognised and decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.card import Task
from models.image_input import Input, Pixels
from models.onnx_header import OnnxFile
from models.output_layout import Fixed, OutputLayout
from models.results import Results
from models.transform import Transform

Result_co = TypeVar("Result_co", bound=tuple[NDArray[Any], ...], covariant=True)
"""Result of `decode`: a named tuple with one array per entry of `Family.outputs`."""


class Output(NamedTuple):
    """An array that a family gives for each image."""

    name: str
    dtype: str
    """numpy's name of the dtype."""
    shape: tuple[int | None, ...]
    """None for a dimension: any length."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Interpretation of a model file by a family."""

    pixels: Pixels
    """Defaults of the family for what the file does not state."""
    outputs: tuple[str, ...]
    """Names of the raw outputs, in the order in which `Family.decode` takes them."""
    classes: int | None
    """Number of classes; None: not stated in the file."""
    name: str | None = None
    """Name of the kind of model, where the family has several."""
    layout: OutputLayout | None = None
    """Layout of the outputs, for a family that decodes by one."""
    end_to_end: bool = False
    """Whether the graph itself suppresses overlapping boxes."""
    inputs: dict[str, Fixed | tuple[float, ...]] = {}
    """Names of further inputs -> their values."""
    unsure: dict[str, str] = {}
    """Key of a card's `input` -> why the file does not determine it."""


class Family(ABC, Generic[Result_co]):
    """Recognises model files of one kind, and decodes the outputs of one model.

    A new family is one file with a subclass, and one line in `FAMILIES`; a new task is also one
    more name in `models.card.Task`. The class recognises files before a model is loaded; an object
    is made for each loaded model.

    Args:
        image: the model's input.
        classes: number of classes; None: not stated in the file.
    """

    task: ClassVar[Task]
    """Task of the models of this family."""
    outputs: ClassVar[tuple[Output, ...]]
    """Arrays of the result of `decode`, in the order of its fields; the same for all families of a
    task."""
    raw: ClassVar[str]
    """Raw outputs of the models, for messages: "[1,N,6]"; N boxes, C classes."""
    makes: ClassVar[tuple[str, ...]] = ()
    """Names of further inputs that the family makes of each image, see `further_inputs`."""

    def __init__(self, image: Input, classes: int | None) -> None:
        self.input = image
        self.classes = classes

    @classmethod
    @abstractmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Return how this family reads a model file; None: it is of another family.

        A file that leaves the distinguishing dimensions open is recognised.
        """

    @classmethod
    def check_packages(cls) -> None:
        """Check that the packages which the family needs beside the usual ones are installed.

        Raises:
            ModelError: one is missing.
        """

    def further_inputs(
        self, images: NDArray[Any], beat: Callable[[], object] = lambda: None
    ) -> Mapping[str, NDArray[Any]]:
        """Return the inputs of a run that depend on its images, by the names in `makes`.

        Args:
            images: inputs of the model, of one image: a family with such inputs takes no batch.
            beat: called now and then in work that takes longer than a model.
        """
        return {}

    def of_image(
        self, outputs: Sequence[NDArray[Any]], index: int, images: int
    ) -> Sequence[NDArray[Any]]:
        """Return the outputs that belong to one image of a batch, without the batch dimension.

        Args:
            outputs: in the order of `Reading.outputs`.
            index: number of the image in the batch.
            images: number of images in the batch.
        """
        return [output[index] for output in outputs]

    @abstractmethod
    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Result_co:
        """Decode the raw outputs for one image.

        Args:
            raw: in the order of `Reading.outputs`, without the batch dimension.
            transform: from the captured image to the input.
            min_score: rows with a lower score are left out.
        """


class Details(NamedTuple):
    """Answers of a model about each of N boxes besides; None: it has none of the kind."""

    keypoints: NDArray[np.float32] | None = None
    """(N, K, 3) x and y in pixels of the captured image, not clipped, and a score from 0 to 1."""
    rotated: NDArray[np.float32] | None = None
    """(N, 5) cx, cy, w, h in pixels of the captured image and the angle in radians, clockwise."""
    coefficients: NDArray[np.float32] | None = None
    """(N, M) factors of the prototypes of a mask."""
    masks: NDArray[np.float32] | None = None
    """(N, h, w) a mask from 0 to 1, over the box or over the input."""

    def take(self, rows: NDArray[Any]) -> Details:
        """Return those of some rows."""
        return Details(*(None if part is None else part[rows] for part in self))


class Candidates(NamedTuple):
    """Boxes that may overlap, in any order; parallel arrays."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the captured image, inside it."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.int32]
    """(N,) indices into the labels."""


class Detailed(NamedTuple):
    """Candidates, and what the model gives about each besides."""

    candidates: Candidates
    details: Details = Details()
    prototypes: NDArray[np.float32] | None = None
    """(M, h, w) maps over the input, of which a mask is a weighted sum."""


class DetectorFamily(Family[Candidates]):
    """Base of the families of models that find boxes, with or without details."""

    task: ClassVar[Task] = "detect"
    outputs = (
        Output("boxes", "float32", (None, 4)),
        Output("scores", "float32", (None,)),
        Output("classes", "int32", (None,)),
    )
    results: Results | None = None
    """Counts what the model gives, where that is wanted."""

    def decode_detailed(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Detailed:
        """Decode the raw outputs for one image, with all details; see `decode`."""
        return Detailed(self.decode(raw, transform, min_score))
