"""Models that take proposals: the family computes them in the detector, from the model's input."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import families, zoo
from models.boxes.iou import iou_matrix
from models.errors import ContractError, ProposalError
from models.families.rcnn import Rcnn, pixels_of
from models.image_input import Input
from models.proposals.selective_search import selective_search
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context
from stages.inference.detector import Detector, DetectorSettings
from stages.inference.preprocess import Preprocess
from stages.thresholds import Suppression

SIDE = 64
CARD = """
name: judge
family: rcnn
weights: {{file: judge.onnx}}
input: {{size: [64, 64], colour: {colour}}}
labels: [square]
output:
  proposals: {{max_proposals: {most}, min_side_px: 12}}
"""


def model(folder, dtype=TensorProto.UINT8, batch=1, most=40, colour="bgr"):
    """A model that gives each proposal the score .9, and its card."""
    constants = {
        "side": np.array(SIDE, np.float32),
        "ones": np.array([[0.9, 0]], np.float32),
        "shape": np.array([1, -1, 6]),
        "columns": np.array([0, 1]),
        "none": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Div", ["proposals", "side"], ["boxes"]),
        helper.make_node("Gather", ["boxes", "columns"], ["two"], axis=1),
        helper.make_node("Mul", ["two", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "ones"], ["ends"]),
        helper.make_node("Concat", ["boxes", "ends"], ["flat"], axis=1),
        helper.make_node("Reshape", ["flat", "shape"], ["rows"]),
    ]
    info = helper.make_tensor_value_info
    shape = [batch, SIDE, SIDE, 3] if dtype == TensorProto.UINT8 else [batch, 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "judge",
        [info("images", dtype, shape), info("proposals", TensorProto.FLOAT, ["n", 4])],
        [info("rows", TensorProto.FLOAT, [1, None, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "judge.onnx")
    card = folder / "judge.yaml"
    card.write_text(CARD.format(most=most, colour=colour))
    return card


@pytest.fixture
def scene():
    """An image of 128 x 96 with a square of 40 x 30."""
    image = np.full((96, 128, 3), (150, 140, 130), np.uint8)
    image[30:60, 50:90] = (30, 40, 200)
    return image


def boxes_of(card, image):
    settings = DetectorSettings(model=str(card), device="cpu")
    offers = (*Detector.resolve(settings).offers, Suppression(0.4))
    context = Context(offers=offers, offers_behind=offers)
    detector = Detector(settings, context)
    detector.open()
    frame = Frame.of(image=image)
    for stage in (Preprocess(Preprocess.Settings(), context), detector):
        stage.process(frame)
    detector.close()
    return frame["boxes"]


@pytest.mark.parametrize(
    ("dtype", "colour"),
    [(TensorProto.UINT8, "bgr"), (TensorProto.UINT8, "rgb"), (TensorProto.FLOAT, "rgb")],
)
def test_the_detector_judges_the_proposals_of_the_image(tmp_path, scene, dtype, colour):
    pytest.importorskip("skimage")
    boxes = boxes_of(model(tmp_path, dtype, colour=colour), scene)
    assert 1 < len(boxes) <= 40
    assert iou_matrix(np.array([[50, 30, 90, 60.0]]), boxes).max() > 0.8


def test_the_card_says_how_many_proposals_there_are(tmp_path, scene):
    pytest.importorskip("skimage")
    assert len(boxes_of(model(tmp_path, most=3), scene)) == 3


def test_proposals_are_those_of_the_stretched_input(tmp_path, rng):
    pytest.importorskip("skimage")
    contract = zoo.resolve(str(model(tmp_path)), ("detect",))
    family = families.make("rcnn", contract.input, contract.classes, contract.layout)
    pixels = rng.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    expected = selective_search(pixels[0], contract.layout.proposals)
    np.testing.assert_array_equal(family.further_inputs(pixels)["proposals"], expected)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["bgr", "rgb"])
def test_pixels_are_restored_from_a_prepared_input(rng, layout, colour):
    pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    own = Input(
        name="x", size=(8, 6), dtype="float32", layout=layout, colour=colour,
        scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25),
    )  # fmt: skip
    values = pixels[..., ::-1] if colour == "rgb" else pixels
    values = ((values / 255 - own.mean) / own.std).astype(np.float32)
    if layout == "nchw":
        values = values.transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels_of(values, own), pixels)


@pytest.mark.parametrize("batch", [2, "n"])
def test_a_model_of_several_images_is_refused(tmp_path, batch):
    with pytest.raises(ContractError, match=r"rcnn runs one image at once .*batch 1"):
        zoo.resolve(str(model(tmp_path, batch=batch)), ("detect",))


def test_missing_scikit_image_is_one_line_before_the_start(tmp_path, monkeypatch):
    card = model(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProposalError, match="scikit-image"):
        Rcnn.check_packages()
    with pytest.raises(SetupError, match=r'run pip install "eyeline\[rcnn\]"') as caught:
        Detector.resolve(DetectorSettings(model=str(card), device="cpu"))
    assert "\n" not in str(caught.value)
