"""The detector finds what is in the picture, with whatever model it is given."""

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

import stages.inference.detector
from models import runtime
from models.contract import inspect
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context
from stages.inference.detector import Detector, DetectorSettings
from stages.inference.preprocess import Preprocess
from stages.thresholds import Suppression
from tests.models.builders import save

CLIP = Path(__file__).parents[2] / "clips" / "demo.mp4"


def make(model, *offers, behind=None, confidence=None):
    """Preprocess and an open detector for a model."""
    settings = DetectorSettings(model=str(model), device="cpu")
    made = (*offers, *Detector.resolve(settings).offers)
    context = Context(
        offers=made, offers_behind=made if behind is None else behind, confidence=confidence
    )
    detector = Detector(settings, context)
    detector.open()
    return Preprocess(Preprocess.Settings(), context), detector


@pytest.fixture(scope="module")
def embedded():
    preprocess, detector = make("ssdlite_mobilenet_v2", Suppression(0.4))
    yield preprocess, detector
    detector.close()


@pytest.fixture(scope="module")
def street():
    """The first picture of the demonstration."""
    capture = cv2.VideoCapture(str(CLIP))
    good, picture = capture.read()
    assert good, f"{CLIP} cannot be read"
    return picture


def run(stages, image):
    frame = Frame.of(image=image)
    for stage in stages:
        stage.process(frame)
    return frame


def overlap(boxes, x1, y1, x2, y2):
    """IoU of each box with one."""
    low = np.maximum(boxes[:, :2], (x1, y1))
    high = np.minimum(boxes[:, 2:], (x2, y2))
    both = np.clip(high - low, 0, None).prod(axis=1)
    return both / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (x2 - x1) * (y2 - y1) - both)


# Where the people of the first picture stand, in pixels: drawn by hand.
PEOPLE = [(253, 220, 287, 315), (500, 157, 528, 229), (639, 239, 682, 324)]


def assert_finds_people(frame, scale=(1.0, 1.0)):
    people = frame["boxes"][(frame["classes"] == 0) & (frame["scores"] > 0.8)]
    people = people / np.array([*scale, *scale])
    for person in PEOPLE:
        assert overlap(people, *person).max() > 0.6
    # And nowhere else.
    assert (np.max([overlap(people, *person) for person in PEOPLE], axis=0) > 0.4).all()


def test_the_embedded_model_finds_people(embedded, street):
    assert_finds_people(run(embedded, street))


@pytest.mark.parametrize("size", [(1537, 1153), (384, 288), (4097, 577)])
def test_boxes_are_in_pixels_of_the_captured_picture(embedded, street, size):
    frame = run(embedded, cv2.resize(street, size))
    assert_finds_people(frame, scale=(size[0] / 768, size[1] / 576))


def test_an_empty_wall_shows_nothing(embedded):
    frame = run(embedded, np.full((576, 768, 3), 128, np.uint8))
    assert frame["boxes"].shape == (0, 4)
    assert frame["scores"].shape == frame["classes"].shape == (0,)


def test_dtypes(embedded, street):
    frame = run(embedded, street)
    kinds = [frame[name].dtype for name in ("boxes", "scores", "classes")]
    assert kinds == [np.float32, np.float32, np.int32]


def test_the_same_picture_gives_the_same_answer(embedded, street):
    first, second = run(embedded, street), run(embedded, street)
    np.testing.assert_array_equal(first["boxes"], second["boxes"])
    np.testing.assert_array_equal(first["scores"], second["scores"])


def test_it_says_what_it_runs_on(embedded):
    assert embedded[1].info() == {"provider": "CPUExecutionProvider"}


def scores_of(stages):
    return run(stages, np.zeros((64, 64, 3), np.uint8))["scores"].tolist()


def test_candidates_below_what_nms_asks_for_are_left_out(tmp_path):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :3] = 0.03, 0.0625, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    assert scores_of(make(path)) == [0.0625, 0.75]
    assert scores_of(make(path, Suppression(0.5))) == [0.75]
    assert len(scores_of(make(path, Suppression(0.02)))) == 3


@pytest.mark.parametrize(("end_to_end", "weak"), [(False, []), (True, [0.25])])
def test_without_nms_candidates_below_the_confidence_are_none_or_apart(tmp_path, end_to_end, weak):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :3] = 0.03, 0.25, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    contract = msgspec.structs.replace(inspect(path), end_to_end=end_to_end)
    found = run(make(path, contract, confidence=0.5), np.zeros((64, 64, 3), np.uint8))
    assert found["scores"].tolist() == [0.75]
    assert found["weak_scores"].tolist() == weak


def test_what_nms_asks_for_is_asked_of_the_one_behind(tmp_path):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :2] = 0.25, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    behind = (Suppression(0.2), inspect(path))
    assert scores_of(make(path, Suppression(0.5), behind=behind)) == [0.25, 0.75]


def test_a_model_that_wants_to_know_a_size_is_told_that_of_its_input(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [1, 3, 32, 64],
        {"labels": [[1.0]], "boxes": [[[16.0, 8.0, 32.0, 16.0]]], "scores": [[0.5]]},
        more_inputs={"orig_target_sizes": (1, 2)},
    )
    preprocess, detector = make(path)
    detector._runtime = Counting(detector._runtime)
    frame = run((preprocess, detector), np.zeros((64, 256, 3), np.uint8))
    assert detector._runtime.inputs["orig_target_sizes"].tolist() == [[64, 32]]
    assert detector._runtime.inputs["orig_target_sizes"].dtype == np.int64
    assert frame["boxes"].tolist() == [[64, 16, 128, 32]]


# --- batches ---


class Counting:
    """Stands before a runtime and keeps what it is given."""

    on_gpu = False

    def __init__(self, inner):
        self.inner, self.sizes = inner, []

    def run(self, inputs):
        self.inputs = inputs
        self.sizes.append(len(inputs["images"]))
        return self.inner.run(inputs)


@pytest.fixture
def echo(tmp_path):
    """A YOLOv8-like model whose first score is the picture's first pixel, batch open."""
    from onnx import TensorProto, helper, numpy_helper, save

    def const(name, value):
        return numpy_helper.from_array(np.array(value), name)

    def build(batch):
        nodes = [
            helper.make_node("Slice", ["images", "start", "end", "axes"], ["pixel"]),
            helper.make_node("Reshape", ["pixel", "column"], ["cell"]),
            helper.make_node("Pad", ["cell", "room"], ["output0"]),
        ]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "echo",
            [info("images", TensorProto.FLOAT, [batch, 3, 64, 64])],
            [info("output0", TensorProto.FLOAT, [batch, 6, 84])],
            [
                const("start", [0, 0, 0]),
                const("end", [1, 1, 1]),
                const("axes", [1, 2, 3]),
                const("column", [-1, 1, 1]),
                const("room", [0, 4, 0, 0, 1, 83]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        save(model, tmp_path / "echo.onnx")
        preprocess, detector = make(tmp_path / "echo.onnx")
        detector._runtime = Counting(detector._runtime)
        return preprocess, detector

    return build


@pytest.mark.parametrize(("batch", "sizes"), [("n", [3]), (1, [1, 1, 1])], ids=["open", "one"])
def test_each_frame_of_a_batch_gets_its_own_answer(echo, batch, sizes):
    preprocess, detector = echo(batch)
    frames = [
        Frame.of(image=np.full((height, 64, 3), grey, np.uint8))
        for grey, height in ((255, 64), (51, 64), (102, 64))
    ]
    for frame in frames:
        preprocess.process(frame)
    detector.process_batch(frames)
    assert [frame["scores"].tolist() for frame in frames] == [
        [1.0],
        [pytest.approx(0.2)],
        [pytest.approx(0.4)],
    ]
    assert detector._runtime.sizes == sizes


# --- before the start ---


def resolve(**settings):
    return Detector.resolve(DetectorSettings(**settings))


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(stages.inference.detector, "usable_cores", lambda: 4)


@pytest.mark.parametrize(
    ("settings", "replicas"),
    [
        ({}, 4),
        ({"profile": "latency"}, 1),
        ({"threads": 2}, 2),
        ({"threads": 8}, 1),
        ({"replicas": 3}, 3),
        ({"device": "cuda"}, 1),
    ],
    ids=["throughput", "latency", "two threads", "too many threads", "asked", "gpu"],
)
def test_replicas(four_cores, monkeypatch, settings, replicas):
    monkeypatch.setattr(runtime, "gpu_present", lambda: False)
    monkeypatch.setattr(stages.inference.detector, "check_device", lambda device: None)
    assert resolve(**settings).replicas == replicas


def test_it_tells_contract_and_labels():
    contract, labels = resolve().offers
    assert contract.name == "ssdlite_mobilenet_v2"
    assert labels.names[:3] == ("person", "bicycle", "car")


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("nothing", "expected the name of a card"),
        ("nothing.onnx", "cannot be read"),
        ("nothing.yaml", "card cannot be read"),
    ],
)
def test_a_model_that_cannot_be_used_ends_the_setup(model, complaint):
    with pytest.raises(SetupError, match=complaint):
        resolve(model=model)


def test_a_card_of_a_classifier_ends_the_setup(tmp_path):
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    card = tmp_path / "m.yaml"
    card.write_text("name: m\ntask: classify\nfamily: yolov8\nweights: {file: m.onnx}\n")
    with pytest.raises(SetupError, match="expected a model that detects, found one"):
        resolve(model=str(card))


def test_a_device_that_is_not_installed_ends_the_setup():
    with pytest.raises(SetupError, match="device openvino: expected an onnxruntime with OpenVINO"):
        resolve(device="openvino")


def test_a_device_that_does_not_load_ends_the_setup():
    detector = Detector(DetectorSettings(device="openvino"), Context(offers=resolve().offers))
    with pytest.raises(SetupError, match="device openvino: expected OpenVINOExecutionProvider"):
        detector.open()
    detector.close()


def test_settings_are_strict():
    for bad in ({"replicas": 0}, {"device": "tpu"}, {"batch": 0}, {"modle": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, DetectorSettings)
