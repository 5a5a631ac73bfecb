"""The detector finds the objects in an image, with any model of its task."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest

import stages.inference.model
from models import families, runtime
from models.families.base import DetectorFamily
from models.inspect import inspect
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.graph import placement
from pipeline.stage import Context
from run import main
from stages.detections import CANDIDATES, WantsAllBoxes
from stages.inference.detector import Detector, DetectorSettings
from stages.inference.preprocess import Preprocess
from stages.thresholds import Suppression
from tests.builders import ROOT
from tests.models.builders import save
from tests.models.softmax import TABLE_LINE

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
    """The first image of the demo clip."""
    capture = cv2.VideoCapture(str(CLIP))
    good, image = capture.read()
    assert good, f"{CLIP} cannot be read"
    return image


def run(stages, image):
    frame = Frame.of(image=image)
    for stage in stages:
        stage.process(frame)
    return frame


def overlap(boxes, x1, y1, x2, y2):
    """Return the IoU of each box with one box."""
    low = np.maximum(boxes[:, :2], (x1, y1))
    high = np.minimum(boxes[:, 2:], (x2, y2))
    both = np.clip(high - low, 0, None).prod(axis=1)
    return both / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (x2 - x1) * (y2 - y1) - both)


# The people of the first image, in pixels; drawn by hand.
PEOPLE = [(253, 220, 287, 315), (500, 157, 528, 229), (639, 239, 682, 324)]


def assert_finds_people(frame, scale=(1.0, 1.0)):
    people = frame["boxes"][(frame["classes"] == 0) & (frame["scores"] > 0.8)]
    people = people / np.array([*scale, *scale])
    for person in PEOPLE:
        assert overlap(people, *person).max() > 0.6
    # And in no other place.
    assert (np.max([overlap(people, *person) for person in PEOPLE], axis=0) > 0.4).all()


def test_the_embedded_model_finds_people(embedded, street):
    assert_finds_people(run(embedded, street))


@pytest.mark.parametrize("size", [(1537, 1153), (384, 288), (4097, 577)])
def test_boxes_are_in_pixels_of_the_captured_image(embedded, street, size):
    frame = run(embedded, cv2.resize(street, size))
    assert_finds_people(frame, scale=(size[0] / 768, size[1] / 576))


def test_a_grey_image_has_no_detections(embedded):
    frame = run(embedded, np.full((576, 768, 3), 128, np.uint8))
    assert frame["boxes"].shape == (0, 4)
    assert frame["scores"].shape == frame["classes"].shape == (0,)


def test_results_have_the_declared_dtypes(embedded, street):
    frame = run(embedded, street)
    kinds = [frame[name].dtype for name in ("boxes", "scores", "classes")]
    assert kinds == [np.float32, np.float32, np.int32]


def test_equal_images_give_equal_results(embedded, street):
    first, second = run(embedded, street), run(embedded, street)
    np.testing.assert_array_equal(first["boxes"], second["boxes"])
    np.testing.assert_array_equal(first["scores"], second["scores"])


def test_the_provider_in_use_is_reported(embedded):
    assert embedded[1].info() == {"provider": "CPUExecutionProvider"}


def scores_of(stages):
    return run(stages, np.zeros((64, 64, 3), np.uint8))["scores"].tolist()


def test_candidates_below_the_score_that_nms_needs_are_left_out(tmp_path):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :3] = 0.03, 0.0625, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    assert scores_of(make(path)) == [0.0625, 0.75]
    assert scores_of(make(path, Suppression(0.5))) == [0.75]
    assert len(scores_of(make(path, Suppression(0.02)))) == 3


@pytest.mark.parametrize(("end_to_end", "weak"), [(False, []), (True, [0.25])])
def test_candidates_without_nms_below_the_confidence_are_left_out_or_weak(
    tmp_path, end_to_end, weak
):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :3] = 0.03, 0.25, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    contract = msgspec.structs.replace(inspect(path), end_to_end=end_to_end)
    found = run(make(path, contract, confidence=0.5), np.zeros((64, 64, 3), np.uint8))
    assert found["scores"].tolist() == [0.75]
    assert found["weak_scores"].tolist() == weak


@pytest.mark.parametrize("hides", [False, True])
def test_all_boxes_without_nms_are_there_for_a_stage_that_hides_them(tmp_path, hides):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :3] = 0.03, 0.25, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    contract = msgspec.structs.replace(inspect(path), end_to_end=True)
    behind = (contract, *([WantsAllBoxes()] if hides else []))
    found = run(make(path, contract, behind=behind, confidence=0.5), np.zeros((64, 64, 3), "u1"))
    assert ("unfiltered_boxes" in found) == hides
    if hides:
        assert len(found["unfiltered_boxes"]) == len(found["unfiltered_classes"]) == 2


def test_the_score_that_nms_needs_is_that_of_the_following_one(tmp_path):
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, 4, :2] = 0.25, 0.75
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": rows})
    behind = (Suppression(0.2), inspect(path))
    assert scores_of(make(path, Suppression(0.5), behind=behind)) == [0.25, 0.75]


def test_a_second_input_for_the_size_gets_the_size_of_the_input(tmp_path):
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
    """Wraps a runtime and records its inputs."""

    on_gpu = False

    def __init__(self, inner):
        self.inner, self.sizes = inner, []

    def run(self, inputs):
        self.inputs = inputs
        self.sizes.append(len(inputs["images"]))
        return self.inner.run(inputs)


@pytest.fixture
def echo(tmp_path):
    """A YOLOv8-like model whose first score is the first pixel of the image."""
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
def test_each_frame_of_a_batch_gets_its_own_result(echo, batch, sizes):
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
    monkeypatch.setattr(stages.inference.model, "usable_cores", lambda: 4)


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
def test_replicas_follow_the_settings_and_the_cores(four_cores, monkeypatch, settings, replicas):
    monkeypatch.setattr(runtime, "gpu_present", lambda: False)
    monkeypatch.setattr(stages.inference.model, "check_device", lambda device: None)
    assert resolve(**settings).replicas == replicas


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("max 100000", 2)])
def test_replicas_and_cores_respect_the_cpu_quota(tmp_path, monkeypatch, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda pid: {0, 1})
    opened = (tmp_path / "cpu.max").open
    monkeypatch.setattr(placement, "open", lambda path: opened(), raising=False)
    resolved = resolve(device="cpu")
    assert resolved.replicas == cores

    made = []

    def record(*args, cores):
        made.append(cores)
        return SimpleNamespace(on_gpu=False)

    monkeypatch.setattr(stages.inference.model, "Runtime", record)
    Detector(DetectorSettings(device="cpu"), Context(offers=resolved.offers)).open()
    assert made == [cores]


def test_resolve_offers_contract_and_labels():
    contract, labels = resolve().offers
    assert contract.name == "ssdlite_mobilenet_v2"
    assert labels.names[:3] == ("person", "bicycle", "car")


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("nothing", "no card has this name"),
        ("nothing.onnx", "cannot be read"),
        ("nothing.yaml", "card cannot be read"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_at_the_start(model, complaint):
    with pytest.raises(SetupError, match=complaint):
        resolve(model=model)


def test_a_model_of_another_task_is_refused_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(families.FAMILIES, *TABLE_LINE)
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"logits": (1, 1, 10)})
    card = tmp_path / "m.yaml"
    card.write_text("name: m\ntask: classify\nfamily: softmax\nweights: {file: m.onnx}\n")
    words = (
        r"^model m has task classify, which this stage does not take \(detect, .*\); choose "
        r"another model, or use a stage for it: classify, or classify_objects behind a tracker$"
    )
    with pytest.raises(SetupError, match=words):
        resolve(model=str(card))
    demo = str(ROOT / "configs" / "demo.yaml")
    assert main(["check", demo, "--model", str(card)]) == 2
    assert "stages.detector: model m has task classify, which" in capsys.readouterr().err
    # Without a settings file the stage that takes it is used.
    assert main(["check", "--model", str(card)]) == 0
    assert "classify  Classify" in capsys.readouterr().out


def test_the_stage_gives_the_outputs_of_detector_families():
    declared = [(output.name, output.dtype, output.shape) for output in DetectorFamily.outputs]
    assert declared == [(array.name, array.dtype, array.shape) for array in CANDIDATES]


def test_a_device_that_is_not_installed_is_refused_at_the_start():
    with pytest.raises(SetupError, match="openvino: the installed onnxruntime has no OpenVINO"):
        resolve(device="openvino")


def test_a_device_that_does_not_load_is_refused_on_opening():
    detector = Detector(DetectorSettings(device="openvino"), Context(offers=resolve().offers))
    with pytest.raises(SetupError, match="the installed onnxruntime has no OpenVINO"):
        detector.open()
    detector.close()


def test_wrong_settings_are_refused():
    for bad in ({"replicas": 0}, {"device": "tpu"}, {"batch": 0}, {"modle": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, DetectorSettings)
