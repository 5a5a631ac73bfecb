"""The maps of frozen layers: by onnxruntime, or by PyTorch on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import runtime
from models.training.backbone import Backbone
from models.training.features import Maps
from models.training.graph import IMAGES
from models.training.method import Job
from models.training.onnx_net import OnnxNet


def extractor(backbone: Backbone, names: Sequence[str], job: Job) -> Any:
    """Return the function that computes frozen maps: by onnxruntime, or by PyTorch on a GPU."""
    if tuple(names) == (IMAGES,):
        return lambda pixels: [_colours(pixels)]
    if job.device == "cuda":
        net = OnnxNet(backbone.model, [IMAGES], names).to("cuda").eval()

        def on_gpu(pixels: NDArray[np.uint8]) -> Maps:
            with torch.no_grad():
                found = net(torch.from_numpy(_colours(pixels)).to("cuda"))
            return [tensor.float().cpu().numpy() for tensor in found]

        return on_gpu
    run = runtime.open_graph(backbone.piece(names).SerializeToString(), job.threads)
    return lambda pixels: run({IMAGES: _colours(pixels)})


def _colours(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return inputs (N, 3, H, W) float32 RGB of pixels (N, H, W, 3) uint8 BGR."""
    return np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), np.float32)
