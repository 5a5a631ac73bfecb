"""The contract of a model is derived from its file, or refused in one line with the remedy."""

import sys

import pytest

from models.card import load
from models.errors import CardError, ContractError, ModelError
from models.inspect import inspect
from tests.models.builders import save, ssd_layers, yolox_layers

NAMES = {"names": "{0: 'hat', 1: 'glove'}", "task": "detect"}


def card(folder, text):
    (folder / "card.yaml").write_text(f"name: m\nweights: {{file: m.onnx}}\n{text}")
    return load(folder / "card.yaml")


# --- files that fit ---


def test_yolox_is_recognised_by_the_cells_of_its_grids(tmp_path):
    path = save(
        tmp_path / "m.onnx", [1, 3, 416, 416], {"output": (1, 3549, 85)}, layers=yolox_layers()
    )
    found = inspect(path)
    assert (found.family, found.classes, found.batch) == ("yolox", 80, 1)
    assert (found.input.colour, found.input.scale, found.input.anchor) == ("bgr", 1, "top_left")
    assert found.labels[:2] == ("person", "bicycle")


def test_a_yolox_that_is_wider_than_high_is_recognised(tmp_path):
    cells = 80 * 40 + 40 * 20 + 20 * 10
    path = save(
        tmp_path / "m.onnx", [1, 3, 320, 640], {"output": (1, cells, 7)}, layers=yolox_layers(2)
    )
    assert inspect(path).input.size == (640, 320)
    assert inspect(path).labels == ()


def test_yolov8_with_metadata_has_its_own_labels(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 6, 8400)}, metadata=NAMES)
    found = inspect(path)
    assert (found.family, found.labels) == ("yolov8", ("hat", "glove"))
    assert (found.input.colour, found.input.anchor) == ("rgb", "centre")
    assert found.input.scale == pytest.approx(1 / 255)


def test_yolov8_without_metadata_is_recognised(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 84, 8400)})
    assert (inspect(path).family, inspect(path).classes) == ("yolov8", 80)


def test_yolov8_of_open_size_has_the_size_in_its_metadata(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        ["batch", 3, "height", "width"],
        {"output0": ("batch", 6, "anchors")},
        metadata=NAMES | {"imgsz": "[384, 640]"},
    )
    found = inspect(path)
    assert (found.input.size, found.batch) == ((640, 384), None)
    assert found.input.shape == (1, 3, 384, 640)


def test_ssd_with_uint8_pixels_is_recognised(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [1, 300, 300, 3],
        {"scores": (1, 99, 2), "boxes": (1, 99, 4)},
        dtype="uint8",
        layers=ssd_layers(2),
    )
    found = inspect(path)
    assert (found.family, found.classes) == ("ssd", 2)
    assert [output.name for output in found.outputs] == ["boxes", "scores"]
    assert (found.input.layout, found.input.resize, found.input.dtype) == (
        "nhwc",
        "stretch",
        "uint8",
    )


def test_ssd_with_four_classes_is_recognised_by_the_names(tmp_path):
    outputs = {"scores": (1, 99, 4), "boxes": (1, 99, 4)}
    path = save(tmp_path / "m.onnx", [1, 300, 300, 3], outputs, dtype="uint8", layers=ssd_layers(4))
    assert [output.name for output in inspect(path).outputs] == ["boxes", "scores"]


def test_a_graph_that_normalises_pixels_gets_them_unscaled(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 84, 8400)}, ops=["Mul"])
    assert inspect(path).input.scale == 1


def test_yolov5_is_recognised_by_three_anchors_per_cell(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output": (1, 25200, 85)})
    assert (inspect(path).family, inspect(path).classes) == ("yolov5", 80)


def test_finished_rows_are_recognised_as_end_to_end(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [1, 3, 640, 640],
        {"output0": (1, 300, 6)},
        metadata=NAMES | {"end2end": "True"},
    )
    found = inspect(path)
    assert (found.family, found.end_to_end, found.classes) == ("end_to_end", True, 2)


def test_rt_detr_has_a_second_input_for_the_size(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [1, 3, 320, 320],
        {"scores": (1, 9), "labels": (1, 9), "boxes": (1, 9, 4)},
        more_inputs={"orig_target_sizes": (1, 2)},
    )
    found = inspect(path)
    assert (found.family, found.end_to_end, found.input.resize) == ("detr", True, "stretch")
    [sizes] = found.constants
    assert (sizes.name, sizes.shape, sizes.values) == ("orig_target_sizes", (2,), (320, 320))
    assert found.layout.outputs["labels"] == ("class",)


def test_ssd_with_suppression_in_the_graph_is_end_to_end(tmp_path):
    outputs = {"a": (1, 10, 4), "b": (1, 10), "c": (1, 10), "d": (1,)}
    path = save(tmp_path / "m.onnx", [1, 300, 300, 3], outputs, dtype="uint8")
    assert (inspect(path).family, inspect(path).end_to_end) == ("ssd_nms", True)


def test_finished_rows_of_two_classes_are_not_read_as_yolov8_rows(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"o": (1, 300, 6)}, metadata=NAMES)
    assert inspect(path).family == "end_to_end"


def test_a_float16_input_is_accepted(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 84, 8400)}, dtype="float16")
    assert inspect(path).input.dtype == "float16"


def test_uint8_pixels_are_unscaled_in_every_family(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 640, 640, 3], {"output0": (1, 84, 8400)}, dtype="uint8")
    assert (inspect(path).family, inspect(path).input.scale) == ("yolov8", 1)


def test_inspect_works_without_a_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    inspect(
        save(
            tmp_path / "m.onnx", [1, 3, 416, 416], {"output": (1, 3549, 85)}, layers=yolox_layers()
        )
    )


def test_describe_shows_family_input_and_labels(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 6, 8400)}, metadata=NAMES)
    text = inspect(path).describe()
    for part in ("yolov8", "640x640", "letterbox (centre, 114)", "rgb", "2: hat, glove"):
        assert part in text
    assert "limits   not stated" in text


def test_describe_shows_the_thresholds_of_the_card(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"output0": (1, 6, 8400)}, metadata=NAMES)
    given = card(tmp_path, "family: yolov8\nthresholds: {score: 0.35}")
    assert "limits   score 0.35\n" in inspect(path, given).describe()


POSE = {"task": "pose", "kpt_shape": "[17, 3]"}
MASKS = {"output0": (1, 6 + 32, 8400), "output1": (1, 32, 160, 160)}


@pytest.mark.parametrize(
    ("metadata", "outputs", "task", "columns", "more"),
    [
        (POSE, {"output0": (1, 6 + 51, 8400)}, "keypoints", ("scores", "keypoints"), "keypoints"),
        ({"task": "segment"}, MASKS, "segment", ("scores", "coefficients"), "masks"),
        (
            {"task": "obb"},
            {"output0": (1, 6 + 1, 8400)},
            "oriented",
            ("scores", "angle"),
            "rotated boxes",
        ),
    ],
    ids=["pose", "segment", "obb"],
)
def test_a_model_with_more_than_boxes_gives_it_or_boxes_alone(
    tmp_path, metadata, outputs, task, columns, more
):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], outputs, metadata=NAMES | metadata)
    found = inspect(path)
    assert (found.task, found.classes, found.labels) == (task, 2, ("hat", "glove"))
    assert found.layout.outputs["output0"] == ("cx", "cy", "w", "h", *columns)
    plain = inspect(path, card(tmp_path, f"family: {found.family}\ntask: detect"))
    assert plain.task == "detect"
    assert f"note     gives {more} too, which are not used" in plain.describe()
    with pytest.raises(CardError, match=f"found classify, the outputs .* are those of {task}"):
        inspect(path, card(tmp_path, f"family: {found.family}\ntask: classify"))


@pytest.mark.parametrize(
    ("between", "activation"), [(("Sigmoid",), "none"), ((), "sigmoid"), (("Relu",), "sigmoid")]
)
def test_scores_without_a_sigmoid_in_the_graph_get_one(tmp_path, between, activation):
    layers = {"output0": [(64, ("Softmax",)), (2, between)]}
    shape = {"output0": (1, 6, 8400)}
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], shape, metadata=NAMES, layers=layers)
    assert inspect(path).layout.activation == activation


def test_a_model_of_dynamic_int8_is_described_as_slow(tmp_path):
    shape = {"output0": (1, 6, 8400)}
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], shape, metadata=NAMES, ops=["ConvInteger"])
    assert "slower than its float original" in inspect(path).describe()


def test_a_model_of_a_fixed_batch_is_accepted(tmp_path):
    path = save(tmp_path / "m.onnx", [4, 3, 640, 640], {"output0": (4, 84, 8400)})
    assert inspect(path).batch == 4


# --- files that are refused ---

SOFTMAX = {"ops": ["Softmax"]}


@pytest.mark.parametrize(
    ("shape", "outputs", "more", "complaint"),
    [
        pytest.param(
            [1, 3, 224, 224],
            {"logits": (1, 1000)},
            {},
            "read as classify, but input.scale is not in the file",
            id="a classifier",
        ),
        pytest.param(
            [1, 3, 640, 640],
            {"output0": (1, 116, 8400)},
            {"metadata": {"task": "depth"}},
            r"no family for the task in its metadata \(found depth\); use .* detect or",
            id="another task",
        ),
        pytest.param(
            [1, 3, 640, 640],
            {"out": (1, 8400, 84)},
            SOFTMAX,
            r"read as yolov8 \(80 classes\), or as yolox \(79 classes and objectness\); choose in",
            id="two readings",
        ),
        pytest.param(
            [1, 3, 300, 300],
            {"boxes": (1, 99, 4), "scores": (1, 99, 2)},
            {"layers": ssd_layers(2)},
            r"read as ssd, but input\.scale is not in the file \(float pixels may be 0 to 1, scale",
            id="pixels of unknown range",
        ),
        pytest.param(
            [1, 3, "h", "w"],
            {"output0": (1, 84, "n")},
            {"ops": ["Exp"]},
            r"size of the input is open .* input: \{size: \.\.\.\}",
            id="open size",
        ),
        pytest.param(
            [1, 1, 640, 640],
            {"output0": (1, 84, 8400)},
            {},
            r"no input takes colour images, .* \(found images float32\[1,1,640,640\]",
            id="grey images",
        ),
        pytest.param(
            [1, 3, 640, 640],
            {"output0": (1, 85, 8400)},
            {"metadata": NAMES},
            r"no family can read the outputs .* output0 float32\[1,85,8400\]",
            id="labels and outputs differ",
        ),
        pytest.param(
            [1, 3, 640, 640],
            {"pred_logits": (1, 300, 91), "pred_boxes": (1, 300, 4)},
            {},
            r"rf_detr \(sigmoid, 91 classes\), or as detr_softmax \(softmax, 90 classes and no",
            id="logits of two kinds",
        ),
        pytest.param(
            [1, 3, 416, 416],
            {"output": (1, 3549, 85)},
            {"more_inputs": {"im_shape": (1, 2)}, "layers": yolox_layers()},
            r"no value for a further input \(found im_shape int64\[1,2\]\); set it in a card",
            id="a further input",
        ),
        pytest.param(
            [1, 512, 512, 3],
            {"detections": (1, 100, 6)},
            {},
            r"read as end_to_end, but input\.scale and output\.outputs are not in the file",
            id="finished rows from pixels of unknown range",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path, shape, outputs, more, complaint
):
    path = save(tmp_path / "m.onnx", shape, outputs, **more)
    with pytest.raises(ModelError, match=complaint) as caught:
        inspect(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# --- with a card ---


def test_a_card_chooses_between_two_readings(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 640, 640], {"out": (1, 8400, 84)}, ops=["Softmax"])
    found = inspect(path, card(tmp_path, "family: yolov8"))
    assert (found.family, found.classes, found.labels[0]) == ("yolov8", 80, "person")


def test_a_card_sets_what_the_file_leaves_open(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, "h", "w"], {"output0": (1, 84, "n")}, ops=["Exp"])
    found = inspect(path, card(tmp_path, "family: yolov8\ninput: {size: [320, 256]}"))
    assert found.input.shape == (1, 3, 256, 320)


def test_keys_that_a_card_leaves_out_have_the_default_of_the_family(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 416, 416], {"output": (1, 3549, 7)})
    found = inspect(path, card(tmp_path, "family: yolox\ninput: {pad: 0}\nlabels: [a, b]"))
    assert (found.input.pad, found.input.colour, found.labels) == (0, "bgr", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        (
            "family: ssd",
            ContractError,
            r"not those of family ssd .*, expected x1 y1 x2 y2; scores\)",
        ),
        (
            "family: yolo",
            CardError,
            r"\(found 'yolo'\); did you mean 'yolox'\?; known families: generic, ",
        ),
        (
            "family: yolox\ntask: classify",
            CardError,
            r"does not match its outputs \(found classify, .* yolox .* of detect\)",
        ),
        (
            "family: yolox\nlabels: [a]",
            ContractError,
            "outputs have 80 classes, but its card has 1 labels",
        ),
        ("family: yolox\ninput: {size: [640, 640]}", ContractError, "takes 416x416 only"),
        ("family: yolox\ninput: {layout: nhwc}", ContractError, "nhwc, the file has nchw"),
        ("family: yolox\ninput: {dtype: uint8}", ContractError, "uint8, the file has float32"),
        (
            "family: yolox\nlabels: coco81",
            CardError,
            r"unknown label set \(found 'coco81'\); known sets: coco80",
        ),
    ],
    ids=["family", "unknown family", "task", "labels", "size", "layout", "dtype", "label set"],
)
def test_a_card_that_does_not_match_its_file_is_refused(tmp_path, text, error, complaint):
    path = save(tmp_path / "m.onnx", [1, 3, 416, 416], {"output": (1, 3549, 85)})
    with pytest.raises(error, match=complaint):
        inspect(path, card(tmp_path, text))


def test_a_scale_for_uint8_pixels_is_refused(tmp_path):
    outputs = {"boxes": (1, 99, 4), "scores": (1, 99, 2)}
    path = save(tmp_path / "m.onnx", [1, 300, 300, 3], outputs, dtype="uint8")
    with pytest.raises(
        ContractError, match=r"input\.scale of its card has no use, because .* uint8"
    ):
        inspect(path, card(tmp_path, "family: ssd\ninput: {scale: 0.5}"))
