"""Figures of detections equal those of pycocotools, also where data is unusual."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import EvaluationError
from models.evaluation.detection import evaluate_detections
from tests.models.evaluation.builders import (
    LABELS,
    image_of,
    of_pycocotools,
    random_image,
    random_images,
    with_rows,
)

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
CAR, PERSON, DOG = range(3)
A, B = (10, 10, 60, 60), (200, 200, 300, 300)


def near(box, by=3):
    return tuple(side + by for side in box)


def check_equal_to_pycocotools(images, labels=LABELS):
    """Compare all figures and curves with pycocotools; return ours."""
    reference = of_pycocotools(images, len(labels))
    result = evaluate_detections(images, labels)
    found = [getattr(result.figures, name) for name in NAMES]
    expected = [
        None if value == -1 else pytest.approx(value, abs=1e-9) for value in reference.stats
    ]
    assert found == expected
    precision = reference.eval["precision"][:, :, :, 0, 2]
    for number, figures in enumerate(result.figures.classes):
        values = precision[:, :, number]
        if (values == -1).all():
            assert (figures.ap, figures.ap50, figures.ap75) == (None, None, None)
            assert number not in result.curves.classes
            continue
        assert figures.ap == pytest.approx(values.mean(), abs=1e-9)
        assert figures.ap50 == pytest.approx(values[0].mean(), abs=1e-9)
        assert figures.ap75 == pytest.approx(values[5].mean(), abs=1e-9)
        row = list(result.curves.classes).index(number)
        np.testing.assert_allclose(result.curves.precision[row], values[0], atol=1e-9)
    if result.curves.mean is not None:
        assert result.curves.mean.mean() == pytest.approx(result.figures.ap50)
    return result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_random_images_have_the_figures_of_pycocotools(seed, count):
    check_equal_to_pycocotools(random_images(seed, count))


EDGES = {
    "no boxes": [image_of()],
    "nothing found": [image_of(truth=[(CAR, A), (DOG, B)])],
    "nothing true": [image_of(found=[(CAR, 0.9, A)])],
    "an image without truth": [
        image_of("a", [(CAR, A)], [(CAR, 0.5, near(A))]),
        image_of("b", [], [(CAR, 0.6, A), (CAR, 0.4, B)]),
    ],
    "a class that is only found": [image_of("a", [(CAR, A)], [(CAR, 0.5, A), (DOG, 0.9, B)])],
    "a crowd takes several": [
        image_of(
            "a",
            [(CAR, (0, 0, 200, 200)), (CAR, B)],
            [(CAR, 0.9, A), (CAR, 0.8, near(A)), (CAR, 0.7, near(B)), (CAR, 0.6, (400, 0, 450, 9))],
            ignored=[0],
        )
    ],
    "only a crowd": [image_of("a", [(CAR, A)], [(CAR, 0.9, A)], ignored=[0])],
    "equal scores within and between images": [
        image_of("a", [(CAR, A), (CAR, B)], [(CAR, 0.5, near(A, 9)), (CAR, 0.5, A)]),
        image_of("b", [(CAR, B)], [(CAR, 0.5, A), (CAR, 0.5, B)]),
    ],
    "two true boxes overlap equally": [
        image_of("a", [(CAR, A), (CAR, A)], [(CAR, 0.5, A), (CAR, 0.5, near(A)), (CAR, 0.4, A)])
    ],
    "an overlap of exactly .5": [image_of("a", [(CAR, (0, 0, 10, 10))], [(CAR, 1, (0, 0, 10, 5))])],
    "a box without area": [
        image_of("a", [(CAR, (5, 5, 5, 9)), (CAR, A)], [(CAR, 1, (5, 5, 5, 9))])
    ],
    "an area that is not that of the box": [
        image_of("a", [(CAR, A), (CAR, B)], [(CAR, 1, A), (CAR, 1, B)], areas=[5000, 900])
    ],
    "a score below 0 and above 1": [
        image_of("a", [(CAR, A), (CAR, B)], [(CAR, -2, A), (CAR, 7, near(B)), (CAR, 0, B)])
    ],
}


@pytest.mark.parametrize("name", EDGES)
def test_unusual_images_have_the_figures_of_pycocotools(name):
    check_equal_to_pycocotools(EDGES[name])


def test_only_the_best_100_boxes_of_each_class_count():
    rng = np.random.default_rng(0)
    image = random_image(rng, "a", max_truth=0, max_found=0)
    many = image_of(
        "a",
        [(CAR, A), (PERSON, B)],
        [(CAR, 0.5, near(B, shift)) for shift in range(100)]
        + [(CAR, 0.4, A), (CAR, 0.5, A)]
        + [(PERSON, 0.1, B)] * 3,
    )
    result = check_equal_to_pycocotools([many, image._replace(name="b")])
    assert result.figures.classes[CAR].ap == 0
    assert result.figures.classes[PERSON].ap == pytest.approx(1)
    fewer = with_rows(many, np.arange(1, len(many.found_boxes)))
    assert check_equal_to_pycocotools([fewer]).figures.classes[CAR].ap > 0


def test_no_images_leave_every_figure_undefined():
    result = evaluate_detections([], LABELS)
    assert [getattr(result.figures, name) for name in NAMES] == [None] * 12
    assert (result.figures.images, result.figures.objects) == (0, 0)
    assert result.curves.mean is None
    assert result.curves.precision.shape == (0, 101)


def test_images_and_objects_of_a_class_are_counted_without_ignored():
    images = [
        image_of("a", [(CAR, A), (CAR, B), (DOG, B)], ignored=[2]),
        image_of("b", [(CAR, A), (CAR, B)], ignored=[0]),
    ]
    figures = evaluate_detections(images, LABELS).figures
    assert (figures.images, figures.objects) == (2, 3)
    assert [(c.label, c.images, c.objects) for c in figures.classes] == [
        ("car", 2, 3),
        ("person", 0, 0),
        ("dog", 0, 0),
    ]


GOOD = image_of("a.jpg", [(CAR, A)], [(CAR, 0.5, A)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth_boxes": np.zeros((1, 3))}, r"a.jpg: truth: boxes are not \(N, 4\)"),
        ({"truth_boxes": np.array([[5, 0, 4, 1.0]])}, "truth: box 0 is not x1 <= x2"),
        ({"found_boxes": np.array([[0, 0, np.nan, 1]])}, "found: box 0 is not .* nan"),
        ({"found_boxes": np.array([[0, 0, 1e9, 1]])}, "found: box 0"),
        ({"found_scores": np.array([np.nan])}, "a score is not a finite number"),
        ({"found_scores": np.zeros(2)}, r"scores is not \(1,\) \(found \(2,\)\)"),
        ({"found_classes": np.array([3])}, "found: class 3 is not in the labels"),
        ({"truth_classes": np.array([-1])}, "truth: class -1 is not in the labels"),
        ({"truth_classes": np.array([0.5])}, "classes are float64; give integers"),
        ({"areas": np.array([np.inf])}, "an area is not a finite number"),
        ({"ignored": np.zeros(0, bool)}, "ignored is not"),
    ],
)
def test_wrong_arrays_are_refused_by_image_and_field(change, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_detections([GOOD._replace(**change)], LABELS)


def test_an_image_that_occurs_twice_is_refused():
    with pytest.raises(EvaluationError, match=r"images: a\.jpg occurs twice"):
        evaluate_detections([GOOD, GOOD], LABELS)
    with pytest.raises(EvaluationError, match="labels: there are none"):
        evaluate_detections([], ())


def test_an_absent_hotcoco_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(EvaluationError, match=r'pip install "eyeline\[evaluate\]"'):
        evaluate_detections([GOOD], LABELS)
