"""Makes masks, keypoints and rotated boxes ready for the detections of a frame.

The detector gives them for all candidates, raw (`RAW_DETAILS`). After suppression they are made
ready for the boxes that remain (`stages.details.DETAILS`): masks become runs. A mask is never a
full image, neither in memory nor in the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, text_of
from models.contract import Contract
from models.families.base import Candidates, Detailed
from models.families.masks import Canvas, masks_of_boxes, masks_of_prototypes
from models.output_layout import Masks
from models.transform import Transform
from pipeline.frame import Frame
from pipeline.stage import Array
from stages.details import masks_in, put_masks
from stages.detections import put_detections

RAW_DETAILS = (
    Array("raw_keypoints", "float32", (None, None, 3), optional=True),
    Array("raw_rotated", "float32", (None, 5), optional=True),
    Array("raw_coefficients", "float32", (None, None), optional=True),
    Array("raw_prototypes", "float32", (None, None, None), optional=True),
    Array("raw_masks", "uint8", (None,), optional=True),
    Array("raw_mask_offsets", "int64", (None,), optional=True),
)
"""Details of all candidates: points, rotated boxes, factors of the prototypes; or masks that are
ready, in the form of `stages.details.DETAILS`."""


class RawDetails(NamedTuple):
    """Details of all N candidates of a frame; None: the model does not give them."""

    keypoints: NDArray[np.float32] | None = None
    """(N, K, 3) in pixels of the captured frame."""
    rotated: NDArray[np.float32] | None = None
    """(N, 5)"""
    coefficients: NDArray[np.float32] | None = None
    """(N, M)"""
    prototypes: NDArray[np.float32] | None = None
    """(M, h, w)"""
    masks: list[bytes] | None = None
    """N texts of runs."""

    @classmethod
    def of(cls, frame: Frame) -> RawDetails:
        """Read the details that `DetailMaker.put_raw` added to a frame."""
        masks = None
        if "raw_masks" in frame:
            masks = masks_in(frame["raw_masks"], frame["raw_mask_offsets"])
        return cls(
            _array(frame, "raw_keypoints"),
            _array(frame, "raw_rotated"),
            _array(frame, "raw_coefficients"),
            _array(frame, "raw_prototypes"),
            masks,
        )


def _array(frame: Frame, name: str) -> NDArray[np.float32] | None:
    if name not in frame:
        return None
    return frame[name]


class DetailMaker:
    """Makes the details of the boxes that remain ready.

    Args:
        contract: contract of the model; None: it gives boxes alone.
    """

    def __init__(self, contract: Contract | None) -> None:
        self._size = (1, 1) if contract is None else contract.input.size
        layout = None if contract is None else contract.layout
        self._masks = Masks() if layout is None else layout.masks

    def raw(self, frame: Frame, found: Detailed) -> RawDetails:
        """Return the details of all candidates; small masks become runs, as they are few."""
        details, masks = found.details, None
        if details.masks is not None:
            boxes = found.candidates.boxes
            masks = _texts(masks_of_boxes(details.masks, boxes, self._canvas(frame), self._masks))
        return RawDetails(
            details.keypoints, details.rotated, details.coefficients, found.prototypes, masks
        )

    def put_raw(self, frame: Frame, found: Detailed) -> None:
        """Add the details of all candidates to a frame, for the suppression that follows."""
        *arrays, masks = self.raw(frame, found)
        for name, value in zip(RawDetails._fields, arrays, strict=False):
            if value is not None:
                frame.put(f"raw_{name}", value)
        if masks is not None:
            put_masks(frame, masks, "raw_masks", "raw_mask_offsets")

    def put(
        self,
        frame: Frame,
        detections: Candidates,
        raw: RawDetails,
        rows: NDArray[np.integer],
        min_score: float | None,
    ) -> None:
        """Add the detections to a frame with their details, those below a score as weak ones.

        Args:
            frame: gets the arrays.
            detections: boxes, scores and classes of the N detections.
            raw: details of all candidates.
            rows: (N,) row of each detection in `raw`.
            min_score: lowest score of an object; None: no detection is weak.
        """
        boxes, scores, classes = detections
        has_details = any(part is not None for part in raw)
        put_detections(frame, boxes, scores, classes, min_score, has_details)
        if raw.keypoints is not None:
            frame.put("keypoints", raw.keypoints[rows])
        if raw.rotated is not None:
            frame.put("rotated", raw.rotated[rows])
        if raw.masks is not None:
            put_masks(frame, [raw.masks[row] for row in rows.tolist()])
        elif raw.coefficients is not None:
            if raw.prototypes is None:
                raise ValueError("masks: expected prototypes beside the coefficients (found none)")
            own, canvas = raw.coefficients[rows], self._canvas(frame)
            masks = masks_of_prototypes(own, raw.prototypes, boxes, canvas, self._masks)
            put_masks(frame, _texts(masks))

    def _canvas(self, frame: Frame) -> Canvas:
        return Canvas(Transform.of(frame["transform"], frame.width, frame.height), self._size)


def _texts(masks: Sequence[Rle]) -> list[bytes]:
    return [text_of(rle.counts).encode() for rle in masks]
