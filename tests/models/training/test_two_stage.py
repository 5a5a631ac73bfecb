"""Faster R-CNN and Mask R-CNN find triangles, and their models are whole graphs in ONNX."""

import cv2
import msgspec
import numpy as np
import pytest

from models import runtime
from models.boxes.masks import mask_of
from models.datasets.base import LabelledImage, TrueObject
from models.errors import TrainingError
from models.training import load
from models.training.augment import Augmentation, draw_view, plain_view
from models.training.features import read_pixels
from tests.models.training.tiny import COLOURS, LABELS, SIDE, job

torch = pytest.importorskip("torch")

from models.training.tasks.detect import objects_differ  # noqa: E402 - needs torch
from models.training.tasks.segment import (  # noqa: E402
    CELLS,
    mask_in_box,
    masks_of_view,
    mean_shapes,
)

METHODS = ("faster_rcnn", "masks")
SHORT = {"size": 64, "epochs": 1, "batch": 4, "views": 2, "stride": 8, "layers": 3, "width": 32}
SAME = np.array([[1, 0, 0], [0, 1, 0]], np.float64)


def triangles(folder, count, seed=0):
    """Images of two coloured triangles each, with their masks."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        pixels = rng.integers(90, 150, (SIDE + 16, SIDE, 3), np.uint8)
        own = []
        for place in range(2):
            kind = (number + place) % len(LABELS)
            x, y = int(rng.integers(0, SIDE - 30)), int(rng.integers(place * 40, place * 40 + 12))
            corners = np.array([(x, y + 28), (x + 28, y + 28), (x + 14, y)])
            cv2.fillPoly(pixels, [corners], COLOURS[LABELS[kind]])
            outline = tuple(map(float, corners.ravel()))
            own.append(TrueObject(kind, (x, y, x + 28, y + 28), mask=(outline,)))
        path = folder / f"{seed}-{number:03}.png"
        cv2.imwrite(str(path), pixels)
        found.append(LabelledImage(path, path.name, (SIDE, SIDE + 16), tuple(own)))
    return found


def made(name, folder, train, val, **settings):
    cls = load(name)
    own = {"mask_width": 16} if name == "masks" else {}
    return cls(job(folder, msgspec.convert({**SHORT, **own, **settings}, cls.Settings), train, val))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return triangles(tmp_path_factory.mktemp("images"), 30)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    method = made(
        "masks", tmp_path_factory.mktemp("trained"), images[:24], images[24:27],
        epochs=10, batch=4, views=2, layers=0, rate=5e-3, backbone_rate=1.0, proposals=30,
    )  # fmt: skip
    method.fit()
    return method


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return trained.export(path), runtime.open_graph(path.read_bytes())


def test_triangles_are_found_with_masks_better_than_a_mean(trained, images):
    results = trained.predict(images[24:])
    figures = trained.measure(images[24:], results)
    assert figures["box AP50"] > 0.5
    assert figures["mask AP50"] > 0.5
    assert figures["mask IoU"] > 0.6
    simple = trained.baseline(images[24:], results)
    assert set(simple) == {f"{name} of the mean shape" for name in list(figures)[:4]}
    assert all(0 <= trained.error(*pair) < 4 for pair in zip(images[24:], results, strict=True))


def test_the_whole_network_runs_in_onnxruntime(trained, model, images):
    card, run = model
    assert (card.task, card.output["end_to_end"]) == ("segment", True)
    for image in images[24:]:
        pixels = plain_view(*image.size, 64).pixels(read_pixels(image))[None]
        own = trained.outputs(pixels)
        other = dict(zip(own, run({"images": pixels}), strict=True))
        assert trained.difference(own, other) < 1e-3
        if all(own[name].shape == other[name].shape for name in own):
            for name in own:
                np.testing.assert_allclose(own[name], other[name], atol=1e-3)
        again = trained.result(list(other.values()), image)
        assert len(again.masks) == len(other["scores"])
        assert all((mask.width, mask.height) == image.size for mask in again.masks)


def test_the_report_has_the_recall_of_proposals(trained):
    counts, lines = trained.charts["Recall over the number of proposals"]
    assert counts == [10, 30]
    for recalls in lines.values():
        assert 0 <= recalls[0] <= recalls[1] <= 1
    assert lines["IoU 0.5"][1] > 0.7
    assert any(note.startswith("recall of proposals") for note in trained.notes)
    assert any(note.startswith("anchors in pixels") for note in trained.notes)


@pytest.mark.parametrize(
    ("name", "nothing"), [("faster_rcnn", "box"), ("masks", "proposal"), ("masks", "box")]
)
def test_an_image_without_anything_gives_no_rows(name, nothing, images, tmp_path):
    method = made(name, tmp_path, images[:4], images[:2])
    head = method._detector
    with torch.no_grad():
        if nothing == "proposal":  # all of them shrink to a point
            head.proposals.offsets.bias.fill_(-100.0)
        else:
            head.regions.classes.bias[0] = 50.0
    method.export(tmp_path / "model.onnx")
    run = runtime.open_graph((tmp_path / "model.onnx").read_bytes())
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    own = method.outputs(pixels)
    shapes = {"boxes": (0, 4), "scores": (0,), "classes": (0,), "masks": (0, CELLS, CELLS)}
    for name, other in zip(own, run({"images": pixels}), strict=True):
        assert own[name].shape == other.shape == shapes[name]
    assert len(method.predict(images[:1])) == 1
    assert set(method.measure(images[:1], method.predict(images[:1])).values()) == {0.0}


@pytest.mark.parametrize("kind", ["no objects", "all ignored", "none in some", "boxes alone"])
def test_every_kind_of_truth_has_a_finite_loss(kind, images, tmp_path):
    shape = images[0].objects[0]
    objects = {
        "no objects": [()] * 4,
        "all ignored": [(msgspec.structs.replace(shape, ignored=True),)] * 4,
        "none in some": [(shape,), (), (shape, shape), ()],
        "boxes alone": [(shape,), *[(msgspec.structs.replace(shape, mask=None),)] * 3],
    }[kind]
    own = [
        msgspec.structs.replace(image, objects=found)
        for image, found in zip(images[:4], objects, strict=True)
    ]
    method = made("masks", tmp_path, own, own, batch=2)
    method.fit()
    assert all(np.isfinite(value) for value in method.curves[0].values())
    assert len(method.predict(own)) == 4


@pytest.mark.parametrize("name", METHODS)
def test_the_losses_have_the_names_of_the_paper(name, images, tmp_path):
    method = made(name, tmp_path, images[:4], images[:2])
    method.fit()
    losses = {key.removeprefix("loss ") for key in method.curves[0] if key.startswith("loss ")}
    assert losses == {"RPN cls", "RPN reg", "cls", "loc"} | ({"mask"} if name == "masks" else set())


def test_stated_anchors_replace_those_of_the_data(images, tmp_path):
    method = made("faster_rcnn", tmp_path, images[:4], images[:2], shapes=[[20, 30]])
    assert method.notes == []
    assert method._detector.proposals.anchors.shape == (8 * 8, 4)
    assert method._detector.proposals.anchors[0].tolist() == [4, 4, 20, 30]


def test_a_stride_without_a_finer_map_is_refused(images, tmp_path):
    with pytest.raises(TrainingError, match=r"stride: .* no map of stride 1 for masks"):
        made("masks", tmp_path, images[:4], images[:2], stride=2)


@pytest.mark.parametrize("kind", ["plain", "drawn"])
def test_a_mask_in_a_view_is_that_of_the_pixels(kind, images):
    image = images[0]
    view = plain_view(*image.size, 64)
    if kind == "drawn":
        view = draw_view(Augmentation(rotate_deg=30), *image.size, 64, (0, 0, 3))
    truth = masks_of_view(image, view)
    assert len(truth["boxes"]) == len(truth["masks"]) > 0
    for box, mask in zip(truth["boxes"].astype(np.float64), truth["masks"], strict=True):
        cells = mask_in_box(mask, box, truth["matrix"])
        # The centres of the cells, looked up in the mask that the view makes.
        seen = view.mask(mask)
        at = box[:2, None] + (np.arange(CELLS) + 0.5) * (box[2:] - box[:2])[:, None] / CELLS
        x, y = np.clip(at, 0, 63).astype(int)
        assert (cells == seen[y][:, x]).mean() > 0.93


def test_the_mean_shape_of_triangles_is_narrow_above(images):
    shapes = mean_shapes(images, 4)
    assert shapes.shape == (4, CELLS, CELLS)
    assert (shapes[:3, 2] > 0.5).sum() < (shapes[:3, -3] > 0.5).sum() / 3
    assert (shapes[3] == 1).all()  # a class without an object


def test_weak_objects_need_no_counterpart():
    def run(*rows):
        table = np.array(rows, np.float32).reshape(-1, 6)
        return {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5]}

    sure, moved = (10, 10, 20, 20, 0.9, 0), (10, 10, 20, 20.64, 0.9, 0)
    weak, other = (40, 40, 50, 50, 0.05, 0), (10, 10, 20, 20, 0.9, 1)
    assert objects_differ(run(sure, weak), run(sure), 64) == 0
    assert objects_differ(run(sure), run(moved), 64) == pytest.approx(0.01, abs=1e-6)
    assert objects_differ(run(sure), run(other), 64) == float("inf")
    assert objects_differ(run(), run(sure), 64) == float("inf")
    assert objects_differ(run(), run(), 64) == 0


def test_pictures_show_outlines_of_masks(trained, images):
    image = images[24]
    [result] = trained.predict([image])
    pixels = read_pixels(image)
    drawn = trained.draw(pixels.copy(), image, result)
    assert drawn.shape == pixels.shape
    assert (drawn != pixels).any()
    assert mask_of(result.masks[0]).shape == pixels.shape[:2] if result.masks else True
