"""RT-DETR, D-FINE and DEIM as they are exported: labels (N,), boxes (N, 4), scores (N,).

(Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024.) A second input takes
the size to which boxes are scaled. It is the size of the model's input here, so that boxes are
converted back by the same transform as those of every other family. The boxes do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families.base import Candidates, DetectorFamily, Reading
from models.image_input import Pixels, image_tensor
from models.onnx_header import OnnxFile
from models.transform import Transform

SIZES_INPUT = "orig_target_sizes"
OUTPUTS = ("labels", "boxes", "scores")


class Detr(DetectorFamily):
    """DETR with decoded boxes."""

    raw = "labels [1,N], boxes [1,N,4] and scores [1,N]"

    @classmethod
    def recognise(cls, file: OnnxFile) -> Reading | None:
        """Recognise the outputs and the second input by name."""
        has_sizes = any(tensor.name == SIZES_INPUT for tensor in file.inputs)
        by_name = {output.name: output for output in file.outputs}
        if image_tensor(file) is None or not has_sizes or set(by_name) != set(OUTPUTS):
            return None
        if [len(by_name[name].shape or ()) for name in OUTPUTS] != [2, 3, 2]:
            return None
        return Reading(
            pixels=Pixels(resize="stretch", scale=1 / 255),
            outputs=OUTPUTS,
            classes=None,
            end_to_end=True,
            sizes_input=SIZES_INPUT,
        )

    def decode(
        self, raw: Sequence[NDArray[Any]], transform: Transform, min_score: float
    ) -> Candidates:
        """See `Family.decode`."""
        labels, boxes, scores = raw
        kept = np.flatnonzero(scores >= min_score)
        return Candidates(
            transform.invert(boxes[kept].astype(np.float32, copy=False)),
            scores[kept].astype(np.float32, copy=False),
            labels[kept].astype(np.int32),
        )
