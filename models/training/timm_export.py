"""Backbones of the package timm, exported to ONNX; used only where timm is installed."""

from __future__ import annotations

import io
import warnings
from typing import Any

from models.errors import TrainingError
from models.text import shown
from models.training.architectures import Normalisation
from models.training.backbone import Backbone
from models.training.graph import SIDE_STEP
from models.training.local_graph import backbone_part


def load(name: str) -> Backbone:
    """Return a network of timm with its trained weights, which timm downloads.

    Raises:
        TrainingError: timm is not installed, does not know the name, or cannot download it.
    """
    try:
        import timm
    except ImportError:
        raise TrainingError(
            f"backbone timm:{shown(name, 60)}: the package timm is not installed; pip install timm"
        ) from None
    try:
        network = timm.create_model(name, pretrained=True, exportable=True).eval()
    except Exception as error:  # its errors, and those of its downloads, have no common base
        raise TrainingError(
            f"backbone timm:{shown(name, 60)}: timm cannot make it (found {shown(error, 120)}); "
            "see timm.list_models(pretrained=True), and check the network"
        ) from None
    facts: dict[str, Any] = dict(network.pretrained_cfg)
    side = int(facts.get("input_size", (3, 224, 224))[-1])
    by = Normalisation(tuple(facts["mean"]), tuple(facts["std"]))
    part, _ = backbone_part(_export(network, side), f"timm:{name}", by)
    return Backbone(
        name,
        f"timm {timm.__version__}, {facts.get('hf_hub_id') or facts.get('url') or name}",
        str(facts.get("license") or "unknown"),
        "unknown",
        max(side // SIDE_STEP, 1) * SIDE_STEP,
        part,
    )


def _export(network: Any, side: int) -> Any:
    """Return a network as an ONNX model of open size."""
    import onnx
    import torch

    memory = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side, side),),
            memory,
            opset_version=17,
            input_names=["pictures"],
            dynamic_axes={"pictures": {0: "N", 2: "H", 3: "W"}},
            dynamo=False,
        )
    return onnx.load_model_from_string(memory.getvalue())
