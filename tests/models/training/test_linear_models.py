"""Linear models on codes: hard negatives are found, ridges solve their equations, odds fit."""

import numpy as np
import pytest

from models.training import linear_models
from models.training.linear_models import fit_ridges, fit_scores, fit_svm, values_of

pytest.importorskip("sklearn")


def test_rare_hard_negatives_are_mined(rng, monkeypatch):
    monkeypatch.setattr(linear_models, "FIRST", 20)
    # Of 1000 negatives, 30 are like the positives in the first number and differ in the second.
    codes = rng.normal(0, 0.05, (1050, 8))
    codes[:80, 0] += 1
    codes[50:80, 1] += 0.6
    codes = codes.astype(np.float16)
    positive, negative = np.arange(50), np.arange(50, 1050)
    plane = fit_svm(codes, positive, negative, 10.0, rng)
    assert (values_of(codes, positive, plane) > 0).all()
    assert (values_of(codes, negative, plane) < 0).all()


def test_a_ridge_solves_its_normal_equations(rng):
    codes = rng.normal(size=(40, 6)).astype(np.float16)
    targets = codes.astype(float) @ rng.normal(size=(6, 4)) + rng.normal(0, 0.1, (40, 4)) + 3
    for limit, plane in zip((0.5, 20.0), fit_ridges(codes, targets, (0.5, 20.0)), strict=True):
        centred = codes - codes.astype(float).mean(axis=0)
        expected = np.linalg.solve(
            centred.T @ centred + limit * np.eye(6), centred.T @ (targets - targets.mean(axis=0))
        )
        np.testing.assert_allclose(plane.weight, expected, atol=1e-3)
        found = values_of(codes, np.arange(40), plane)
        np.testing.assert_allclose(found.mean(axis=0), targets.mean(axis=0), atol=1e-3)


def test_scores_are_the_odds_of_the_validation_regions(rng):
    values = rng.normal(0, 2, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-(1.5 * values - 2)))
    np.testing.assert_allclose(fit_scores(values, right), (1.5, -2), atol=0.2)


@pytest.mark.parametrize("right", [False, True])
def test_values_stay_where_validation_has_one_kind_alone(right):
    assert fit_scores(np.zeros(3), np.full(3, right)) == (1.0, 0.0)


def test_a_higher_value_never_has_a_lower_score(rng):
    factor, _ = fit_scores(np.arange(6.0), np.arange(6) < 3)
    assert factor > 0
