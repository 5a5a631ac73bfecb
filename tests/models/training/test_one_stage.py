"""SSD and YOLO find squares, and their models are ONNX with decoded boxes."""

import msgspec
import numpy as np
import pytest

from models import runtime
from models.datasets.base import TrueObject
from models.errors import TrainingError
from models.training import load
from models.training.augment import plain_view
from models.training.features import read_pixels
from tests.models.training.tiny import job, shapes

torch = pytest.importorskip("torch")

METHODS = ("ssd", "yolo")
SHORT = {"size": 64, "epochs": 1, "batch": 4, "views": 2, "width": 16, "layers": 2}


def made(name, folder, train, val, **settings):
    cls = load(name)
    strides = (8, 16) if name == "yolo" else (8, 16, 32)
    own = msgspec.convert({"strides": strides, **SHORT, **settings}, cls.Settings)
    return cls(job(folder, own, train, val))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("images"), 30, objects=2)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    method = made(
        request.param, folder, images[:24], images[24:],
        epochs=14, batch=6, views=4, layers=0, rate=5e-3, backbone_rate=1.0, width=32,
    )  # fmt: skip
    method.fit()
    return method


def test_squares_are_found(trained, images):
    figures = trained.measure(images[24:], trained.predict(images[24:]))
    assert figures["AP50"] > 0.5
    assert figures["AP50"] >= figures["AP75"] > 0.05


def test_the_model_gives_fractions_and_scores(trained, images, tmp_path):
    card = trained.export(tmp_path / "model.onnx")
    assert (card.task, card.family) == ("detect", "ssd")
    pixels = plain_view(*images[24].size, 64).pixels(read_pixels(images[24]))
    boxes, scores = runtime.open_graph((tmp_path / "model.onnx").read_bytes())(
        {"images": pixels[None]}
    )
    assert (boxes.shape[2], scores.shape[2]) == (4, 3)
    assert boxes.shape[1] == scores.shape[1]
    assert ((scores >= 0) & (scores <= 1)).all()
    best = boxes[0, scores[0].max(axis=1).argmax()]
    assert ((best > -0.2) & (best < 1.2)).all()
    own = trained.outputs(pixels[None])
    np.testing.assert_allclose(boxes, own["boxes"], atol=1e-4)
    np.testing.assert_allclose(scores, own["scores"], atol=1e-4)
    [result] = trained.predict([images[24]])
    again = trained.result([boxes[0], scores[0]], images[24])
    np.testing.assert_allclose(result.boxes, again.boxes, atol=0.05)


def test_no_layer_of_a_head_is_hard_to_quantise(trained):
    kinds = {type(layer).__name__ for layer in trained.learner.head.modules()}
    assert kinds <= {"Head", "ModuleList", "Sequential", "Conv2d", "BatchNorm2d", "ReLU6"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["no objects", "all ignored", "none in some", "many"])
def test_every_kind_of_truth_has_a_finite_loss(name, kind, images, tmp_path):
    square = images[0].objects[0]
    objects = {
        "no objects": [()] * 4,
        "all ignored": [(msgspec.structs.replace(square, ignored=True),)] * 4,
        "none in some": [(square,), (), (square, square), ()],
        "many": [tuple(TrueObject(0, (x, 5, x + 9, 25)) for x in range(50))] * 4,
    }[kind]
    own = [
        msgspec.structs.replace(image, objects=found)
        for image, found in zip(images[:4], objects, strict=True)
    ]
    method = made(name, tmp_path, own, own, batch=2)
    method.fit()
    assert all(np.isfinite(value) for value in method.curves[0].values())
    assert len(method.predict(own)) == 4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layers", [0, 3, 5])
def test_any_cut_of_the_backbone_is_trained_above(name, layers, images, tmp_path):
    method = made(name, tmp_path, images[:4], images[:2], layers=layers)
    before = {k: v.clone() for k, v in method.learner.state_dict().items()}
    method.fit()
    changed = {k for k, v in method.learner.state_dict().items() if not torch.equal(v, before[k])}
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("open.") for name in changed) == (layers < 5)


def test_stated_default_boxes_replace_those_of_the_data(images, tmp_path):
    shapes_of = [[[20, 20]], [[30, 30], [40, 40]]]
    method = made("ssd", tmp_path, images[:4], images[:2], strides=(8, 16), shapes=shapes_of)
    assert method.notes == []
    [boxes, scores] = method.outputs(np.zeros((1, 64, 64, 3), np.uint8)).values()
    assert boxes.shape == (1, 8 * 8 + 2 * 4 * 4, 4)
    assert scores.shape == (1, 8 * 8 + 2 * 4 * 4, 3)


def test_default_boxes_for_other_maps_are_refused(images, tmp_path):
    with pytest.raises(TrainingError, match=r"shapes: .* each of 3 maps \(found \[1\]\)"):
        made("ssd", tmp_path, images[:4], images[:2], shapes=[[[20, 20]]])


def test_the_generalised_iou_is_that_of_the_paper():
    from models.training.methods.yolo import generalised_iou

    a = torch.tensor([(0.0, 0, 10, 10)] * 3)
    b = torch.tensor([(0.0, 0, 10, 10), (5, 0, 15, 10), (20, 0, 30, 10)])
    expected = [1.0, 50 / 150, -1 / 3]
    assert generalised_iou(a, b).tolist() == pytest.approx(expected)
