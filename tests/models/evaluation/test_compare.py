"""Intervals of differences: paired, repeatable, and with the true difference inside."""

import numpy as np
import pytest

from models.errors import EvaluationError
from models.evaluation.classification import evaluate_ranks
from models.evaluation.compare import (
    bootstrap,
    compare_classifications,
    compare_detections,
    compare_tracks,
)
from models.evaluation.detection import evaluate_detections
from models.evaluation.matching import confidence_figures
from models.evaluation.tracking import evaluate_tracks
from models.evaluation.tracks import ClipBoxes
from models.evaluation.weighted import FIGURES
from tests.models.evaluation.builders import LABELS, random_image, random_images
from tests.models.evaluation.test_tracking import random_clip


def other_boxes(images, seed, noise):
    """Return the images with true boxes found again, with noise in px and no ties."""
    rng = np.random.default_rng(seed)
    found = []
    for image in images:
        boxes = image.truth_boxes + rng.normal(0, noise, image.truth_boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        found.append(
            image._replace(
                found_boxes=boxes,
                found_classes=image.truth_classes,
                found_scores=rng.random(len(boxes)),
            )
        )
    return found


def test_differences_are_those_of_the_figures():
    first, second = random_images(1, 30), other_boxes(random_images(1, 30), 2, 3)
    differences = compare_detections(first, second, LABELS, confidence=0.5, resamples=50)
    a, b = (evaluate_detections(images, LABELS).figures for images in (first, second))
    assert [d.figure for d in differences] == [*FIGURES, "precision", "recall", "f1"]
    for found in differences[:12]:
        assert found.first == pytest.approx(getattr(a, found.figure), abs=1e-9)
        assert found.second == pytest.approx(getattr(b, found.figure), abs=1e-9)
        assert found.difference == pytest.approx(found.second - found.first)
        assert found.low <= found.difference <= found.high
    totals = [confidence_figures(images, LABELS, 0.5).total for images in (first, second)]
    for found in differences[12:]:
        expected = [getattr(total, found.figure) for total in totals]
        assert [found.first, found.second] == pytest.approx(expected)


def test_intervals_are_those_of_a_bootstrap_with_repeated_images():
    first, second = (other_boxes(random_images(3, 25), seed, 4 + seed) for seed in (1, 2))
    found, *_ = compare_detections(first, second, LABELS, ("ap",), resamples=200, seed=5)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(200):
        rows = np.sort(random.integers(0, 25, 25))
        values = [
            evaluate_detections(
                [images[row]._replace(name=str(place)) for place, row in enumerate(rows)], LABELS
            ).figures.ap
            for images in (first, second)
        ]
        drawn.append(values[1] - values[0])
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-9)


def test_a_result_compared_with_itself_has_no_difference():
    images = random_images(1, 20)
    for found in compare_detections(images, images, LABELS, resamples=30, confidence=0.5):
        assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval():
    first, second = random_images(1, 20), other_boxes(random_images(1, 20), 2, 3)

    def compare(seed):
        return compare_detections(first, second, LABELS, ("ap",), resamples=30, seed=seed)

    assert compare(1) == compare(1) != compare(2)


def test_undefined_figures_have_no_interval():
    images = random_images(1, 5, max_truth=0)
    for found in compare_detections(images, images, LABELS, resamples=5):
        assert (found.first, found.difference, found.low, found.high) == (None,) * 4


def test_one_image_has_a_difference_and_no_interval():
    (image,) = other_boxes([random_image(np.random.default_rng(4), "a")], 0, 2)
    found, *_ = compare_detections([image], [image], LABELS, ("ap",))
    assert (found.difference, found.low, found.high) == (0, None, None)
    assert compare_detections([], [], LABELS, ("ap",))[0].first is None


def test_draws_without_an_object_of_a_figure_are_left_out():
    def figures(shift):
        return lambda weights: {"a": weights[0] + shift if weights[0] else None}

    (found,) = bootstrap(figures(0), figures(2), 3, resamples=100)
    assert (found.difference, found.low, found.high) == (2, 2, 2)


def test_the_true_difference_of_accuracies_is_in_95_percent_of_intervals():
    rng = np.random.default_rng(7)
    inside, widths = 0, []
    for _ in range(60):
        truth = rng.integers(0, 3, 150)
        hard = rng.random(150)  # for both, so that they are right on the same images
        results = [
            evaluate_ranks(truth, np.where(hard + noise < p, truth, 3)[:, None], tuple("abcd"))
            for p, noise in zip((0.7, 0.8), rng.normal(0, 1e-9, 2), strict=True)
        ]
        top_1, _ = compare_classifications(*results, resamples=300)
        inside += top_1.low <= 0.1 <= top_1.high
        widths.append(top_1.high - top_1.low)
    assert 54 <= inside <= 60
    # Unpaired, the deviation of the difference would be 0.049, twice as much.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.1 * 0.9 / 150), rel=0.1)


def test_the_true_difference_of_ap_is_in_95_percent_of_intervals():
    images = random_images(11, 1500, max_truth=3, max_found=0, classes=1)
    first, second = other_boxes(images, 1, 3), other_boxes(images, 2, 4)
    a, b = (evaluate_detections(each, ("a",)).figures.ap50 for each in (first, second))
    inside = 0
    for trial in range(30):
        part = slice(50 * trial, 50 * trial + 50)
        found, *_ = compare_detections(first[part], second[part], ("a",), ("ap50",), resamples=80)
        inside += found.low <= b - a <= found.high
    assert 26 <= inside <= 30


def test_tracks_are_compared_by_clip():
    rng = np.random.default_rng(2)
    first = [random_clip(rng, str(number), 9, 4, 0.01) for number in range(8)]
    second = [
        ClipBoxes(
            clip.name,
            [
                f._replace(
                    found_ids=f.truth_ids, found_boxes=f.truth_boxes + np.array([0, 0, 2, 0])
                )
                for f in clip.frames
            ],
        )
        for clip in first
    ]
    differences = compare_tracks(first, second, resamples=100)
    for found in differences:
        assert found.first == pytest.approx(getattr(evaluate_tracks(first), found.figure))
        assert found.second == pytest.approx(getattr(evaluate_tracks(second), found.figure))
        assert found.low < found.difference < found.high
    assert compare_tracks(first, first, ("mota",), resamples=9)[0].high == 0


def test_results_of_different_images_are_refused():
    a, b = random_images(1, 2), random_images(2, 2)
    with pytest.raises(EvaluationError, match=r"0\.jpg: its size or true boxes differ"):
        compare_detections(a, b, LABELS)
    with pytest.raises(EvaluationError, match=r"found 0\.jpg and 1\.jpg at one place"):
        compare_detections(a, a[::-1], LABELS)
    with pytest.raises(EvaluationError, match=r"found 1\.jpg and none"):
        compare_detections(a, a[:1], LABELS)
    results = [evaluate_ranks(np.array([n]), np.array([[0]]), ("a", "b")) for n in (0, 1)]
    with pytest.raises(EvaluationError, match="not of the same images"):
        compare_classifications(*results)


def test_results_of_different_clips_are_refused():
    clips = [random_clip(np.random.default_rng(seed), "a", 3, 4, 1) for seed in (1, 2)]
    with pytest.raises(EvaluationError, match="a: its frames or true tracks differ"):
        compare_tracks(clips[:1], clips[1:])
    with pytest.raises(EvaluationError, match="figures: speed is none of tracking"):
        compare_tracks(clips[:1], clips[:1], ("speed",))
