"""RT-DETR, D-FINE and DEIM as they are deployed: labels (N,), boxes (N, 4), scores (N,).

(Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024.) A second input takes
the size in which boxes are wanted. It is told the size of the model's input, so that boxes come
back through the same transform as those of every other family. Nothing is left to suppress.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract, Pixels, Reading, image_input
from models.families import Candidates
from models.onnx_header import OnnxFile
from models.transform import Transform

SIZES = "orig_target_sizes"
OUTPUTS = ("labels", "boxes", "scores")


def recognise(file: OnnxFile) -> Reading | None:
    """See `Family.recognise`."""
    sizes = [tensor for tensor in file.inputs if tensor.name == SIZES]
    by_name = {output.name: output for output in file.outputs}
    if image_input(file) is None or not sizes or set(by_name) != set(OUTPUTS):
        return None
    sides = [len(by_name[name].shape or ()) for name in OUTPUTS]
    if sides != [2, 3, 2]:
        return None
    return Reading(
        pixels=Pixels(resize="stretch", scale=1 / 255),
        outputs=OUTPUTS,
        classes=None,
        end_to_end=True,
        sizes_input=SIZES,
    )


def decode(
    outputs: Sequence[NDArray[Any]], contract: Contract, transform: Transform, min_score: float
) -> Candidates:
    """See `Family.decode`."""
    labels, boxes, scores = outputs
    kept = np.flatnonzero(scores >= min_score)
    return Candidates(
        transform.invert(boxes[kept].astype(np.float32, copy=False)),
        scores[kept].astype(np.float32, copy=False),
        labels[kept].astype(np.int32),
    )
