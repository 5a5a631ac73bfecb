import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from models.training import architectures
from models.training.architectures import ARCHITECTURES, IMAGENET, MismatchError, Normalisation
from tests.models.training.builders import HEAD, state_dict

NAMES = ["features.{layer}.{part}", "_blocks.{layer}._{part}"]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
@pytest.mark.parametrize("names", NAMES)
def test_weights_are_recognised_by_shapes_whatever_their_names(architecture, names):
    weights = state_dict(architecture, names)
    assert architectures.recognise(weights) is architecture
    model = architectures.build(architecture, weights)
    onnx.checker.check_model(model)


def test_vectors_of_a_layer_may_come_in_any_order():
    weights = state_dict()
    # Safetensors sorts by name: the bias comes before the weight.
    layers = [name.removesuffix("weight") for name, value in weights.items() if value.ndim == 4]
    turned = {}
    for layer in layers:
        turned[f"{layer}weight"] = weights[f"{layer}weight"]
        turned |= {n: weights[n] for n in sorted(weights) if n.startswith(f"{layer}norm.")}
    assert list(turned) != list(weights)[: len(turned)]
    models = [architectures.build(architectures.MOBILENET_V2, w) for w in (weights, turned)]
    assert models[0] == models[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_maps_are_a_32nd_of_pictures_of_any_size(architecture):
    run = ReferenceEvaluator(architectures.build(architecture, state_dict(architecture)))
    for height, width in ((64, 32), (32, 96)):
        images = np.full((2, 3, height, width), 100, np.float32)
        assert run.run(None, {"images": images})[0].shape == (2, HEAD, height // 32, width // 32)


def torch_mobilenet(weights, x):
    """MobileNetV2 from the same weights, written by hand."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    layers = iter([v for v in map(torch.from_numpy, map(np.array, weights.values())) if v.dim()])

    def layer(x, stride=1, active=True):
        kernel, scale, shift, mean, variance = (next(layers) for _ in range(5))
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        x = functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups)
        x = functional.batch_norm(x, mean, variance, scale, shift, False)
        return functional.relu6(x) if active else x

    x = layer(x, 2)
    for expansion, count, first in [
        (1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)
    ]:  # fmt: skip
        for index in range(count):
            stride = first if index == 0 else 1
            y = layer(x) if expansion > 1 else x
            y = layer(layer(y, stride), active=False)
            x = x + y if index else y
    return layer(x)


def test_mobilenet_v2_equals_one_written_by_hand():
    torch = pytest.importorskip("torch")
    weights = state_dict()
    images = np.random.default_rng(1).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in IMAGENET[:2])
    with torch.no_grad():
        expected = torch_mobilenet(weights, torch.from_numpy((images / 255 - mean) / std)).numpy()
    model = architectures.build(architectures.MOBILENET_V2, weights)
    found = ReferenceEvaluator(model).run(None, {"images": images})[0]
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
def test_lite_pads_as_tensorflow_does_for_stride_2(kernel, before, after):
    architecture = architectures.EFFICIENTNET_LITE0
    model = architectures.build(architecture, state_dict(architecture))
    pads = {
        tuple(a.ints)
        for node in model.graph.node
        for a in node.attribute
        if a.name == "pads" and steps_of(node) == ([2, 2], [kernel, kernel])
    }
    assert pads == {(before, before, after, after)}


def steps_of(node):
    numbers = {a.name: list(a.ints) for a in node.attribute}
    return numbers.get("strides"), numbers.get("kernel_shape")


def test_the_normalisation_is_the_first_of_the_graph():
    by = Normalisation((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), 0.5)
    model = architectures.build(architectures.MOBILENET_V2, state_dict(), by)
    model.graph.output[0].name = architectures.NORMALISED
    images = np.full((1, 3, 32, 32), 10, np.float32)
    found = ReferenceEvaluator(model).run(None, {"images": images})[0]
    assert np.allclose(found[0, :, 0, 0], [(5 - 1) / 2, (5 - 2) / 4, (5 - 3) / 8])


def changed(weights, change):
    change(weights)
    return weights


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.popitem() and w.popitem() and [w.pop(n) for n in list(w)[-6:]],
        lambda w: w.pop("features.3.norm.bias"),
        lambda w: w.update({"features.3.weight": np.zeros((8, 8, 3, 3, 1), np.float32)}),
        lambda w: w.update({"features.4.weight": w["features.4.weight"][:, :, :1, :1]}),
        lambda w: w.update({"more.weight": np.zeros((4, 16, 1, 1), np.float32)}),
        lambda w: w.clear(),
    ],
)
def test_weights_of_another_network_are_not_recognised(change):
    assert architectures.recognise(changed(state_dict(), change)) is None


def test_a_mismatch_says_which_kernel_was_found():
    weights = state_dict()
    weights["features.0.weight"] = np.zeros((8, 3, 7, 7), np.float32)
    with pytest.raises(MismatchError, match=r"a kernel \(8, 3, 7, 7\)"):
        architectures.build(architectures.MOBILENET_V2, weights)
