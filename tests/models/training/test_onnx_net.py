import warnings

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from models.errors import TrainingError
from models.training import architectures, graph
from tests.models.training.builders import Net, backbone, residual_net

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for a core of a busy machine take longer

from models.training import operators  # noqa: E402 - needs torch
from models.training.onnx_net import OnnxNet  # noqa: E402 - needs torch

TOLERANCE = 1e-5


def images(side=64, count=1, seed=0):
    draw = np.random.default_rng(seed)
    return draw.uniform(-2, 2, (count, 3, side, side)).astype(np.float32)


def floats(*values):
    return np.array(values, np.float32)


def kernel(*shape, seed=3):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


FORMS = {
    "conv": lambda n: n.conv("x", 4, 3),
    "conv without bias": lambda n: n.node("Conv", "x", kernel(4, 3, 3, 3)),
    "conv uneven": lambda n: n.conv("x", 4, 3, stride=2, pads=[0, 0, 1, 1]),
    "conv dilated": lambda n: n.conv("x", 6, 3, group=3, dilations=[2, 2]),
    "conv same": lambda n: n.conv("x", 4, 3, auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
    "conv transposed": lambda n: n.node(
        "ConvTranspose", "x", kernel(3, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "norm": lambda n: n.node(
        "BatchNormalization", "x", floats(1, 2, 3), floats(0, 1, -1), floats(0.1, 0.2, 0.3),
        floats(1, 2, 4), epsilon=1e-3,
    ),
    "relu": lambda n: n.node("Relu", "x"),
    "leaky": lambda n: n.node("LeakyRelu", "x", alpha=0.2),
    "prelu": lambda n: n.node("PRelu", "x", floats(0.1, 0.2, 0.3).reshape(3, 1, 1)),
    "relu6": lambda n: n.node("Clip", "x", floats(0)[0], floats(6)[0]),
    "clip low": lambda n: n.node("Clip", "x", floats(-1)[0]),
    "clip high": lambda n: n.node("Clip", "x", None, floats(1)[0]),
    "sigmoid": lambda n: n.node("Sigmoid", "x"),
    "hard sigmoid": lambda n: n.node("HardSigmoid", "x", alpha=1 / 6, beta=0.5),
    "hard swish": lambda n: n.node("HardSwish", "x"),
    "tanh": lambda n: n.node("Tanh", "x"),
    "elu": lambda n: n.node("Elu", "x", alpha=0.5),
    "softplus": lambda n: n.node("Softplus", "x"),
    "erf": lambda n: n.node("Erf", "x"),
    "mish": lambda n: n.node("Mish", "x"),
    "exp and neg": lambda n: n.node("Exp", n.node("Neg", "x")),
    "root and power": lambda n: n.node("Sqrt", n.node("Pow", "x", floats(2)[0])),
    "arithmetic": lambda n: n.node(
        "Div", n.node("Mul", n.node("Sub", n.node("Add", "x", "x"), floats(1)), "x"), floats(3)
    ),
    "softmax": lambda n: n.node("Softmax", "x", axis=1),
    "max pool": lambda n: n.node(
        "MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "max pool uneven": lambda n: n.node(
        "MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
    ),
    "mean pool": lambda n: n.node(
        "AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "mean pool with padding": lambda n: n.node(
        "AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "global pool": lambda n: n.node("GlobalAveragePool", "x"),
    "mean": lambda n: n.node("ReduceMean", "x", axes=[2, 3], keepdims=0),
    "flatten and gemm": lambda n: n.node(
        "Gemm", n.node("Flatten", n.node("GlobalAveragePool", "x")), kernel(4, 3),
        floats(1, 2, 3, 4), transB=1, alpha=0.5, beta=2.0,
    ),
    "product": lambda n: n.node("MatMul", "x", kernel(64, 5)),
    "concat": lambda n: n.node("Concat", "x", n.node("Relu", "x"), axis=1),
    "split": lambda n: n.node("Split", "x", np.array([1, 2]), axis=1, outputs=2)[1],
    "slice": lambda n: n.node(
        "Slice", "x", np.array([0, -9]), np.array([2**63 - 1, -1]), np.array([2, 3]),
        np.array([2, 1]),
    ),
    "pad": lambda n: n.node("Pad", "x", np.array([0, 0, 1, 2, 0, 0, 3, 4]), floats(0.5)[0]),
    "pad of channels": lambda n: n.node("Pad", "x", np.array([0, 1, 0, 0, 0, 2, 0, 0])),
    "reflected": lambda n: n.node(
        "Pad", "x", np.array([0, 0, 1, 2, 0, 0, 3, 4]), mode="reflect"
    ),
    "reshape and transpose": lambda n: n.node(
        "Transpose", n.node("Reshape", "x", np.array([0, 3, 8, -1])), perm=[0, 2, 1, 3]
    ),
    "squeeze": lambda n: n.node(
        "Squeeze", n.node("Unsqueeze", "x", np.array([1, 2])), np.array([2])
    ),
    "resize near": lambda n: n.node(
        "Resize", "x", None, floats(1, 1, 2, 2), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "resize linear": lambda n: n.node(
        "Resize", "x", None, floats(1, 1, 2, 2), mode="linear",
        coordinate_transformation_mode="half_pixel",
    ),
    "space to depth": lambda n: n.node("SpaceToDepth", "x", blocksize=4),
    "depth to space": lambda n: n.node(
        "DepthToSpace", n.conv("x", 8, 3), blocksize=2, mode="CRD"
    ),
    "cast, dropout, identity": lambda n: n.node(
        "Identity", n.node("Dropout", n.node("Cast", "x", to=1))
    ),
    "residual": residual_net,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_operator_gives_what_onnx_defines(form):
    net = Net()
    end = FORMS[form](net)
    opset = 18 if form == "mish" else 17
    model = net.model(end, opset=opset)
    expected = ReferenceEvaluator(model).run(None, {"x": images()})[0]
    own = OnnxNet(model, ["x"], [end])
    with torch.no_grad():
        found = own(torch.from_numpy(images()))[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


def test_gelu_of_newer_files_is_known():
    net = Net()
    end = net.node("Gelu", "x", approximate="tanh")
    own = OnnxNet(net.model(end, opset=20), ["x"], [end])
    found = own(torch.from_numpy(images()))[0]
    assert torch.equal(
        found, torch.nn.functional.gelu(torch.from_numpy(images()), approximate="tanh")
    )


def test_attributes_of_older_files_are_inputs_of_newer_ones():
    net = Net()
    x = net.node("Clip", "x", min=-1.0, max=1.0)
    x = net.node("Slice", x, starts=[1], ends=[3], axes=[1])
    x = net.node("Squeeze", net.node("Unsqueeze", x, axes=[1]), axes=[1])
    end = net.node("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1])
    model = net.model(end, opset=9)
    own = OnnxNet(model, ["x"], [end])
    expected = np.pad(np.clip(images(), -1, 1)[:, 1:3], [(0, 0), (0, 0), (1, 1), (1, 1)])
    assert np.array_equal(own(torch.from_numpy(images()))[0].numpy(), expected)


def random_net(seed):
    """A network of twelve operators that are drawn, each on one of the tensors before it."""
    net = Net(seed=seed)
    tensors = ["x"]
    makers = [
        lambda x, y: net.conv(x, 3, 3),
        lambda x, y: net.conv(x, 3, 3, side=1),
        lambda x, y: net.conv(x, 3, 3, side=5, group=3),
        lambda x, y: net.node("Relu", x),
        lambda x, y: net.node("HardSwish", x),
        lambda x, y: net.node("Add", x, y),
        lambda x, y: net.node("Mul", x, net.node("Sigmoid", y)),
        lambda x, y: net.conv(net.node("Concat", x, y, axis=1), 3, 6),
        lambda x, y: net.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        lambda x, y: net.node("Mul", x, net.node("GlobalAveragePool", y)),
    ]
    while len(tensors) < 13:
        first, second = net.draw.choice(tensors[-4:], 2)
        tensors.append(makers[net.draw.integers(len(makers))](str(first), str(second)))
    return net, tensors


@pytest.mark.parametrize("seed", range(8))
def test_a_network_of_drawn_operators_gives_what_onnx_defines(seed):
    net, tensors = random_net(seed)
    ends = [tensors[-1], tensors[5]]
    model = net.model(*ends)
    expected = ReferenceEvaluator(model).run(None, {"x": images(16)})
    with torch.no_grad():
        found = OnnxNet(model, ["x"], ends)(torch.from_numpy(images(16)))
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own.numpy() - other).max() <= TOLERANCE * max(1, np.abs(other).max())


def test_every_operator_that_is_accepted_has_a_function():
    assert set(operators.MAKERS) == graph.OPERATORS


@pytest.mark.parametrize("architecture", architectures.ARCHITECTURES, ids=lambda a: a.name)
def test_all_levels_of_a_backbone_are_those_of_onnx(architecture):
    own = backbone(architecture)
    names = [block.tensor for block in own.levels.values()]
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 3, 64, 32)).astype(np.float32)
    expected = ReferenceEvaluator(own.piece(names)).run(None, {"images": pixels})
    with torch.no_grad():
        found = OnnxNet(own.model, ["images"], names)(torch.from_numpy(pixels))
    for mine, other in zip(found, expected, strict=True):
        assert np.abs(mine.numpy() - other).max() < TOLERANCE


def test_the_part_behind_a_cut_continues_the_part_before():
    own = backbone()
    cut, end = own.blocks[14].tensor, own.blocks[-1].tensor
    pixels = torch.full((1, 3, 64, 64), 90.0)
    whole = OnnxNet(own.model, ["images"], [cut, end])(pixels)
    after = OnnxNet(own.model, [cut], [end])
    assert torch.equal(after(whole[0])[0], whole[1])
    assert len(list(after.parameters())) < len(
        list(OnnxNet(own.model, ["images"], [end]).parameters())
    )


def test_training_changes_weights_and_no_means_and_variances():
    own = backbone()
    net = OnnxNet(own.model, ["images"], [own.blocks[-1].tensor]).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(torch.from_numpy(images(64, 2) * 60 + 120))[0].square().mean().backward()
    optimizer.step()
    changed = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert "head/weights" in changed
    assert "head/shift" in changed
    assert {name.rpartition("/")[2] for name in changed} <= {"weights", "scale", "shift"}
    assert not [name for name in changed if name.startswith("images/")]


def test_trained_weights_go_back_into_the_graph():
    own = backbone()
    end = own.blocks[-1].tensor
    net = OnnxNet(own.model, ["images"], [end])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    pixels = np.full((1, 3, 32, 32), 90, np.float32)
    model = own.with_weights(net.weights()).model
    expected = ReferenceEvaluator(model).run(None, {"images": pixels})[0]
    with torch.no_grad():
        found = net(torch.from_numpy(pixels))[0].numpy()
    assert np.abs(found - expected).max() < TOLERANCE


def test_parameters_are_given_block_by_block():
    own = backbone()
    cut = own.blocks[20].tensor
    names = [block.tensor for block in own.blocks[21:]]
    net = OnnxNet(own.model, [cut], [names[-1]])
    parts = dict(net.parameters_by_block(names[:-1]))
    assert list(parts) == [*names[:-1], ""]
    listed = [id(parameter) for part in parts.values() for parameter in part]
    assert sorted(listed) == sorted(map(id, net.parameters()))
    assert len(parts["block12/add"]) == 9
    assert len(parts[""]) == 3


def refuse(model, end, match):
    with pytest.raises(TrainingError, match=match) as error:
        OnnxNet(model, ["x"], [end])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda n: n.node("TopK", "x", np.array([2])), "operator TopK .* an unknown operator"),
        (lambda n: n.conv("x", 4, 3, stride=2, auto_pad="SAME_UPPER"), "auto_pad SAME_UPPER"),
        (lambda n: n.node("Clip", "x", n.node("ReduceMean", "x")), "no axes"),
        (lambda n: n.node("Clip", "x", n.node("Neg", "x")), "depends on the picture"),
        (lambda n: n.node("Slice", "x", *map(np.array, ([3], [0], [2], [-1]))), "negative step"),
        (lambda n: n.node("DepthToSpace", "x", blocksize=1), "mode DCR"),
        (lambda n: n.node("Cast", "x", to=7), "type 7"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_trained_is_refused_by_name(make, match):
    net = Net()
    end = make(net)
    refuse(net.model(end), end, match)


def test_an_output_that_does_not_follow_from_the_inputs_is_refused():
    net = Net()
    first = net.conv("x", 4, 3)
    end = net.node("Add", net.node("Relu", first), first)
    with pytest.raises(TrainingError, match="does not follow from the inputs"):
        OnnxNet(net.model(end), [net.nodes[1].output[0]], [end])


def test_names_with_dots_and_names_of_modules_become_parameters():
    net = Net()
    end = net.conv("x", 4, 3)
    model = net.model(end)
    for old, new in (("constant0", "a.b.weight"), ("constant1", "training")):
        next(t for t in model.graph.initializer if t.name == old).name = new
        model.graph.node[0].input[:] = [new if n == old else n for n in model.graph.node[0].input]
    own = OnnxNet(model, ["x"], [end])
    assert set(own.weights()) == {"a.b.weight", "training"}
    expected = ReferenceEvaluator(model).run(None, {"x": images()})[0]
    assert np.abs(own(torch.from_numpy(images()))[0].detach().numpy() - expected).max() < TOLERANCE


def test_an_export_takes_any_number_of_pictures(tmp_path):
    own = backbone()
    end = own.blocks[-1].tensor
    net = OnnxNet(own.model, ["images"], [end]).eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, 64, 64),),
            path,
            opset_version=17,
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "N"}},
        )
    pixels = torch.from_numpy(images(64, 3) * 60 + 120)
    found = ReferenceEvaluator(onnx.load(path)).run(None, {"images": pixels.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - net(pixels)[0].numpy()).max() < TOLERANCE
