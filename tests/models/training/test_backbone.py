import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from models.errors import TrainingError
from models.training import graph
from models.training.architectures import EFFICIENTNET_LITE0
from models.training.backbone import describe
from tests.models.training.builders import Net, backbone, residual_net


def test_blocks_of_mobilenet_end_at_activations_additions_and_projections():
    own = backbone()
    names = [block.tensor for block in own.blocks]
    assert len(names) == 32
    assert names[:4] == ["stem/out", "block1/depthwise/out", "block1/project/norm", names[3]]
    # Inside of a residual block there is no single tensor through which everything passes.
    assert not [name for name in names if name.startswith("block3/") and name != "block3/add"]
    assert names[-1] == own.model.graph.output[0].name == "head/out"


def test_levels_are_the_last_activated_tensors_of_each_stride():
    levels = backbone().levels
    assert {stride: block.tensor for stride, block in levels.items()} == {
        2: "block2/expand/out",
        4: "block4/expand/out",
        8: "block7/expand/out",
        16: "block14/expand/out",
        32: "head/out",
    }
    assert all(block.stride == stride for stride, block in levels.items())
    assert levels[32].channels == 16
    assert list(backbone(EFFICIENTNET_LITE0).levels) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("tensor", ["block1/project/norm", "block9/add", "head/out"])
def test_a_piece_gives_the_same_tensor_as_the_whole_graph(tensor):
    own = backbone()
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32)
    whole = own.piece(["head/out", tensor])
    piece = own.piece([tensor])
    found = [ReferenceEvaluator(m).run([tensor], {"images": images})[0] for m in (whole, piece)]
    assert np.array_equal(*found)
    after = [node for node in own.model.graph.node if node not in list(piece.graph.node)]
    used = {name for node in piece.graph.node for name in node.input}
    assert {w.name for w in piece.graph.initializer} <= used
    assert bool(after) == (tensor != "head/out")


def test_a_piece_up_to_an_unknown_tensor_is_refused():
    with pytest.raises(TrainingError, match=r"no such tensor \(found 'none'\)"):
        backbone().piece(["none"])


def test_the_digest_changes_with_any_weight():
    own = backbone()
    assert own.sha256 == backbone().sha256
    name = "block9/expand/weights"
    other = own.with_weights({name: graph.constants_of(own.model)[name] + 1})
    assert other.sha256 != own.sha256
    assert own.sha256 == backbone().sha256
    assert np.array_equal(
        graph.constants_of(other.model)[name], graph.constants_of(own.model)[name] + 1
    )


def test_the_table_has_a_line_for_each_block_and_ends_with_all_work():
    own = backbone()
    lines = describe(own).splitlines()
    assert len(lines) == 1 + len(own.blocks)
    assert lines[0].split() == ["layers", "stride", "channels", "work", "tensor"]
    assert lines[-1].split() == ["32", "32", "16", "100", "%", "head/out"]


def test_work_counts_the_multiplications_of_convolutions():
    net = Net()
    x = net.conv("x", 8, 3, stride=2)
    y = net.conv(x, 8, 8, side=5, group=8)
    model = net.model(y)
    shapes = graph.shapes_of(model, 64, "x")
    work = [graph.work_of(node, shapes) for node in model.graph.node]
    assert work == [8 * 32 * 32 * 3 * 9, 8 * 32 * 32 * 25]


def cuts(net, end):
    return graph.cuts_of(net.model(end), end, "x")


def test_a_residual_network_is_cut_between_its_blocks():
    net = Net()
    end = residual_net(net)
    ops = [name.rstrip("0123456789_") for name in cuts(net, end)]
    assert ops == ["relu", "maxpool", "relu", "relu", "globalaveragepool", "gemm"]


def test_a_network_of_swish_is_cut_behind_its_product():
    net = Net()
    x = "x"
    for channels in (3, 8):
        y = net.conv(x, 8, channels)
        x = net.node("Mul", y, net.node("Sigmoid", y))
    assert cuts(net, x) == ["mul2_0", "mul5_0"]


def test_branches_that_are_joined_are_cut_behind_the_join():
    net = Net()
    x = net.node("Relu", net.conv("x", 8, 3))
    halves = net.node("Split", x, np.array([4, 4]), axis=1, outputs=2)
    y = net.node("Relu", net.conv(halves[1], 4, 4))
    end = net.node("Relu", net.conv(net.node("Concat", halves[0], y, axis=1), 8, 8))
    assert cuts(net, end) == [x, "concat5_0", end]


def test_squeeze_and_excitation_is_no_place_for_a_cut():
    net = Net()
    x = net.node("Relu", net.conv("x", 8, 3))
    gate = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", x), 8, 8, side=1))
    end = net.node("Mul", x, gate)
    assert cuts(net, end) == [x, end]


def test_normalisation_before_residual_sums_leaves_the_sums_as_cuts():
    net = Net()
    x = first = net.conv("x", 8, 3)
    for _ in range(2):
        x = net.node("Add", net.conv(net.node("Relu", x), 8, 8), x)
    assert cuts(net, x) == [first, "add3_0", "add6_0"]


def test_padding_apart_from_its_convolution_is_no_cut():
    net = Net()
    x = net.node("Relu", net.conv("x", 8, 3))
    padded = net.node("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    end = net.conv(padded, 8, 8, pads=[0] * 4)
    assert cuts(net, end) == [x, end]


def test_what_depends_on_no_input_becomes_a_constant():
    net = Net()
    zeros = net.node("ConstantOfShape", np.array([4]))
    pads = net.node("Cast", net.node("Concat", zeros, np.float32([0, 1, 0, 1]), axis=0), to=7)
    half = net.node("Cast", np.full((8, 3, 1, 1), 0.5, np.float16), to=1)
    same = net.node("Identity", net.node("Pad", "x", pads))
    end = net.node("Conv", same, half)
    folded = graph.fold(net.model(end))
    assert [node.op_type for node in folded.graph.node] == ["Pad", "Conv"]
    constants = graph.constants_of(folded)
    assert constants[pads].tolist() == [0, 0, 0, 0, 0, 1, 0, 1]
    assert constants[half].dtype == np.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda n: n.node("ConstantOfShape", np.array([2**20, 2**20])),
        lambda n: n.node("Add", np.zeros((20_000, 1)), np.zeros((1, 20_000))),
        lambda n: n.node("Gather", np.zeros(20_000), np.zeros(20_000, np.int64)),
    ],
)
def test_a_constant_that_would_fill_the_memory_is_not_computed(make):
    net = Net()
    end = make(net)
    folded = graph.fold(net.model(end))
    assert len(folded.graph.node) == 1


def test_constants_together_stay_below_the_limit(monkeypatch):
    monkeypatch.setattr(graph, "_MAX_FOLDED", 100)
    net = Net()
    ends = [net.node("Neg", np.zeros(40)) for _ in range(4)]
    assert len(graph.fold(net.model(*ends)).graph.node) == 2


def test_numbers_in_nodes_become_constants():
    net = Net()
    ends = [
        net.node("Constant", value_float=2.5),
        net.node("Constant", value_ints=[1, 2]),
        net.node("Constant", value_string="text"),
    ]
    folded = graph.fold(net.model(*ends))
    constants = graph.constants_of(folded)
    assert constants[ends[0]] == np.float32(2.5)
    assert constants[ends[1]].tolist() == [1, 2]
    assert [node.output[0] for node in folded.graph.node] == [ends[2]]
