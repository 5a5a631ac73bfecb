"""Classifiers, embeddings, semantic maps and localisers against plain Python."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import families
from models.card import load
from models.errors import CardError, ContractError
from models.inspect import inspect
from models.runtime import Runtime
from models.transform import Transform, fit, part_of
from tests.models.builders import save
from tests.models.families.model_file import contract_of

SIZE = (96, 64)
WHOLE = Transform(1.0, 1.0, 0.0, 0.0, *SIZE)


def answer(contract, outputs, transform=WHOLE, index=0, images=1):
    family = families.make(contract.family, contract.input, contract.classes, contract.layout)
    raw = [outputs[tensor.name] for tensor in contract.outputs]
    return family.decode(family.of_image(raw, index, images), transform, 0.0)


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 1, 1), (3, 6)])
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("activation: softmax", softmax),
        ("activation: none", list),
        ("activation: sigmoid", lambda row: [1 / (1 + math.exp(-value)) for value in row]),
        ("background: 0, activation: softmax", lambda row: softmax(row)[1:]),
        ("background: -1, activation: none", lambda row: list(row)[:-1]),
    ],
)
def test_the_scores_of_a_classifier_are_those_of_the_reference(tmp_path, shape, keys, expected):
    raw = np.random.default_rng(1).normal(size=shape).astype(np.float32) * 3
    contract = contract_of(
        tmp_path, "classify", SIZE, {"out": raw}, images=shape[0], card=f"output: {{{keys}}}"
    )
    for i in range(shape[0]):
        row = expected(raw[i].reshape(-1).astype(float).tolist())
        assert (contract.task, contract.classes) == ("classify", len(row))
        found = answer(contract, {"out": raw}, index=i, images=shape[0])
        np.testing.assert_allclose(found.scores, row, rtol=1e-5)


def test_scores_in_bytes_are_parts_of_255(tmp_path):
    raw = np.uint8([[0, 51, 204]])
    contract = contract_of(
        tmp_path, "classify", SIZE, {"out": raw}, card="output: {activation: none}"
    )
    np.testing.assert_allclose(answer(contract, {"out": raw}).scores, [0, 0.2, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "fits"), [("[a, b, c]", True), ("[a, b]", False), ("[a, b, c, d]", False)]
)
def test_the_number_of_labels_of_a_classifier_is_checked(tmp_path, labels, fits):
    def made():
        return contract_of(
            tmp_path, "classify", SIZE, {"out": np.zeros((1, 3))}, card=f"labels: {labels}"
        )

    if fits:
        assert made().labels == ("a", "b", "c")
    else:
        with pytest.raises(ContractError, match="outputs have 3 classes, but its card has"):
            made()


@pytest.mark.parametrize(("labels", "classes"), [(1000, 1000), (1001, 1001)])
def test_labels_of_imagenet_may_name_the_background_or_not(tmp_path, labels, classes):
    (tmp_path / "names.txt").write_text("".join(f"name {i}\n" for i in range(labels)))
    raw = np.zeros((1, 1001), np.uint8)
    raw[0, 5] = 255
    contract = contract_of(
        tmp_path, "classify", SIZE, {"out": raw}, dtype="uint8", card="labels: names.txt"
    )
    found = answer(contract, {"out": raw}).scores
    assert (len(contract.labels), contract.classes, len(found)) == (labels, classes, classes)
    assert found.argmax() == 5 - (labels == 1000)


def test_an_embedding_has_length_one(tmp_path):
    raw = np.random.default_rng(2).normal(size=(2, 128)).astype(np.float32)
    contract = contract_of(tmp_path, "embed", SIZE, {"out": raw}, images=2)
    assert (contract.task, contract.labels) == ("embed", ())
    for i in range(2):
        length = math.sqrt(sum(value * value for value in raw[i].astype(float).tolist()))
        found = answer(contract, {"out": raw}, index=i, images=2)
        np.testing.assert_allclose(found.vector, raw[i] / length, rtol=1e-5)
    zeros = {"out": np.zeros((2, 128), np.float32)}
    assert not answer(contract, zeros, images=2).vector.any()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_map_has_the_best_class_of_each_cell(tmp_path, channels, last):
    raw = np.random.default_rng(channels).uniform(0, 1, (1, channels, 16, 24)).astype(np.float32)
    given = {"out": np.ascontiguousarray(raw.transpose(0, 2, 3, 1)) if last else raw}
    card = "output: {activation: none}"  # else one channel without a sigmoid is read as logits
    contract = contract_of(tmp_path, "semantic", SIZE, given, card=card)
    assert (contract.task, contract.classes) == ("semantic", max(2, channels))
    found = answer(contract, given).classes
    for y in range(16):
        for x in range(24):
            scores = raw[0, :, y, x].tolist()
            best = int(scores[0] > 0.5) if channels == 1 else scores.index(max(scores))
            assert found[y, x] == best


def test_a_map_of_classes_is_taken_as_it_is(tmp_path):
    raw = np.random.default_rng(5).integers(0, 7, (1, 32, 48))
    contract = contract_of(
        tmp_path,
        "generic",
        SIZE,
        {"out": raw},
        card="output: {outputs: {out: [class_map]}}\nlabels: [a, b, c, d, e, f, g]",
    )
    np.testing.assert_array_equal(answer(contract, {"out": raw}).classes, raw[0])


def test_a_map_over_a_letterboxed_image_is_without_its_padding(tmp_path):
    raw = np.zeros((1, 2, 16, 24), np.float32)
    raw[0, 1, :, 4:20] = 1
    contract = contract_of(
        tmp_path, "semantic", SIZE, {"out": raw}, card="input: {resize: letterbox}"
    )
    # An image of 128x128 is 64 wide in the middle of the input, cells 4 to 20.
    transform, _ = fit(128, 128, SIZE, "letterbox", "centre")
    found = answer(contract, {"out": raw}, transform).classes
    assert found.shape == (16, 16)
    assert found.all()


LOCALIZE = "output: {outputs: {box: [%s], scores: [scores]}, units: %s}\nlabels: [a, b, c]"


@pytest.mark.parametrize(
    ("columns", "units", "box"),
    [
        ("x1, y1, x2, y2", "fraction", [0.25, 0.5, 0.75, 1.0]),
        ("cx, cy, w, h", "fraction", [0.5, 0.75, 0.5, 0.5]),
        ("y1, x1, y2, x2", "pixels", [32, 24, 64, 72]),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
def test_a_localiser_gives_one_class_and_one_box(tmp_path, columns, units, box, images):
    outputs = {
        "box": np.float32([box] * images),
        "scores": np.float32([[0, 1, 2]] * (images - 1) + [[0, 3, 1]]),
    }
    contract = contract_of(
        tmp_path, "localize", SIZE, outputs, images=images, card=LOCALIZE % (columns, units)
    )
    assert (contract.task, contract.classes, contract.end_to_end) == ("localize", 3, True)
    found = answer(contract, outputs, index=images - 1, images=images)
    np.testing.assert_allclose(found.boxes, [[24, 32, 72, 64]])
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.scores, [softmax([0, 3, 1])[1]], rtol=1e-5)


def test_a_localiser_is_recognised_and_asks_for_its_coding(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 64, 96], {"box": (1, 4), "probs": (1, 9)})
    with pytest.raises(ContractError, match=r"read as localize, but output.outputs and output.u"):
        inspect(path)


def classifier(path, end, classes=12):
    """A classifier that ends in a matrix product and an operation."""
    weights = numpy_helper.from_array(np.zeros((3, classes), np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node(end, ["logits"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, classes])],
        [weights],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    return path


@pytest.mark.parametrize(("end", "activation"), [("Softmax", "none"), ("Identity", "softmax")])
def test_a_softmax_in_the_graph_is_not_applied_twice(tmp_path, end, activation):
    path = classifier(tmp_path / "m.onnx", end)
    card = tmp_path / "m.yaml"
    card.write_text("name: m\nfamily: classify\nweights: {file: m.onnx}\n")
    with pytest.raises(ContractError, match=r"read as classify, but input\.scale"):
        inspect(path)
    with card.open("a") as file:
        file.write(f"output: {{activation: {activation}}}\n")
    contract = inspect(path, load(card))
    raw = Runtime(contract, "cpu").run({"x": np.ones((1, 3, 32, 32), np.float32)})
    np.testing.assert_allclose(answer(contract, {"out": raw[0]}).scores, [1 / 12] * 12, rtol=1e-5)


@pytest.mark.parametrize(
    ("tasks", "family"), [(("classify",), "classify"), (("embed",), "embed"), ((), None)]
)
def test_the_stage_decides_between_a_classifier_and_an_embedding(tmp_path, tasks, family):
    path = save(tmp_path / "m.onnx", [1, 32, 32, 3], {"out": (1, 64)}, dtype="uint8")
    if family is None:
        with pytest.raises(ContractError, match=r"read as classify \(64 classes\) or embed"):
            inspect(path)
    else:
        assert inspect(path, tasks=tasks).family == family


def test_a_classifier_is_no_detector(tmp_path):
    contract_of(tmp_path, "classify", SIZE, {"out": np.zeros((1, 3))})
    card = tmp_path / "card.yaml"
    card.write_text(card.read_text() + "task: detect\n")
    with pytest.raises(CardError, match=r"found detect, the outputs .* are those of classify"):
        inspect(tmp_path / "m.onnx", load(card))


@pytest.mark.parametrize(
    ("size", "crop", "part"),
    [
        ((200, 100), 1.0, (50, 0, 100, 100)),
        ((100, 200), 1.0, (0, 50, 100, 100)),
        ((200, 100), 0.5, (75, 25, 50, 50)),
        ((1, 1), 1.0, (0, 0, 1, 1)),
        ((3, 500), 0.875, (0, 248, 3, 3)),
    ],
)
def test_a_crop_is_the_middle_of_the_image(size, crop, part):
    assert part_of(*size, (32, 32), crop) == part
    transform, rect = fit(*size, (32, 32), "crop", "centre", crop)
    assert rect == (0, 0, 32, 32)
    corners = np.float32([[part[0], part[1], part[0] + part[2], part[1] + part[3]]])
    np.testing.assert_allclose(transform.apply(corners), [[0, 0, 32, 32]], atol=1e-4)
