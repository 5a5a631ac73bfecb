"""Model families: how raw outputs become candidates. A new family is one file and one line here.

A family is a module with two functions, see `Family`. It is imported when a model of it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.contract import Contract, Reading
    from models.onnx_header import OnnxFile
    from models.transform import Transform


class Entry(NamedTuple):
    """A line of the table."""

    module: str
    outputs: str
    """What its outputs look like, for messages; N boxes, C classes."""


FAMILIES = {
    "ssd": Entry("models.families.ssd", "boxes [1,N,4] and scores [1,N,C]"),
    "yolox": Entry("models.families.yolox", "[1,N,5+C], N cells of the grids 8, 16, 32"),
    "yolov8": Entry("models.families.yolov8", "[1,4+C,N]"),
    "yolov5": Entry("models.families.yolov5", "[1,N,5+C], N three times those cells"),
    "detr": Entry("models.families.detr", "labels [1,N], boxes [1,N,4] and scores [1,N]"),
    "end_to_end": Entry("models.families.end_to_end", "[1,N,6], N at most 1000"),
    "ssd_nms": Entry(
        "models.families.ssd_nms", "boxes [1,N,4], classes [1,N], scores [1,N] and number [1]"
    ),
}


class Candidates(NamedTuple):
    """Boxes that may overlap, in no order; parallel arrays."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the captured frame, inside it."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.int32]
    """(N,) indices into the labels."""


class Family(Protocol):
    """What a module in this package offers."""

    def recognise(self, file: OnnxFile) -> Reading | None:
        """How this family reads a model file; None: the outputs are not of this family.

        Where the file leaves open what would tell, it may be of the family.
        """

    def decode(
        self,
        outputs: Sequence[NDArray[Any]],
        contract: Contract,
        transform: Transform,
        min_score: float,
    ) -> Candidates:
        """The candidates in the outputs for one picture.

        Args:
            outputs: in the order of `contract.outputs`, without the batch axis.
            contract: of the model.
            transform: how the picture was fitted into the input.
            min_score: candidates below it are left out.
        """


def load(name: str) -> Family:
    """The family of that name, one of `FAMILIES`."""
    return cast(Family, importlib.import_module(FAMILIES[name].module))
