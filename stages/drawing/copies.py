"""Copies of what is drawn on a frame, for images that are drawn later, at another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from stages.detections import RESULTS, Detections


def copy_detections(frame: Frame, scale_x: float, scale_y: float) -> Mapping[str, NDArray[Any]]:
    """Return copies of the arrays of `RESULTS`, for an image of another size.

    Boxes, keypoints and rotated boxes are scaled. Masks stay in the size of the frame: the header
    of the frame that they are put into needs its `width` and `height`, and the annotator scales
    them.

    Args:
        frame: with the arrays.
        scale_x: width of the other image divided by that of the frame.
        scale_y: the same of the height.
    """
    found = Detections.of(frame)
    both = np.array((scale_x, scale_y), np.float32)
    arrays = {name: value.copy() for name, value in found._asdict().items()}
    arrays["boxes"] = found.boxes * np.tile(both, 2)
    for name in [array.name for array in RESULTS if array.name in frame]:
        if name not in arrays and not name.startswith("weak_"):
            arrays[name] = frame[name].copy()
    if "keypoints" in arrays:
        arrays["keypoints"][..., :2] *= both
    if "rotated" in arrays:
        # One scale for both axes: a rotated box would not stay one. They differ by less than 1 px.
        arrays["rotated"][:, :2] *= both
        arrays["rotated"][:, 2:4] *= both.mean()
    return arrays
