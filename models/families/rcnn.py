"""Detectors that judge proposals: R-CNN and Fast R-CNN.

The model takes the boxes that may hold an object as a second input, `proposals`. Selective search
finds them in the pixels of the first input, so that training and the pipeline see the same ones,
and so that they are found for each tile too.

Sources: Girshick et al., "Rich Feature Hierarchies for Accurate Object Detection and Semantic
Segmentation", CVPR 2014; Girshick, "Fast R-CNN", ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Reading
from models.families.generic import Generic
from models.image_input import Input
from models.onnx_header import OnnxFile
from models.proposals.segments import check_scikit_image
from models.proposals.selective_search import selective_search

PROPOSALS = "proposals"
"""Name of the input of proposals, (P, 4) float32 xyxy in pixels of the model's input."""


class Rcnn(Generic):
    """A model that gives rows for proposals, with a stated layout."""

    makes = (PROPOSALS,)
    raw = "a row [1,N,6] for each proposal and class"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise no file: the settings of selective search are stated in a card alone."""
        return None

    @classmethod
    def check_packages(cls) -> None:
        """Check that scikit-image is installed.

        Raises:
            ProposalError: it is not.
        """
        check_scikit_image()

    def further_inputs(
        self, images: NDArray[Any], beat: Callable[[], object] = lambda: None
    ) -> Mapping[str, NDArray[Any]]:
        """Return the proposals of an image.

        Raises:
            ProposalError: scikit-image does not load.
        """
        pixels = pixels_of(images[0] if self.input.batched else images, self.input)
        return {PROPOSALS: selective_search(pixels, self.layout.proposals, beat)}


def pixels_of(values: NDArray[Any], expected: Input) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) uint8 BGR of an input, the inverse of its preparation.

    Args:
        values: input of one image, (H, W, 3) or (3, H, W).
        expected: how it was prepared.
    """
    if expected.layout == "nchw":
        values = values.transpose(1, 2, 0)
    if values.dtype != np.uint8:
        values = (values * np.array(expected.std) + expected.mean) / expected.scale
        values = np.clip(np.rint(values), 0, 255)
    if expected.colour == "rgb":
        values = values[..., ::-1]
    return np.ascontiguousarray(values, np.uint8)
