"""Makes masks, keypoints and rotated boxes ready for the detections of a frame.

The detector gives them for all candidates, raw (`RAW_DETAILS`). After suppression they are made
ready for the boxes that remain (`stages.details.DETAILS`): masks become runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, text_of
from models.contract import Contract
from models.families.base import Candidates, Detailed, Details
from models.families.masks import Canvas, masks_of_boxes, masks_of_prototypes
from models.transform import Transform
from pipeline.frame import Frame
from pipeline.stage import Array
from stages.details import put_masks
from stages.detections import put_detections

RAW_DETAILS = (
    Array("raw_keypoints", "float32", (None, None, 3), optional=True),
    Array("raw_rotated", "float32", (None, 5), optional=True),
    Array("raw_coefficients", "float32", (None, None), optional=True),
    Array("raw_masks", "float32", (None, None, None), optional=True),
    Array("raw_prototypes", "float32", (None, None, None), optional=True),
)
"""Fields of `models.families.base.Details` of all candidates, and their prototypes."""


def put_raw(frame: Frame, found: Detailed) -> None:
    """Add the details of all candidates to a frame, for the suppression that follows."""
    for name, value in found.details._asdict().items():
        if value is not None:
            frame.put(f"raw_{name}", value)
    if found.prototypes is not None:
        frame.put("raw_prototypes", found.prototypes)


def raw_of(frame: Frame, candidates: Candidates) -> Detailed:
    """Return the candidates of a frame with their details, as `put_raw` added them."""
    details = Details(*(_raw(frame, name) for name in Details._fields))
    return Detailed(candidates, details, _raw(frame, "prototypes"))


def _raw(frame: Frame, name: str) -> NDArray[np.float32] | None:
    key = f"raw_{name}"
    if key not in frame:
        return None
    return frame[key]


class DetailMaker:
    """Makes the details of the boxes that remain ready.

    Args:
        contract: contract of the model; None: it gives boxes alone.
    """

    def __init__(self, contract: Contract | None) -> None:
        self._contract = contract
        self._task = None if contract is None else contract.task

    def put(
        self, frame: Frame, found: Detailed, rows: NDArray[Any], min_score: float | None
    ) -> None:
        """Add the detections to a frame with their details, those below a score as weak ones.

        Args:
            frame: gets the arrays.
            found: boxes, scores and classes of the detections, and details of all candidates.
            rows: (N,) row of the details of each detection.
            min_score: lowest score of an object; None: no detection is weak.
        """
        boxes, scores, classes = found.candidates
        details = found.details.take(rows)
        has_details = any(part is not None for part in details)
        put_detections(frame, boxes, scores, classes, min_score, has_details)
        if details.keypoints is not None:
            frame.put("keypoints", details.keypoints)
        if details.rotated is not None:
            frame.put("rotated", details.rotated)
        masks = self._masks(frame, details, found.prototypes, boxes)
        if masks is not None:
            put_masks(frame, [text_of(rle.counts).encode() for rle in masks])

    def _masks(
        self,
        frame: Frame,
        details: Details,
        prototypes: NDArray[np.float32] | None,
        boxes: NDArray[np.float32],
    ) -> list[Rle] | None:
        if self._contract is None or self._contract.layout is None:
            return None
        layout = self._contract.layout.masks
        if details.coefficients is None and details.masks is None:
            return None
        transform = Transform.of(frame["transform"], frame.width, frame.height)
        canvas = Canvas(transform, self._contract.input.size)
        if details.masks is not None:
            return masks_of_boxes(details.masks, boxes, canvas, layout)
        assert details.coefficients is not None
        if prototypes is None:
            raise ValueError("masks: expected prototypes beside the coefficients (found none)")
        return masks_of_prototypes(details.coefficients, prototypes, boxes, canvas, layout)
