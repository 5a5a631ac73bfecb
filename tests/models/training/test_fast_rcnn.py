"""Fast R-CNN learns coloured squares, samples as its paper says, and its graph equals PyTorch."""

import msgspec
import numpy as np
import pytest

from models import runtime
from models.proposals.selective_search import SearchSettings
from models.training.augment import Augmentation, plain_view
from models.training.export import verify
from models.training.features import read_input
from tests.models.training.tiny import SIDE, job, shapes

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")
from models.training.methods.fast_rcnn import FastRcnn, Settings  # noqa: E402
from tests.models.training.test_rcnn import SEARCH  # noqa: E402

SETTINGS = Settings(
    size=SIDE,
    search=SEARCH,
    views=1,
    augment=Augmentation(),
    epochs=30,
    batch=3,
    rate=3e-3,
    channels=16,
    hidden=32,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fast_rcnn")
    images = shapes(folder / "images", 18)
    method = FastRcnn(job(folder, SETTINGS, images[:12], images[12:]))
    method.fit()
    return method


def test_squares_are_found_by_their_colours(trained):
    images = trained.job.val
    assert trained.measure(images, trained.predict(images))["AP50"] > 0.5
    assert trained.curves[-1]["loss class"] < trained.curves[0]["loss class"] / 2


def test_the_exported_graph_equals_pytorch(trained, tmp_path):
    card = trained.export(tmp_path / "model.onnx")
    pixels = [read_input(image, SIDE)[None] for image in trained.job.val[:2]]
    inputs = [trained.inputs(own) for own in pixels]
    assert verify(tmp_path / "model.onnx", trained.outputs, inputs, trained.difference) < 1e-4
    assert card.family == "rcnn"
    assert msgspec.convert(card.output["proposals"], SearchSettings) == SEARCH
    run = runtime.open_graph((tmp_path / "model.onnx").read_bytes())
    one = run({"images": pixels[0], "proposals": np.array([[1, 2, 9, 9]], np.float32)})[0]
    assert one.shape == (1, 3, 6)


def test_a_quarter_are_objects_and_the_rest_is_background_near_them(trained):
    image = trained.job.train[0]
    truth = trained.truth(image, plain_view(*image.size, SIDE))
    regions = trained._sampled([truth, truth], np.random.default_rng(0))
    positive = regions.classes < 3
    assert 0 < positive.sum() <= 2 * 16
    assert (regions.classes[positive] == image.objects[0].number).all()
    assert not regions.offsets[~positive].any()
    assert regions.image_of.tolist() == sorted(regions.image_of)


@pytest.mark.parametrize("class_of", [0, 3])
def test_the_box_term_leaves_out_the_background(trained, class_of):
    boxes = np.array([[4, 4, 40, 40]], np.float32)
    truth = {
        "proposals": boxes,
        "matches": np.array([0 if class_of < 3 else -1]),
        "easy": np.array([False]),
        "boxes": boxes + np.float32(6),
        "classes": np.array([class_of]),
    }
    terms = trained.loss([torch.rand(1, 16, 4, 4)], [truth])
    assert (terms["box"].item() > 0) == (class_of < 3)
