"""Accuracies of classes equal those of a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import EvaluationError
from models.evaluation.classification import evaluate_ranks, evaluate_scores

LABELS = tuple("abcdefg")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_accuracies_equal_those_of_a_plain_loop(seed, count):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, count)  # no image is of the last class
    scores = rng.integers(0, 6, (count, 7)) / 4  # with equal scores
    result = evaluate_scores(truth, scores, LABELS)
    right = dict.fromkeys((1, 5), 0)
    confusions = np.zeros((7, 7), int)
    for number in range(count):
        order = sorted(range(7), key=lambda c: (-scores[number, c], c))
        confusions[truth[number], order[0]] += 1
        for n in right:
            right[n] += truth[number] in order[:n]
    figures = result.figures
    assert (figures.top_1, figures.top_5) == (right[1] / count, right[5] / count)
    np.testing.assert_array_equal(result.confusions[:, :-1], confusions)
    assert not result.confusions[:, -1].any()
    for number, of_class in enumerate(figures.classes):
        images = (truth == number).sum()
        assert of_class.images == images
        assert of_class.top_1 == (confusions[number, number] / images if images else None)
    defined = [c.top_1 for c in figures.classes if c.top_1 is not None]
    assert figures.mean_top_1 == pytest.approx(np.mean(defined))
    assert figures.classes[6].top_5 is None
    assert result.in_top_1.sum() == right[1]
    assert result.in_top_5.sum() == right[5]


def test_ranked_classes_give_the_same_as_scores():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 7, 50), rng.random((50, 7))
    ranked = np.argsort(-scores, axis=1)
    of_ranks, of_scores = (
        evaluate_ranks(truth, ranked, LABELS),
        evaluate_scores(truth, scores, LABELS),
    )
    assert of_ranks.figures == of_scores.figures
    assert evaluate_ranks(truth, ranked[:, :1], LABELS).figures.top_5 == of_scores.figures.top_1


def test_two_labels_have_a_top_5_accuracy_of_1():
    figures = evaluate_scores(np.array([0, 1]), np.array([[0, 1.0], [0, 1]]), ("a", "b")).figures
    assert (figures.top_1, figures.top_5) == (0.5, 1)


def test_no_images_leave_every_accuracy_undefined():
    figures = evaluate_scores(np.zeros(0, int), np.zeros((0, 7)), LABELS).figures
    assert (figures.top_1, figures.top_5, figures.mean_top_1, figures.images) == (
        None,
        None,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        (np.array([0]), np.zeros((1, 6)), r"scores: not \(1, 7\) \(found \(1, 6\)\)"),
        (np.array([7]), np.zeros((1, 7)), "true classes: class 7 is not in the labels"),
        (np.array([0]), np.full((1, 7), np.nan), "scores: one is not a finite number"),
        (np.array([0.0]), np.zeros((1, 7)), "true classes: classes are float64"),
    ],
)
def test_wrong_scores_are_refused(truth, scores, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_scores(truth, scores, LABELS)


def test_wrong_ranks_are_refused():
    with pytest.raises(EvaluationError, match=r"not \(N, K\)"):
        evaluate_ranks(np.array([0]), np.zeros((1, 0), int), LABELS)
    with pytest.raises(EvaluationError, match="ranked classes: class 9"):
        evaluate_ranks(np.array([0]), np.array([[9]]), LABELS)
    with pytest.raises(EvaluationError, match=r"true classes is not \(2,\)"):
        evaluate_ranks(np.array([0]), np.zeros((2, 1), int), LABELS)
    with pytest.raises(EvaluationError, match="labels: there are none"):
        evaluate_ranks(np.array([0]), np.zeros((1, 1), int), ())


def test_a_class_that_is_no_label_is_wrong_and_counted_apart():
    result = evaluate_ranks(np.array([0, 1, 6]), np.array([[-1, 0], [-1, -1], [6, -1]]), LABELS)
    assert result.in_top_1.tolist() == [False, False, True]
    assert result.in_top_5.tolist() == [True, False, True]
    assert result.confusions[:, -1].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert result.figures.classes[0].images == 1
