"""A detector is recognised by metadata, layers and operations; two readings are a question."""

import numpy as np
import onnx
import pytest

from models import onnx_header
from models.errors import ContractError
from models.families.recognise import survey
from models.inspect import inspect
from tests.models.builders import save

NAMES = {"names": "{0: 'hat', 1: 'glove'}"}
SIZE = [1, 3, 640, 640]
SIGMOID, EXP, NONE = ("Sigmoid",), ("Exp",), ()
LINEAR = ("linear",)
ROWS = 8400


def readings(path):
    """Return name, columns of the first output, units and questions of every reading."""
    return [
        (
            found.reading.name,
            next(iter(found.reading.layout.outputs.values())),
            found.reading.layout.units,
            set(found.reading.unsure),
        )
        for found in survey(onnx_header.read(path))
    ]


KNOWN = {
    "yolov8, columns": (
        {"o": (1, 84, ROWS)},
        {"o": [(64, ("Softmax",)), (80, SIGMOID)]},
        "yolov8",
    ),
    "yolov8, rows": ({"o": (1, ROWS, 84)}, {"o": [(64, EXP), (80, SIGMOID)]}, "yolov8"),
    "yolov8 of one class": ({"o": (1, 5, ROWS)}, {"o": [(64, EXP), (1, SIGMOID)]}, "yolov8"),
    "yolox": ({"o": (1, ROWS, 85)}, {"o": [(4, NONE), (1, SIGMOID), (80, SIGMOID)]}, "yolox"),
    "yolox, decoded": (
        {"o": (1, ROWS, 85)},
        {"o": [(4, EXP), (1, SIGMOID), (80, SIGMOID)]},
        "yolox_decoded",
    ),
    "yolov6": ({"o": (1, ROWS, 85)}, {"o": [(4, EXP), (80, SIGMOID)]}, "yolov6"),
    "yolov5": ({"o": (1, 3 * ROWS, 85)}, {"o": [(255, SIGMOID)]}, "yolov5"),
    "yolov5 of open size": ({"o": (1, "n", 85)}, {"o": [(255, SIGMOID)]}, "yolov5"),
    "queries": (
        {"o": (1, 300, 84)},
        {"o": [(4, (*LINEAR, "Sigmoid")), (80, (*LINEAR, "Sigmoid"))]},
        "rtdetr_ultralytics",
    ),
}


@pytest.mark.parametrize(("outputs", "layers", "name"), KNOWN.values(), ids=KNOWN)
def test_a_kind_is_recognised_by_the_layers_of_its_outputs(tmp_path, outputs, layers, name):
    path = save(tmp_path / "m.onnx", SIZE, outputs, layers=layers)
    assert [reading[0] for reading in readings(path)] == [name]


@pytest.mark.parametrize(("outputs", "layers", "name"), KNOWN.values(), ids=KNOWN)
def test_the_name_of_the_producer_does_not_matter(tmp_path, outputs, layers, name):
    path = save(tmp_path / "m.onnx", SIZE, outputs, layers=layers)
    before = readings(path)
    model = onnx.load(path)
    for producer in ("pytorch", "keras2onnx", "paddle", ""):
        model.producer_name = producer
        model.doc_string = producer
        onnx.save(model, path)
        assert readings(path) == before


@pytest.mark.parametrize(
    ("outputs", "layers", "names"),
    [
        ({"o": (1, ROWS, 85)}, {}, ["yolov8", "yolox"]),
        ({"o": (1, 37, ROWS)}, {"o": [(64, EXP), (1, SIGMOID), (32, NONE)]}, ["yolov8", "yolov8"]),
        ({"a": (1, 84, ROWS), "b": (1, 84, ROWS)}, {}, ["yolov8", "yolov8"]),
        (
            {"boxes": (1, 300, 4), "logits": (1, 300, 91)},
            {"boxes": [(4, LINEAR)], "logits": [(91, LINEAR)]},
            ["rf_detr", "detr_softmax"],
        ),
    ],
    ids=["objectness or not", "keypoints or classes", "two alike", "sigmoid or softmax"],
)
def test_two_readings_are_named_and_refused(tmp_path, outputs, layers, names):
    path = save(tmp_path / "m.onnx", SIZE, outputs, layers=layers)
    assert [reading[0] for reading in readings(path)] == names
    with pytest.raises(ContractError, match=f"read as {names[0]} .*, or as {names[1]} .*; choose"):
        inspect(path)


def test_the_last_of_other_numbers_are_left_out_by_the_second_reading(tmp_path):
    layers = {"o": [(64, EXP), (1, SIGMOID), (32, NONE)]}
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 37, ROWS)}, layers=layers)
    assert readings(path)[1][1] == ("cx", "cy", "w", "h", "scores", "rest")


@pytest.mark.parametrize(("numbers", "points"), [(51, 17), (15, 5)])
def test_a_pose_is_seen_by_its_layers(tmp_path, numbers, points):
    layers = {"o": [(64, EXP), (1, SIGMOID), (numbers, NONE)]}
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 5 + numbers, ROWS)}, layers=layers)
    (found,) = survey(onnx_header.read(path))
    assert found.guess.preset == "yolov8_pose"
    assert found.reading.layout.keypoints.count == points
    assert found.reading.classes == 1


def test_a_rotated_box_is_seen_by_the_turn_of_its_angle(tmp_path):
    layers = {"o": [(64, EXP), (3, SIGMOID), (1, ("Sin", "Cos"))]}
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 8, ROWS)}, layers=layers)
    (found,) = survey(onnx_header.read(path))
    assert (found.guess.preset, found.reading.classes) == ("yolov8_obb", 3)


@pytest.mark.parametrize("classes", [1, 80])
def test_masks_are_seen_by_their_prototypes(tmp_path, classes):
    layers = {"o": [(64, EXP), (classes, SIGMOID), (32, NONE)]}
    outputs = {"o": (1, 36 + classes, ROWS), "p": (1, 32, 160, 160)}
    (found,) = survey(onnx_header.read(save(tmp_path / "m.onnx", SIZE, outputs, layers=layers)))
    assert (found.guess.preset, found.reading.classes) == ("yolov8_seg", classes)


def test_the_second_map_of_deeplab_is_left_out(tmp_path):
    shape = (1, 21, 640, 640)
    path = save(tmp_path / "m.onnx", SIZE, {"aux": shape, "out": shape}, dtype="uint8")
    found = inspect(path)
    assert (found.task, found.classes) == ("semantic", 21)
    assert [tensor.name for tensor in found.outputs] == ["out"]


@pytest.mark.parametrize(
    ("outputs", "name", "questions"),
    [
        ({"o": (1, 300, 6)}, "end_to_end", {"input.scale", "output.outputs"}),
        ({"o": ("n", 7)}, None, None),
        ({"o": (1, 1, 100, 7)}, "detection_output", {"input.scale"}),
        ({"dets": (1, 100, 5), "labels": (1, 100)}, "mmdeploy", {"input.scale"}),
        (
            {"detection_boxes": (1, 9, 4), "detection_classes": (1, 9)}
            | {"detection_scores": (1, 9), "num_detections": (1,)},
            "tf_api",
            {"input.scale"},
        ),
        (
            {"num_dets": (1, 1), "det_boxes": (1, 9, 4)}
            | {"det_scores": (1, 9), "det_classes": (1, 9)},
            "tensorrt_nms",
            {"input.scale"},
        ),
    ],
)
def test_what_the_file_does_not_show_is_a_question(tmp_path, outputs, name, questions):
    path = save(tmp_path / "m.onnx", SIZE, outputs)
    found = readings(path)
    assert [reading[0] for reading in found] == ([] if name is None else [name])
    if name is not None:
        assert found[0][3] == questions
        with pytest.raises(ContractError, match=r"not in the file \(.*complete a card"):
            inspect(path)


def test_metadata_answers_the_question_of_the_scale(tmp_path):
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 300, 6)}, metadata=NAMES | {"stride": "32"})
    (found,) = readings(path)
    assert (found[0], found[3]) == ("end_to_end", set())


def test_rt_detr_of_ultralytics_is_recognised_by_its_head(tmp_path):
    names = {"names": "['hat', 'glove', 'coat']"}
    metadata = names | {"head": "RTDETRDecoder", "imgsz": "[640, 640]"}
    for shape, columns in (
        ((1, 300, 6), ("cx", "cy", "w", "h", "score", "class")),
        (("batch", "n", 7), ("cx", "cy", "w", "h", "scores")),
    ):
        size = SIZE if shape[0] == 1 else ["batch", 3, "h", "w"]
        path = save(tmp_path / "m.onnx", size, {"o": shape}, metadata=metadata)
        (found,) = readings(path)
        assert (found[1], found[2]) == (columns, "fraction")
        assert inspect(path).input.resize == "stretch"


def test_six_columns_of_rt_detr_with_two_classes_are_a_question(tmp_path):
    metadata = NAMES | {"head": "RTDETRDecoder"}
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 300, 6)}, metadata=metadata)
    with pytest.raises(ContractError, match=r"\(score and class\), or as .* \(two scores\)"):
        inspect(path)


def test_channels_reversed_in_the_graph_change_the_colour(tmp_path):
    path = save(tmp_path / "m.onnx", SIZE, {"o": (1, 6, ROWS)}, metadata=NAMES)
    assert inspect(path).input.colour == "rgb"
    model = onnx.load(path)
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    model.graph.initializer.append(order)
    node = onnx.helper.make_node("Gather", ["images", "order"], ["reversed"], axis=1)
    model.graph.node.insert(0, node)
    onnx.save(model, path)
    assert inspect(path).input.colour == "bgr"


def test_grids_without_names_are_matched_by_their_widths(tmp_path):
    # The exporter of SCRFD numbers its outputs.
    sides = {8: 12800, 16: 3200, 32: 800}
    outputs = {f"{w}{stride}": (rows, w) for w in (1, 4, 10) for stride, rows in sides.items()}
    numbered = {str(440 + i): shape for i, shape in enumerate(outputs.values())}
    (found,) = survey(onnx_header.read(save(tmp_path / "m.onnx", SIZE, numbered)))
    assert found.guess.preset == "scrfd"
    assert found.guess.outputs["440"] == ("scores",)
    assert found.guess.outputs["445"] == ("left", "top", "right", "bottom")
    assert found.guess.outputs["448"] == ("keypoints",)
