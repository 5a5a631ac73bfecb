"""Linear models on codes: support vector machines with hard negatives, and ridge regression.

Sources: Felzenszwalb et al., "Object Detection with Discriminatively Trained Part-Based Models",
PAMI 2010, section 4.4 (mining hard negatives); Girshick et al., CVPR 2014, section 2.3 (the
classifiers of R-CNN) and appendix C (its regressors).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.training.packages import package

ROUNDS = 3
"""Times that hard negatives are added."""
HARD = -1.0
"""Value above which a negative is inside of the margin, or on the wrong side."""
EASY = -1.2
"""Value below which a negative is taken out again."""
FIRST, ADDED = 2000, 3000
"""Negatives at the beginning, and hard ones that a round adds, at most."""
MAX_REGRESSED = 3000
"""Examples of a regressor: its time grows with their number to the power of 3."""

Codes = NDArray[np.float16]
"""(N, D)"""


class Plane(NamedTuple):
    """A linear model with V values: codes @ weight + bias."""

    weight: NDArray[np.float32]
    """(D, V)"""
    bias: NDArray[np.float32]
    """(V,)"""


def fit_svm(
    codes: Codes,
    positive: NDArray[np.intp],
    negative: NDArray[np.intp],
    strength: float,
    random: np.random.Generator,
) -> Plane:
    """Return a linear support vector machine (D, 1), with negatives mined in rounds.

    Most negatives are easy and change nothing. A round adds those that the machine of the last one
    gets wrong, and takes out those that it has got clearly right.

    Args:
        codes: (N, D).
        positive: rows of positives, one at least.
        negative: rows of negatives, one at least.
        strength: C, the weight of the examples against that of the margin.
        random: draws the first negatives.
    """
    svm = package("sklearn.svm")
    active = np.zeros(len(negative), np.bool_)
    active[random.permutation(len(negative))[:FIRST]] = True
    plane = Plane(np.zeros((codes.shape[1], 1), np.float32), np.zeros(1, np.float32))
    for number in range(ROUNDS + 1):
        rows = np.concatenate([positive, negative[active]])
        model = svm.LinearSVC(C=strength, random_state=0, max_iter=2000, dual=True)
        model.fit(codes[rows].astype(np.float64), np.arange(len(rows)) < len(positive))
        plane = Plane(model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32))
        if number == ROUNDS:
            break
        values = values_of(codes, negative, plane)[:, 0]
        active &= values >= EASY
        hard = np.flatnonzero((values > HARD) & ~active)
        if not len(hard):
            break
        active[hard[np.argsort(-values[hard], kind="stable")[:ADDED]]] = True
    return plane


def fit_ridges(
    codes: Codes, targets: NDArray[np.floating], limits: tuple[float, ...]
) -> list[Plane]:
    """Return a ridge regression (D, T) for each strength of its limit on the weights.

    It is solved by the products of the examples, since they have more numbers than there are
    examples (Saunders et al., ICML 1998).

    Args:
        codes: (N, D), one row at least; more than `MAX_REGRESSED` are not used.
        targets: (N, T).
        limits: lambda of each regression.
    """
    codes, targets = codes[:MAX_REGRESSED], targets[:MAX_REGRESSED]
    whole = codes.astype(np.float32)
    mean, middle = whole.mean(axis=0), targets.mean(axis=0)
    whole -= mean
    products = (whole @ whole.T).astype(np.float64)
    found = []
    for limit in limits:
        own = products + limit * np.eye(len(products))
        weight = (whole.T @ np.linalg.solve(own, targets - middle)).astype(np.float32)
        found.append(Plane(weight, (middle - mean @ weight).astype(np.float32)))
    return found


def fit_scores(values: NDArray[np.floating], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return factor and shift that make values the logarithms of odds.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.

    Args:
        values: (N,) of regions that were not trained on.
        right: (N,) whether each is an object of the class.
    """
    if right.all() or not right.any():
        return 1.0, 0.0
    model: Any = package("sklearn.linear_model").LogisticRegression(C=1e6)
    model.fit(values[:, None], right)
    # A falling line would turn the order round, where there are few examples.
    return max(float(model.coef_[0, 0]), 0.1), float(model.intercept_[0])


def values_of(codes: Codes, rows: NDArray[np.intp], plane: Plane) -> NDArray[np.float32]:
    """Return the values (len(rows), V) of some codes, a few thousand at a time."""
    parts = [
        codes[rows[start : start + 4096]].astype(np.float32) @ plane.weight + plane.bias
        for start in range(0, len(rows), 4096)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(plane.bias)), np.float32)
