"""Any bytes of a model or a card give a contract, or are refused in one line."""

import os

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import card, zoo
from models.contract import Contract
from models.errors import ContractError, ModelError
from models.inspect import inspect
from tests.models.builders import save, ssd_layers
from tests.models.test_onnx_graph import field

METADATA = {"names": "{0: 'a', 1: 'b'}", "imgsz": "[64, 64]", "task": "detect", "license": "MIT"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small detector with metadata, as bytes."""
    folder = tmp_path_factory.mktemp("good")
    path = save(folder / "m.onnx", [1, 3, "h", "w"], {"output0": (1, 6, 84)}, metadata=METADATA)
    inspect(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "m.onnx"


def answer(path):
    """The description of a model, or why it is refused; both safe on a terminal."""
    try:
        found = zoo.resolve(str(path))
    except ModelError as error:
        lines = [str(error)]
    else:
        assert isinstance(found, Contract)
        lines = found.describe().splitlines()
        assert all(label.isprintable() and len(label) <= 300 for label in found.labels)
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 310 for line in lines)
    return "\n".join(lines)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line_or_described(place, data):
    place.write_bytes(data)
    answer(place)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_model_with_changed_bytes_is_refused_or_described(place, good, data):
    changed = bytearray(good)
    for at in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=8)):
        changed[at] = data.draw(st.integers(0, 255))
    place.write_bytes(changed)
    answer(place)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_model_with_a_part_missing_or_repeated_is_refused_or_described(place, good, data):
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    place.write_bytes(good[:begin] + good[end:])
    answer(place)
    place.write_bytes(good[:end] + good[begin:])
    answer(place)


def messages(deeper):
    """Protobuf messages with the field numbers of ONNX and values of any kind."""
    number = st.integers(1, 15)
    value = st.one_of(st.binary(max_size=9), deeper)
    return st.lists(st.builds(field, number, value), max_size=5).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.binary(max_size=4), messages, max_leaves=40))
def test_any_message_in_place_of_a_graph_is_refused_or_described(place, data):
    place.write_bytes(field(7, data))
    answer(place)


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(max_size=60), key=st.sampled_from(["names", "imgsz", "task", "license", "end2end"])
)
def test_any_metadata_is_refused_or_described(place, good, text, key):
    entry = field(1, key.encode()) + field(2, text.encode("utf-8", "surrogatepass"))
    place.write_bytes(good + field(14, entry))
    answer(place)


def changed(good, change):
    model = onnx.load_from_string(good)
    change(model)
    return model.SerializeToString()


def clear(model, side):
    getattr(model.graph, side)[0].ClearField("name")


def sides(model, *values):
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for value in values:
        shape.dim.add(dim_value=value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: clear(m, "input"), "an input or output without a name"),
        (lambda m: clear(m, "output"), "an input or output without a name"),
        (lambda m: m.graph.ClearField("input"), "no inputs"),
        (lambda m: m.graph.ClearField("output"), "no outputs"),
        (lambda m: m.ClearField("graph"), "no graph"),
        (lambda m: sides(m, 1, 3, -5, -5), "64x64"),
        (lambda m: sides(m, 1 << 62, 3, 64, 64), "export it with batch 1"),
        (lambda m: sides(m, *[3] * 5000), "no input takes colour images"),
        (lambda m: m.graph.input[0].ClearField("type"), "no input takes colour images"),
        (lambda m: m.graph.output[0].ClearField("type"), "no family can read the outputs"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77),
            "export the model with uint8, int32, float32 or float16",
        ),
        (lambda m: m.graph.output.extend([m.graph.output[0]] * 5000), "found images"),
        (lambda m: m.metadata_props[1].ClearField("key"), "the size of the input is open"),
        (lambda m: m.metadata_props[0].ClearField("value"), "choose in a card"),
    ],
)
def test_a_header_with_a_part_missing_or_wrong_is_refused_or_read(place, good, change, complaint):
    place.write_bytes(changed(good, change))
    assert complaint in answer(place)


@pytest.mark.parametrize("side", [16385, 1 << 40, (1 << 63) - 1])
def test_an_input_larger_than_the_limit_is_refused(tmp_path, side):
    outputs = {"boxes": (1, 9, 4), "scores": (1, 9, 2)}
    path = save(tmp_path / "m.onnx", [1, side, 64, 3], outputs, dtype="uint8", layers=ssd_layers(2))
    with pytest.raises(
        ContractError, match=f"found 64x{side}.; export the model with sides of 1 to 16384 pixels"
    ):
        inspect(path)
    size = {"imgsz": f"[{side}, 64]"}
    save(path, [1, "h", "w", 3], outputs, dtype="uint8", metadata=size, layers=ssd_layers(2))
    with pytest.raises(
        ContractError, match=r"sides of 1 to 16384 pixels|the size of the input is open"
    ):
        inspect(path)


@pytest.mark.parametrize(
    ("tail", "complaint"),
    [
        (field(14, field(2, b"ab")), ""),  # an entry without a key
        (field(14, b""), ""),
        (field(14, field(1, b"author") + field(2, b"\xff\xfe")), "not UTF-8"),
        (field(14, field(1, b"author") + field(2, b"x" * 5_000_000)), ""),
        (b"\x00" * 64, "a field without a number"),
        (b"\x73\x74", "unknown wire type 3"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than 64 bits"),
        (b"\x42\xff\xff\xff\xff\x0f", "(truncated)"),
        (b"\x38\x01", "two graphs"),
        (b"\x72\x02\x08\x01", "a number in place of a message"),
        (field(25, field(1, b"f") + field(7, b"\x0a")), "(truncated)"),
    ],
    ids=lambda value: str(value[:9]),
)
def test_a_model_with_further_fields_at_its_end_is_read_or_refused(place, good, tail, complaint):
    place.write_bytes(good + tail)
    found = answer(place)
    assert complaint in found if complaint else "yolov8" in found


def test_a_file_of_zeros_is_refused_at_its_first_byte(place):
    place.write_bytes(b"")
    os.truncate(place, 150_000_000)
    assert "a field without a number" in answer(place)
    place.unlink()


def test_text_of_a_file_is_described_without_control_characters(tmp_path):
    escape = "\x1b[2J\x1b]0;x\x07\n\u202e"
    metadata = {"names": repr({0: escape, 1: "b" * 999}), "license": escape + "x" * 9999}
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)}, metadata=metadata)
    model = onnx.load(path)
    model.graph.input[0].name = escape + "y" * 9999
    model.producer_name = escape
    path.write_bytes(model.SerializeToString())
    found = inspect(path)
    assert found.labels[0] == "?[2J?]0;x? ?"
    assert len(found.labels[1]) == 300
    assert (
        found.input.name == model.graph.input[0].name
    )  # unchanged, because onnxruntime is called with it
    assert len(found.describe().splitlines()) == 11
    answer(path)


def test_a_message_about_a_hostile_name_is_one_short_line(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"\x1b[2J" + "z" * 9999: (1, 2, 3)})
    with pytest.raises(ContractError, match="no family can read the outputs") as caught:
        inspect(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


# --- cards ---


@settings(max_examples=120, deadline=None)
@given(st.text("abc:{}[]&*<'\"-!?|>%@`#,.0123456789 \n\t\x00\x1b\u2028", max_size=200))
def test_any_text_in_place_of_a_card_is_refused_in_one_line(place, text):
    path = place.with_suffix(".yaml")
    path.write_text(text)
    with pytest.raises(ModelError) as caught:
        card.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


GOOD = "name: m\nfamily: ssd\nweights: {file: m.onnx}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("input: {scale: .inf}", "input.scale"),
        ("input: {scale: .nan}", "input.scale"),
        ("input: {scale: 1e-300}", "input.scale"),
        ("input: {mean: [.nan, 0, 0]}", "input.mean"),
        ("input: {mean: [0, -.inf, 0]}", "input.mean"),
        ("input: {std: [.nan, 1, 1]}", "input.std"),
        ("input: {std: [1, 1, 1.0e-30]}", "input.std"),
        ("thresholds: {score: .nan}", "thresholds.score"),
        ("thresholds: {iou: .nan}", "thresholds.iou"),
        ("input: {scale: 2020-13-45}", r"input.scale"),
        ("input: {scale: !!timestamp 2020-13-45}", "not YAML"),
        ("input: {scale: !!int x}", "not YAML"),
        ("input: {scale: !!float x}", "not YAML"),
        ("input: {scale: -0x_}", r"input.scale"),
        ("input: {scale: !!int 0x}", "not YAML"),
        ("input: {size: [12:30, 9]}", r"input.size"),
        ("input: {size: [1_000, 9]}", r"input.size"),
        ("input: {scale: " + "9" * 5000 + "}", "not YAML"),
        ("input: {scale: !!timestamp x}", "not YAML"),
        ("input: {scale: !!binary \u00e9}", "not YAML"),
        ("input: {? [a] : 1}", "not YAML"),
        ("input: " + "[" * 900 + "]" * 900, "input"),
        ("input: " + "[" * 90_000 + "]" * 90_000, "not YAML"),
        ("labels: [" + "x" * 301 + "]", "labels"),
        ("licence: x", "licence: unknown key"),
        ("x: &a [1]\ny: *a", "are not allowed in a card"),
        ("a: &a {k: 1}\nb: {<<: [*a, *a]}", "are not allowed in a card"),
        ("# " + "x" * (1 << 20), "too large"),
    ],
    ids=lambda text: text[:25],
)
def test_a_card_with_a_value_out_of_bounds_is_refused_in_one_line(tmp_path, text, complaint):
    path = tmp_path / "m.yaml"
    path.write_text(GOOD + text)
    with pytest.raises(ModelError, match=complaint) as caught:
        card.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_a_card_with_a_huge_name_is_refused(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(GOOD.replace("name: m", "name: " + "m" * 101))
    with pytest.raises(ModelError, match=r"name"):
        card.load(path)


def test_plain_values_of_a_card_are_those_of_yaml_1_2(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        GOOD
        + "labels: [no, yes, on, 12:30, 2020-01-01, x_1]\n"
        + "input: {size: [0640, 0x1E0], scale: 1e-3, pad: 0o162, mean: [+1, .5, 1.], colour: ~}\n"
    )
    found = card.load(path)
    assert found.labels == ("no", "yes", "on", "12:30", "2020-01-01", "x_1")
    assert (found.input.size, found.input.scale, found.input.pad) == ((640, 480), 0.001, 114)
    assert (found.input.mean, found.input.colour) == ((1, 0.5, 1), None)


def test_labels_of_a_card_are_shown_without_control_characters(tmp_path):
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    path = tmp_path / "m.yaml"
    path.write_text(
        'name: m\nfamily: yolov8\nweights: {file: m.onnx}\nlabels: ["\\e[2Ja", "b\\u202e"]\n'
    )
    assert zoo.resolve(str(path)).labels == ("?[2Ja", "b?")
