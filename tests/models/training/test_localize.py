"""One class and one box are learned together, and the validation images choose alpha."""

import msgspec
import numpy as np
import pytest

from models import runtime
from models.training.augment import draw_view, plain_view
from models.training.features import read_pixels
from tests.models.training.tiny import SIDE, job, shapes

torch = pytest.importorskip("torch")

from models.training.methods.localize import Finish, Localize, corners_to_centre  # noqa: E402
from models.training.tasks.localize import Located, mean_box  # noqa: E402


def made(folder, train, val, **settings):
    own = {"size": SIDE, "batch": 8, "views": 2, "channels": 32, "rate": 1e-2, **settings}
    return Localize(job(folder, msgspec.convert(own, Localize.Settings), train, val))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("images"), 34)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    method = made(
        tmp_path_factory.mktemp("localize"), images[:26], images[26:],
        alpha=(0.0, 0.3), epochs=10, layers=3, backbone_rate=1.0,
    )  # fmt: skip
    method.fit()
    return method


def test_squares_are_named_and_located(trained, images):
    figures = trained.measure(images[26:], trained.predict(images[26:]))
    assert figures["top-1"] >= 0.9
    assert figures["mean IoU"] > figures["mean IoU of the mean box"] + 0.1


def test_the_validation_images_choose_alpha(trained):
    # With alpha 0 no class is learned.
    assert trained.notes[-1].startswith("alpha is 0.3, by the validation images")
    [(across, lines)] = trained.charts.values()
    assert across == [0.0, 0.3]
    assert lines["top-1"][0] < lines["top-1"][1]
    assert max(lines["class and IoU"]) == trained.curves[trained.best_epoch]["class and IoU"]


def test_each_alpha_starts_from_the_same_weights(images, tmp_path):
    both = made(tmp_path / "both", images[:8], images[8:12], alpha=(0.9, 0.5), epochs=1)
    both.fit()
    alone = made(tmp_path / "alone", images[:8], images[8:12], alpha=(0.5,), epochs=1)
    alone.fit()
    [(_, lines)] = both.charts.values()
    [(_, of_one)] = alone.charts.values()
    assert {name: values[1:] for name, values in lines.items()} == of_one


@pytest.mark.parametrize("lost", [(), ("0.5",), ("0.9", "0.5")])
def test_a_training_continues_at_the_alpha_where_it_ended(images, tmp_path, lost):
    def run():
        method = made(tmp_path, images[:8], images[8:12], alpha=(0.9, 0.5), epochs=1)
        method.fit()
        return method

    first = run()
    for alpha in lost:
        (tmp_path / "run" / f"checkpoint-alpha-{alpha}.npz").unlink()
    second = run()
    assert second.charts == first.charts
    assert second.notes == first.notes
    for name, value in second.learner.state_dict().items():
        assert torch.equal(value, first.learner.state_dict()[name]), name


def test_alpha_weighs_the_two_terms(images, tmp_path):
    method = made(tmp_path, images[:8], images[8:12])
    outputs = [torch.zeros(2, 3), torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2)]
    truths = [
        {"class": np.array(0), "box": np.float32([0.5, 0.5, 0.2, 0.2])},
        {"class": np.array(1), "box": np.float32([0.4, 0.5, 0.2, 0.4])},
    ]
    for alpha in (0.0, 0.25, 1.0):
        method._alpha = alpha
        terms = method.loss(outputs, truths)
        np.testing.assert_allclose(terms["L2"], (1 - alpha) * (0.01 + 0.04) / 2, atol=1e-6)
        np.testing.assert_allclose(terms["softmax"], alpha * np.log(3), atol=1e-6)


def test_the_model_gives_scores_and_a_box(trained, images, tmp_path):
    card = trained.export(tmp_path / "model.onnx")
    assert (card.task, card.family) == ("localize", "localize")
    image = images[26]
    pixels = plain_view(*image.size, SIDE).pixels(read_pixels(image))
    found = runtime.open_graph((tmp_path / "model.onnx").read_bytes())({"images": pixels[None]})
    own = trained.outputs(pixels[None])
    for output, name in zip(found, card.output["outputs"], strict=True):
        np.testing.assert_allclose(output, own[name], atol=1e-4)
    [result] = trained.predict([image])
    np.testing.assert_allclose(result.box, found[1][0] * (image.size * 2), atol=0.05)


@pytest.mark.parametrize("view", [1, 2, 3])
def test_the_truth_of_a_view_is_the_visible_part_of_the_box(trained, images, view):
    image = images[0]
    limits = msgspec.structs.replace(trained.settings.augment, shift=1.0)
    seen = draw_view(limits, *image.size, SIDE, (0, 0, view))
    cx, cy, w, h = trained.truth(image, seen)["box"]
    x1, y1, x2, y2 = seen.boxes(np.array([image.objects[0].box]))[0].clip(0, SIDE) / SIDE
    np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], [x1, y1, x2, y2],
                               atol=1e-6)  # fmt: skip


def test_corners_end_at_the_border_of_the_image():
    _, corners = Finish()(torch.zeros(1, 3), torch.tensor([[0.1, 0.5, 0.4, 0.5]]))
    np.testing.assert_allclose(corners, [[0.0, 0.25, 0.3, 0.75]], atol=1e-6)
    np.testing.assert_allclose(corners_to_centre(np.array([0.1, 0.2, 0.3, 0.8])),
                               [0.2, 0.5, 0.2, 0.6])  # fmt: skip


def test_a_right_result_has_no_error_and_a_wrong_one_has(trained, images):
    image = images[0]
    box = np.float32(image.objects[0].box)
    scores = np.eye(3, dtype=np.float32)
    right = Located(scores[image.classes[0]], box)
    wrong = Located(scores[(image.classes[0] + 1) % 3], box + 200)
    assert trained.error(image, right) == pytest.approx(0.0)
    assert trained.error(image, wrong) == pytest.approx(2.0)
    for result in (right, wrong):
        drawn = trained.draw(read_pixels(image), image, result)
        assert drawn.shape[0] > image.size[1]


def test_the_mean_box_is_that_of_fractions(images):
    own = [np.array(i.objects[0].box) / (i.size * 2) for i in images[:3]]
    np.testing.assert_allclose(mean_box(images[:3]), np.mean(own, axis=0))
