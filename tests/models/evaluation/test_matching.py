"""Matches at a confidence agree with pycocotools, and confusions with a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.matching import (
    class_counts,
    confidence_figures,
    confusions,
    match_images,
    worst_first,
)
from tests.models.evaluation.builders import (
    LABELS,
    image_of,
    of_pycocotools,
    random_images,
    with_rows,
)

CAR, PERSON, DOG = range(3)
A, B, C = (10, 10, 60, 60), (200, 200, 300, 300), (400, 10, 440, 50)


def of_images(evaluation):
    """(image, class) -> what pycocotools matched at IoU .5, all sizes, 100 boxes."""
    return {
        (entry["image_id"], entry["category_id"]): entry
        for entry in evaluation.evalImgs
        if entry and entry["aRng"] == [0, 1e10]
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 0.6]))
def test_counts_of_each_image_are_those_of_pycocotools(seed, confidence):
    images = random_images(seed, 6)
    kept = [with_rows(image, image.found_scores >= confidence) for image in images]
    entries = of_images(of_pycocotools(kept))
    matches = match_images(images, LABELS, confidence)
    found = class_counts(images, matches, len(LABELS))
    for row in range(len(images)):
        for number in range(len(LABELS)):
            entry = entries.get((row + 1, number))
            if entry is None:
                assert found[row, number].tolist() == [0, 0, 0]
                continue
            matched, ignored = entry["dtMatches"][0] > 0, entry["dtIgnore"][0].astype(bool)
            lost = (entry["gtMatches"][0] == 0) & ~np.asarray(entry["gtIgnore"], bool)
            expected = [(matched & ~ignored).sum(), lost.sum(), (~matched).sum()]
            assert found[row, number].tolist() == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_precision_and_recall_follow_from_the_counts(seed):
    images = random_images(seed, 6)
    figures = confidence_figures(images, LABELS, 0.5)
    matches = match_images(images, LABELS, 0.5)
    right = sum(len(match.truth) for match in matches)
    missed, false = (sum(len(m.missed) for m in matches), sum(len(m.false) for m in matches))
    total = figures.total
    assert (total.right, total.missed, total.false) == (right, missed, false)
    if right:
        assert total.precision == pytest.approx(right / (right + false))
        assert total.recall == pytest.approx(right / (right + missed))
        assert 1 / total.f1 == pytest.approx((1 / total.precision + 1 / total.recall) / 2)
    assert sum(row.right for row in figures.classes) == right


def test_undefined_precision_and_recall_are_none():
    figures = confidence_figures([image_of("a", [(CAR, A)], [(DOG, 0.1, B)])], LABELS, 0.5)
    car, person, dog = figures.classes
    assert (car.precision, car.recall, car.f1) == (None, 0, 0)
    assert (person.precision, person.recall, person.f1) == (None, None, None)
    assert (dog.precision, dog.recall, dog.f1) == (None, None, None)


def plain_iou(p, q):
    width = min(p[2], q[2]) - max(p[0], q[0])
    height = min(p[3], q[3]) - max(p[1], q[1])
    shared = max(width, 0) * max(height, 0)
    union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - shared
    return shared / union if union else 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_confusions_equal_those_of_a_plain_loop(seed):
    images = random_images(seed, 4, max_truth=4, max_found=10)
    matches = match_images(images, LABELS, 0.3)
    expected = np.zeros((4, 4), int)
    for image, match in zip(images, matches, strict=True):
        for row in match.truth:
            expected[image.truth_classes[row], image.truth_classes[row]] += 1
        left = list(match.missed)
        for row in match.false:
            ious = [plain_iou(image.found_boxes[row], image.truth_boxes[at]) for at in left]
            truth = 3
            if ious and max(ious) >= 0.5:
                # the last of several equal ones
                at = max(range(len(left)), key=lambda k: (ious[k], k))
                truth = image.truth_classes[left.pop(at)]
            expected[truth, image.found_classes[row]] += 1
        for row in left:
            expected[image.truth_classes[row], 3] += 1
    found = confusions(images, matches, 3)
    np.testing.assert_array_equal(found, expected)
    assert np.diag(found)[:3].sum() == sum(len(match.found) for match in matches)


def test_a_box_of_another_class_is_a_confusion_and_two_errors():
    image = image_of(
        "a",
        [(CAR, A), (PERSON, B), (DOG, C)],
        [(CAR, 0.9, A), (DOG, 0.8, B), (DOG, 0.7, (500, 400, 520, 420)), (DOG, 0.2, C)],
    )
    (match,) = matches = match_images([image], LABELS, 0.5)
    assert (match.truth.tolist(), match.found.tolist()) == ([0], [0])
    assert (match.missed.tolist(), match.false.tolist()) == ([1, 2], [1, 2])
    assert match.errors == 4
    expected = [
        [1, 0, 0, 0],  # a car found
        [0, 0, 1, 0],  # a person taken for a dog
        [0, 0, 0, 1],  # a dog missed, as its score is too low
        [0, 0, 1, 0],  # background taken for a dog
    ]
    assert confusions([image], matches, 3).tolist() == expected


def test_boxes_on_an_ignored_object_are_no_errors():
    crowd = [(CAR, (0, 0, 100, 100))]
    image = image_of("a", crowd, [(CAR, 0.9, A), (CAR, 0.8, A), (CAR, 0.7, B)], ignored=[0])
    (match,) = match_images([image], LABELS, 0.5)
    assert (match.truth.tolist(), match.missed.tolist(), match.false.tolist()) == ([], [], [2])


def test_beyond_100_boxes_of_a_class_none_is_counted():
    found = [(CAR, 0.9, B)] * 120 + [(DOG, 0.8, C)] * 30
    (match,) = match_images([image_of("a", [], found)], LABELS, 0.5)
    assert len(match.false) == 130


def test_the_worst_images_come_first_and_perfect_ones_not():
    images = [
        image_of("perfect", [(CAR, A)], [(CAR, 0.9, A)]),
        image_of("b", [(CAR, A)]),
        image_of("worst", [(CAR, A), (CAR, B)], [(CAR, 0.9, C)]),
        image_of("a", [], [(CAR, 0.9, A)]),
    ]
    worst = worst_first(match_images(images, LABELS, 0.5))
    assert [(match.name, match.errors) for match in worst] == [("worst", 3), ("a", 1), ("b", 1)]
