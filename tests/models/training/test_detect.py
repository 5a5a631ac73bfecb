"""Truth in a view, default boxes, and candidates that become objects."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.datasets.base import LabelledImage, TrueObject
from models.errors import TrainingError
from models.training.augment import Augmentation, View, draw_view, plain_view
from models.training.features import Views
from models.training.tasks.default_boxes import default_boxes, sizes_of
from models.training.tasks.detect import (
    Objects,
    level_tensors,
    matches,
    suppressed,
    truth_of_view,
)
from tests.models.training.tiny import job, shapes, tiny_backbone


def image(*objects, size=(100, 50)):
    return LabelledImage(Path("none.png"), "none.png", size, tuple(objects))


def moved(x=0.0, y=0.0, zoom=1.0, size=64):
    matrix = np.array([[zoom * size / 100, 0, x], [0, zoom * size / 50, y]])
    return View(matrix, size, np.ones(3), 0.0, False)


def test_objects_of_the_plain_view_are_stretched():
    one = image(TrueObject(2, (10, 10, 60, 35)), TrueObject(0, (0, 0, 100, 50)))
    truth = truth_of_view(one, plain_view(100, 50, 200))
    np.testing.assert_allclose(truth["boxes"], [(20, 40, 120, 140), (0, 0, 200, 200)])
    assert truth["classes"].tolist() == [2, 0]
    assert truth["ignored"].shape == (0, 4)


@pytest.mark.parametrize(
    ("view", "boxes", "ignored"),
    [
        (moved(), [(0, 0, 32, 64)], []),
        (moved(x=-10), [(0, 0, 22, 64)], []),
        (moved(x=-20), [], [(0, 0, 12, 64)]),  # its centre is outside
        (moved(x=-32), [], []),  # nothing of it is seen
        (moved(zoom=4), [], [(0, 0, 64, 64)]),  # a quarter of each side
        (moved(zoom=0.01), [], [(0, 0, 0.32, 0.64)]),  # too small to be learned
    ],
)
def test_an_object_counts_if_its_centre_and_enough_of_it_is_seen(view, boxes, ignored):
    truth = truth_of_view(image(TrueObject(0, (0, 0, 50, 50))), view)
    np.testing.assert_allclose(truth["boxes"], np.reshape(boxes, (-1, 4)), atol=1e-4)
    np.testing.assert_allclose(truth["ignored"], np.reshape(ignored, (-1, 4)), atol=1e-4)


def test_ignored_objects_and_images_without_any_have_no_boxes():
    one = image(TrueObject(1, (10, 10, 50, 40), ignored=True))
    truth = truth_of_view(one, plain_view(100, 50, 100))
    assert truth["boxes"].shape == (0, 4)
    np.testing.assert_allclose(truth["ignored"], [(10, 20, 50, 80)])
    truth = truth_of_view(image(), plain_view(100, 50, 100))
    assert [truth[name].shape for name in ("boxes", "classes", "ignored")] == [(0, 4), (0,), (0, 4)]


@pytest.mark.parametrize("number", range(4))
def test_the_box_of_a_view_is_around_the_same_pixels(number):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:40, 30:60] = 255
    limits = Augmentation(rotate_deg=0, light=0, colour=0, zoom=(0.7, 1.4))
    view = draw_view(limits, 90, 60, 120, (0, number))
    rows, columns = np.nonzero(view.pixels(pixels)[..., 0] > 200)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    [box] = truth_of_view(image(TrueObject(0, (30, 20, 60, 40)), size=(90, 60)), view)["boxes"]
    np.testing.assert_allclose(found, box, atol=1.5)


def test_a_candidate_counts_for_its_best_class_alone():
    boxes = np.array([(0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5), (0.5, 0.5, 1.5, 1)], np.float32)
    scores = np.array([(0.9, 0.6), (0.5, 0.4), (0.1, 0.3)], np.float32)
    found = suppressed(boxes, scores, image())
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, (0.9, 0.3))
    np.testing.assert_allclose(found.boxes, [(0, 0, 50, 25), (50, 25, 100, 50)])


def test_an_object_is_found_once():
    one = image(TrueObject(0, (0, 0, 40, 40)))
    boxes = np.array([(0, 0, 40, 39), (0, 0, 40, 40), (0, 0, 40, 40)], np.float32)
    found = Objects(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 0, 1]))
    assert matches(one, found).tolist() == [True, False, False]


def test_default_boxes_are_the_sizes_of_the_data():
    rng = np.random.default_rng(0)
    kinds = np.array([(20, 40), (60, 30), (100, 200)])
    sizes = kinds[np.arange(300) % 3] * rng.uniform(0.95, 1.05, (300, 2))
    found = default_boxes(sizes, 3, 3, 320)
    np.testing.assert_allclose(np.concatenate(found.shapes), kinds, rtol=0.03)
    assert "of each map: 20 x 40; 60 x 30; 100 x 199; by k-means" in found.note
    across, up = found.chart
    assert across[up.index(max(up))] == 6


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_sizes_get_the_default_boxes_of_the_paper(count):
    found = default_boxes(np.full((count, 2), 30.0), 3, 9, 320)
    assert [len(own) for own in found.shapes] == [4, 4, 4]
    assert "too few" in found.note


def test_sizes_are_those_of_all_views(tmp_path):
    images = shapes(tmp_path, 3, objects=2)
    views = Views(images, Augmentation(), 64, 4, 0)
    assert 12 < len(sizes_of(views)) <= 24


def test_maps_are_the_last_of_each_stride():
    backbone = tiny_backbone()
    assert level_tensors(backbone, (8, 16, 32, 64)) == ("r3", "r4", "r5")
    assert level_tensors(backbone, (16, 32), own=True) == ("r4", "r5")


@pytest.mark.parametrize(
    ("strides", "own"), [((64,), False), ((8, 32), False), ((32, 16), False), ((32, 64), True)]
)
def test_strides_that_a_backbone_lacks_are_refused(strides, own):
    with pytest.raises(TrainingError, match=r"strides: the backbone tiny has maps .*2, 4, 8, 16"):
        level_tensors(tiny_backbone(), strides, own)


def test_small_objects_bring_the_advice_of_a_larger_input(tmp_path):
    pytest.importorskip("torch")
    from models.training.methods.ssd import Settings, Ssd

    images = shapes(tmp_path / "images", 6)
    small = Ssd(job(tmp_path, Settings(size=32), images[:4], images[4:]))
    assert re.search(r"less than 1\d px .* of 32 px; --size 64 finds", small.advice()[0])
    large = Ssd(job(tmp_path, Settings(size=64), images[:4], images[4:]))
    assert large.advice() == []
