"""A class for each pixel is learned from maps of several strides."""

import cv2
import msgspec
import numpy as np
import pytest

from models import runtime
from models.datasets.semantic import IGNORED
from models.training.augment import draw_view, plain_view
from models.training.features import read_pixels
from tests.models.training.tiny import LABELS, SIDE, job, shapes, tiny_backbone

torch = pytest.importorskip("torch")

from models.training.methods.semantic import (  # noqa: E402
    Semantic,
    blocks_of,
    cross_entropy,
    dice_loss,
)


def with_maps(images, folder):
    """Images with a map of their squares; the last row of pixels does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for image in images:
        classes = np.zeros((image.size[1], image.size[0]), np.uint8)
        for item in image.objects:
            x1, y1, x2, y2 = map(int, item.box)
            classes[y1:y2, x1:x2] = item.number + 1
        classes[-1] = IGNORED
        path = folder / image.name
        assert cv2.imwrite(str(path), classes)
        found.append(msgspec.structs.replace(image, objects=(), class_map=path))
    return found


def made(folder, train, val, **settings):
    own = {"size": SIDE, "batch": 6, "views": 2, "channels": 16, "rate": 1e-2, **settings}
    values = msgspec.convert(own, Semantic.Settings)
    return Semantic(job(folder, values, train, val, labels=("background", *LABELS)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return with_maps(shapes(folder, 34, objects=2), folder / "maps")


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    method = made(
        tmp_path_factory.mktemp("semantic"), images[:26], images[26:],
        epochs=10, layers=1, backbone_rate=1.0,
    )  # fmt: skip
    method.fit()
    return method


def test_squares_are_found(trained, images):
    figures = trained.measure(images[26:], trained.predict(images[26:]))
    assert figures["mean IoU"] > 0.6
    assert all(figures[f"IoU {label}"] > 0.4 for label in LABELS)
    assert {"loss cross entropy", "loss dice"} <= set(trained.curves[0])


def test_the_model_gives_scores_of_a_grid(trained, images, tmp_path):
    card = trained.export(tmp_path / "model.onnx")
    assert (card.task, card.family) == ("semantic", "semantic")
    pixels = plain_view(*images[26].size, SIDE).pixels(read_pixels(images[26]))
    [scores] = runtime.open_graph((tmp_path / "model.onnx").read_bytes())({"images": pixels[None]})
    np.testing.assert_allclose(scores, trained.outputs(pixels[None])["scores"], atol=1e-4)
    assert scores.shape == (1, 4, 32, 32)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    [result] = trained.predict([images[26]])
    assert (result == scores[0].argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_the_dice_loss_is_a_term_where_it_is_wanted(images, tmp_path, dice):
    method = made(tmp_path, images[:6], images[6:8], dice=dice, epochs=1)
    method.fit()
    assert ("loss dice" in method.curves[0]) == (dice > 0)


def test_pixels_that_do_not_count_change_no_loss():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 6)
    truth = torch.randint(0, 3, (2, 4, 6))
    wide = torch.cat([logits, 9 * torch.randn(2, 3, 4, 5)], dim=3)
    beyond = torch.cat([truth, torch.full((2, 4, 5), IGNORED)], dim=2)
    for loss in (cross_entropy, dice_loss):
        torch.testing.assert_close(loss(wide, beyond), loss(logits, truth))


def test_images_without_a_pixel_that_counts_have_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    truth = torch.full((1, 4, 4), IGNORED)
    for loss in (cross_entropy, dice_loss):
        value = loss(logits, truth)
        value.backward()
        assert value == 0
    assert torch.isfinite(logits.grad).all()


def test_the_dice_loss_is_0_for_the_truth_and_1_without_overlap():
    truth = torch.tensor([[[0, 1], [1, 1]]])
    sure = 50 * torch.nn.functional.one_hot(truth, 2).permute(0, 3, 1, 2).float()
    assert dice_loss(sure, truth) == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, truth) == pytest.approx(1, abs=1e-6)


def test_the_truth_of_a_view_is_the_class_in_the_middle_of_each_cell(trained, images):
    image = images[0]
    plain = trained.truth(image, plain_view(*image.size, SIDE))["classes"]
    whole = cv2.imread(str(image.class_map), cv2.IMREAD_UNCHANGED)
    assert plain.shape == (16, 16)
    for row, column in ((3, 4), (8, 8), (12, 5)):
        assert plain[row, column] == whole[int((row + 0.5) * 80 / 16), int((column + 0.5) * 4)]
    limits = msgspec.structs.replace(trained.settings.augment, zoom=(0.5, 0.5), mirror=False)
    smaller = trained.truth(image, draw_view(limits, *image.size, SIDE, (0, 0, 1)))["classes"]
    assert (smaller[[0, -1]] == IGNORED).all()
    assert set(np.unique(smaller)) <= {0, 1, 2, 3, IGNORED}


def test_one_map_of_each_stride_is_taken():
    assert [block.stride for block in blocks_of(tiny_backbone())] == [4, 8, 16, 32]


def test_no_layer_of_the_decoder_is_hard_to_quantise(trained):
    kinds = {type(layer).__name__ for layer in trained.learner.head.modules()}
    assert kinds <= {"Decoder", "ModuleList", "Sequential", "Conv2d", "BatchNorm2d", "ReLU6"}


def test_results_are_drawn_and_their_errors_are_wrong_pixels(trained, images):
    image = images[0]
    truth = cv2.imread(str(image.class_map), cv2.IMREAD_UNCHANGED)
    right = np.where(truth == IGNORED, 0, truth)
    assert trained.error(image, right) == pytest.approx(0)
    assert trained.error(image, (right + 1) % 4) == pytest.approx(1)
    pixels = read_pixels(image)
    assert (trained.draw(pixels.copy(), image, right) != pixels).any()
