"""The maps of frozen layers: by onnxruntime, or by PyTorch on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import runtime
from models.training.backbone import Backbone
from models.training.features import Maps, as_colours
from models.training.graph import IMAGES
from models.training.method import Job
from models.training.onnx_net import OnnxNet


def extractor(backbone: Backbone, names: Sequence[str], job: Job) -> Any:
    """Return the function that computes frozen maps: by onnxruntime, or by PyTorch on a GPU."""
    if tuple(names) == (IMAGES,):
        return lambda pixels: [as_colours(pixels)]
    if job.device == "cuda":
        net = OnnxNet(backbone.model, [IMAGES], names).to("cuda").eval()

        def on_gpu(pixels: NDArray[np.uint8]) -> Maps:
            with torch.no_grad():
                found = net(torch.from_numpy(as_colours(pixels)).to("cuda"))
            return [tensor.float().cpu().numpy() for tensor in found]

        return on_gpu
    run = runtime.open_graph(backbone.piece(names).SerializeToString(), job.threads)
    return lambda pixels: run({IMAGES: as_colours(pixels)})
