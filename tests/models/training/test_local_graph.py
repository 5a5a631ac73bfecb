import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from models.errors import TrainingError
from models.training.architectures import IMAGENET, Normalisation
from models.training.backbones import load
from tests.models.training.builders import Net, residual_net, save

PLAIN = Normalisation((0, 0, 0), (1, 1, 1), 1)


def pixels(height, width, count=1):
    draw = np.random.default_rng(0)
    return draw.uniform(0, 255, (count, 3, height, width)).astype(np.float32)


def run(model, images, name="images"):
    return ReferenceEvaluator(model).run(None, {name: images})[0]


def test_a_classifier_is_cut_before_its_pooling(tmp_path):
    net = Net()
    end = residual_net(net)
    own = load(save(tmp_path / "own.onnx", net.model(end)))
    assert (own.name, own.size, own.seen, own.licence) == ("own", 64, "unknown", "unknown")
    assert list(own.levels) == [2, 4]
    assert run(own.model, pixels(96, 32, 2)).shape == (2, 8, 24, 8)
    onnx.checker.check_model(own.model)


def test_the_normalisation_of_a_local_file_can_be_set(tmp_path):
    net = Net()
    model = net.model(net.node("Relu", net.conv("x", 4, 3, stride=2)))
    path = save(tmp_path / "own.onnx", model)
    images = pixels(64, 64)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in IMAGENET[:2])
    for by, expected in ((IMAGENET, (images / 255 - mean) / std), (PLAIN, images)):
        found = run(load(path, by).model, images)
        assert np.allclose(found, run(model, expected, "x"), rtol=1e-4, atol=1e-4)


def test_tensors_of_the_file_called_as_ours_are_kept_apart(tmp_path):
    net = Net()
    end = net.node("Relu", net.conv("x", 4, 3, stride=2))
    model = net.model(end)
    images = pixels(64, 64)
    expected = run(model, images, "x")
    new = {"x": "images/normalised", net.nodes[0].output[0]: "images", "constant0": "images/mean"}
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for tensor in (*model.graph.initializer, *model.graph.input):
        tensor.name = new.get(tensor.name, tensor.name)
    own = load(save(tmp_path / "own.onnx", model), PLAIN)
    assert np.allclose(run(own.model, images), expected, rtol=1e-4, atol=1e-3)


def detector(net):
    """Maps of strides 8 and 16, joined from the deepest up, with one output each."""
    x = "x"
    maps = []
    for channels, inner in ((4, 3), (6, 4), (8, 6), (10, 8)):
        x = net.node("Relu", net.conv(x, channels, inner, stride=2))
        maps.append(x)
    larger = net.node("Resize", x, None, np.float32([1, 1, 2, 2]))
    joined = net.conv(net.node("Concat", maps[2], larger, axis=1), 8, 18)
    again = net.node("Relu", net.conv(joined, 10, 8, stride=2))
    return x, (net.conv(joined, 5, 8), net.conv(again, 5, 10))


def test_a_detector_is_cut_where_its_maps_become_larger(tmp_path):
    net = Net()
    deepest, ends = detector(net)
    own = load(save(tmp_path / "own.onnx", net.model(*ends)))
    assert own.blocks[-1].tensor == deepest
    assert [block.channels for block in own.levels.values()] == [4, 6, 8, 10]


def test_maps_that_detectors_add_beyond_stride_32_are_not_kept(tmp_path):
    net = Net((1, 3, 128, 128))
    x, maps = "x", []
    for _ in range(7):
        x = net.node("Relu", net.conv(x, 4, 4 if maps else 3, stride=2))
        maps.append(x)
    ends = [net.conv(m, 2, 4) for m in maps[4:]]
    own = load(save(tmp_path / "own.onnx", net.model(*ends)))
    assert own.blocks[-1] == (maps[4], 32, 4)


def test_padding_of_the_kind_same_becomes_numbers(tmp_path):
    net = Net()
    x = net.conv("x", 4, 3, stride=2, auto_pad="SAME_UPPER")
    x = net.conv(x, 4, 4, side=5, stride=2, auto_pad="SAME_LOWER")
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    model = net.model(x)
    own = load(save(tmp_path / "own.onnx", model), PLAIN)
    images = pixels(64, 64)
    assert np.allclose(run(own.model, images), run(model, images, "x"), rtol=1e-4, atol=1e-2)
    pads = [tuple(a.ints) for n in own.model.graph.node for a in n.attribute if a.name == "pads"]
    assert pads == [(0, 0, 1, 1), (2, 2, 1, 1), (0, 0, 1, 1)]


def test_a_second_input_that_the_maps_do_not_need_is_ignored(tmp_path):
    net = Net()
    end = net.node("Relu", net.conv("x", 4, 3, stride=2))
    total = net.node("Mul", net.node("GlobalAveragePool", end), "sizes")
    model = net.model(total)
    model.graph.input.append(onnx.helper.make_tensor_value_info("sizes", TensorProto.FLOAT, [1, 2]))
    own = load(save(tmp_path / "own.onnx", model))
    assert own.blocks[-1].tensor == end


def quantised(net):
    scale, zero = np.float32(0.1), np.uint8(0)
    x = net.node("Relu", net.conv("x", 4, 3, stride=2))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, zero), scale, zero)
    return net.conv(x, 4, 4, stride=2)


def unknown(net):
    x = net.node("Relu", net.conv("x", 4, 3, stride=2))
    return net.conv(net.node("Hardmax", x, axis=1), 4, 4, stride=2)


def fixed_size(net):
    x = net.conv("x", 4, 3, stride=2)
    return net.conv(net.node("Reshape", x, np.array([1, 4, 32, 32])), 4, 4, stride=2)


def no_maps(net):
    return net.node("MatMul", net.node("Flatten", "x"), np.zeros((3 * 64 * 64, 5), np.float32))


def unknown_shape(net):
    x = net.node("Relu", net.conv("x", 4, 3, stride=2))
    sides = net.node("Floor", net.node("Cast", net.node("Shape", x), to=1))
    sides = net.node("Cast", sides, to=7)
    return net.conv(net.node("Reshape", x, sides), 4, 4, stride=2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (unknown_shape, "the shape of a map cannot be worked out"),
        (quantised, "is quantised .*QuantizeLinear"),
        (unknown, r"found Hardmax"),
        (fixed_size, "pictures of one size only"),
        (no_maps, "no maps of features"),
    ],
)
def test_a_network_that_cannot_be_a_backbone_is_refused(tmp_path, make, match):
    net = Net()
    path = save(tmp_path / "own.onnx", net.model(make(net)))
    with pytest.raises(TrainingError, match=match) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "match"),
    [
        ((1, 64, 64, 3), TensorProto.FLOAT, "no picture in NCHW"),
        ((1, 1, 64, 64), TensorProto.FLOAT, "no picture in NCHW"),
        ((1, 3, 64, 64), TensorProto.UINT8, r"no float32 tensor \(found uint8\)"),
        ((1, 3, 64), TensorProto.FLOAT, "not one input takes pictures"),
    ],
)
def test_an_input_of_another_kind_is_refused(tmp_path, shape, dtype, match):
    net = Net(shape)
    path = save(tmp_path / "own.onnx", net.model(net.node("Relu", "x"), dtype=dtype))
    with pytest.raises(TrainingError, match=match):
        load(path)


def test_operators_that_are_too_old_are_refused(tmp_path):
    net = Net()
    path = save(tmp_path / "own.onnx", net.model(net.conv("x", 4, 3, stride=2), opset=8))
    with pytest.raises(TrainingError, match="found opset 8"):
        load(path)


def test_a_file_with_damaged_weights_is_refused(tmp_path):
    net = Net()
    model = net.model(net.conv("x", 4, 3, stride=2))
    model.graph.initializer[0].raw_data = b"123"
    path = save(tmp_path / "own.onnx", model)
    with pytest.raises(TrainingError, match="the graph is damaged"):
        load(path)
