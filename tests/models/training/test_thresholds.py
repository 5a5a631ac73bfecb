"""The threshold of a model, chosen on validation images."""

import numpy as np
import pytest

from models.training.thresholds import score_threshold


def test_the_lowest_of_equally_good_scores_is_taken():
    scores = np.array([0.9, 0.8, 0.5, 0.3, 0.2])
    right = np.array([True, True, True, False, False])
    assert score_threshold(scores, right, 3) == pytest.approx(0.495)


def test_one_false_among_many_right_does_not_raise_it():
    scores = np.linspace(0.99, 0.4, 60)
    right = np.ones(60, bool)
    right[-1] = False
    assert score_threshold(scores, right, 59) == pytest.approx(0.395)


def test_many_false_ones_are_left_out():
    scores = np.concatenate([np.linspace(0.9, 0.6, 20), np.linspace(0.5, 0.1, 200)])
    right = np.arange(220) < 20
    assert score_threshold(scores, right, 20) == pytest.approx(0.595)


def test_nothing_right_has_no_threshold():
    assert score_threshold(np.array([0.9]), np.array([False]), 2) is None
    assert score_threshold(np.zeros(0), np.zeros(0, bool), 2) is None


def test_it_is_not_below_the_smallest_score_that_counts():
    assert score_threshold(np.array([0.002]), np.array([True]), 1, 0.001) == 0.001
