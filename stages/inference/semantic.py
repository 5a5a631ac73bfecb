"""Semantic segmentation: a class for each part of the frame, and how many pixels each class has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.transform import Transform
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved
from stages.details import SEMANTIC, SemanticCounts, SemanticLabels
from stages.detections import label
from stages.inference.model import ModelSettings, OwnModel, ViewModelStage, replicas_of

Raw = tuple[Sequence[NDArray[Any]], Transform]
"""The raw outputs for an image, and the transform to the input."""


class SemanticSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of semantic segmentation."""

    replicas: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    """Number of processes that run the model; auto: one per usable core, or one with a GPU or with
    profile latency."""


class Semantic(ViewModelStage):
    """Gives the class of each cell of a grid over the frame, and the pixels of each class.

    `semantic_map` (h, w) uint8 has as many cells as the model gives, `semantic` the pixels of each
    class in the captured frame, where a pixel has the class of its cell, see `count_pixels`.
    """

    Settings = SemanticSettings
    tasks = ("semantic",)
    takes = (Array("image", "uint8", (None, None, 3)),)
    gives = SEMANTIC

    settings: SemanticSettings

    def __init__(self, settings: SemanticSettings, context: Context) -> None:
        super().__init__(settings, context)
        if context.get_before(SemanticLabels) is not None:
            raise SetupError(
                "another stage before it gives the classes of the pixels; put the two into "
                "separate branches with `after`, or remove one"
            )

    @classmethod
    def resolve(cls, settings: SemanticSettings) -> Resolved:  # type: ignore[override]
        """Offer the labels of the model, and choose the number of replicas.

        Raises:
            SetupError: the model cannot be used, or sees a part of the frame only; or the device
                is not available.
        """
        contract = cls.contract_of(settings)
        if contract.input.resize == "crop":
            raise SetupError(
                f"model {contract.name}: `resize: crop` leaves the edges of the frame without "
                "classes; set `resize: stretch` or `letterbox` in its card"
            )
        offers = (OwnModel(contract), SemanticLabels(contract.labels))
        return Resolved(offers, replicas_of(settings.replicas, settings))

    def process(self, frame: Frame) -> None:
        """Add `semantic_map` and `semantic`."""
        self._put(frame, self.infer(frame))

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames, as many in one run as the model allows."""
        results = self.run_views([frame["image"] for frame in frames])
        for frame, raw in zip(frames, results, strict=True):
            self._put(frame, raw)

    def infer(self, frame: Frame) -> Raw:
        """Return the model's raw outputs for the image.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        [raw] = self.run_views([frame["image"]])
        return raw

    def _put(self, frame: Frame, raw: Raw) -> None:
        assert self._family is not None
        classes: NDArray[np.uint8] = self._family.decode(*raw, 0.0).classes
        pixels = count_pixels(classes, frame.width, frame.height)
        counts: dict[str, int] = {}
        for number in np.flatnonzero(pixels).tolist():
            name = label(self._contract.labels, number)
            counts[name] = counts.get(name, 0) + int(pixels[number])
        frame.put("semantic_map", classes)
        data = msgspec.json.encode(SemanticCounts((frame.height, frame.width), counts))
        frame.put("semantic", np.frombuffer(data, np.uint8))


def cells_of(cells: int, pixels: int) -> NDArray[np.int64]:
    """Return the cell (pixels,) of each pixel along an axis: p * cells // pixels for pixel p.

    This is resizing to the nearest neighbour, as OpenCV's INTER_NEAREST does it.
    """
    return np.arange(pixels) * cells // pixels


def count_pixels(classes: NDArray[np.uint8], width: int, height: int) -> NDArray[np.int64]:
    """Count the pixels (256,) of each class, as if the map were resized to the frame.

    No resized map is made: a cell counts as often as its row times as often as its column.

    Args:
        classes: (h, w) class of each cell.
        width: width of the frame in pixels.
        height: height of the frame in pixels.
    """
    rows, columns = (
        np.bincount(cells_of(cells, pixels), minlength=cells)
        for cells, pixels in zip(classes.shape, (height, width), strict=True)
    )
    weights = np.outer(rows, columns).ravel()
    # Sums of whole numbers below 2^53 are exact in float64.
    return np.bincount(classes.ravel(), weights, minlength=256).astype(np.int64)
