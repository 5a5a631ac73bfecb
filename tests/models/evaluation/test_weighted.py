"""Weighted figures are the COCO figures of a data set that has images several times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import EvaluationError
from models.evaluation.detection import evaluate_detections
from models.evaluation.weighted import FIGURES, WeightedDetections
from tests.models.evaluation.builders import LABELS, image_of, random_images
from tests.models.evaluation.test_detection import EDGES


def check_figures(found, images):
    expected = evaluate_detections(images, LABELS).figures
    assert found.keys() == set(FIGURES)
    for name, value in found.items():
        theirs = getattr(expected, name)
        assert value == (None if theirs is None else pytest.approx(theirs, abs=1e-9)), name


def without_ties(images, rng):
    return [i._replace(found_scores=rng.random(len(i.found_scores))) for i in images]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_weights_of_1_give_exactly_the_coco_figures(seed, count):
    images = random_images(seed, count)
    check_figures(WeightedDetections(images, LABELS).figures(np.ones(count)), images)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_weights_of_1_give_the_curves_of_coco(seed, count):
    images = random_images(seed, count)
    expected = evaluate_detections(images, LABELS).curves
    found = WeightedDetections(images, LABELS).curves(np.ones(count))
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.precision, expected.precision, atol=1e-9)
    np.testing.assert_allclose(found.recall, expected.recall)
    assert (found.mean is None) == (expected.mean is None)


@pytest.mark.parametrize("name", EDGES)
def test_weights_of_1_give_the_coco_figures_of_unusual_images(name):
    images = EDGES[name]
    check_figures(WeightedDetections(images, LABELS).figures(np.ones(len(images))), images)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_weights_give_the_figures_of_repeated_images(seed, count):
    rng = np.random.default_rng(seed)
    images = without_ties(random_images(seed, count), rng)
    weighted = WeightedDetections(images, LABELS)
    for _ in range(3):
        weights = rng.integers(0, 4, count)
        repeated = [
            image._replace(name=f"{copy}/{image.name}")
            for image, weight in zip(images, weights, strict=True)
            for copy in range(weight)
        ]
        check_figures(weighted.figures(weights.astype(float)), repeated)


def test_recalls_of_whole_hundredths_are_reached_as_in_pycocotools():
    hundredths = np.arange(101) / 100
    # Such as 57 / 100, which differs in the last bit from the 57th of the 101 recalls.
    counts = np.flatnonzero(hundredths != np.linspace(0, 1, 101))
    assert len(counts) > 3
    box = (10, 10, 60, 60)
    found, lost = (image_of("", [(0, box)], [(0, 0.5, box)]), image_of("", [(0, box)]))
    for right in (*counts, 0, 50, 100):
        images = [
            (found if number < right else lost)._replace(name=str(number)) for number in range(100)
        ]
        check_figures(WeightedDetections(images, LABELS).figures(np.ones(100)), images)


def test_only_the_figures_that_are_asked_for_are_computed():
    images = random_images(1, 5)
    every = WeightedDetections(images, LABELS).figures(np.ones(5))
    some = WeightedDetections(images, LABELS, ("ap_small", "ar_10")).figures(np.ones(5))
    with pytest.raises(EvaluationError, match="figures: map is unknown; choose from ap, ap50"):
        WeightedDetections(images, LABELS, ("map",))
    assert some == {"ap_small": every["ap_small"], "ar_10": every["ar_10"]}


def test_no_images_leave_every_weighted_figure_undefined():
    assert WeightedDetections([], LABELS).figures(np.zeros(0)) == dict.fromkeys(FIGURES)
