"""Assignments are those of SciPy, also where several are equally good."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from models.evaluation.assignment import assign

VALUES = ([0, 1], [0, 0.25, 0.5, 1], [0, 0.1, 0.2, 0.3, 0.6, 0.7], np.arange(40) / 7, [1])


def of_scipy(gain):
    rows, columns = linear_sum_assignment(-gain)
    pairs = gain[rows, columns] > 0
    return rows[pairs].tolist(), columns[pairs].tolist()


def ours(gain):
    rows, columns = assign(gain)
    return rows.tolist(), columns.tolist()


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 9), st.sampled_from(range(len(VALUES)))
)
def test_equal_gains_are_assigned_as_scipy_does(seed, height, width, kind):
    rng = np.random.default_rng(seed)
    gain = rng.choice(VALUES[kind], (height, width)).astype(float)
    gain[rng.random(gain.shape) < rng.random()] = 0
    assert ours(gain) == of_scipy(gain)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1000]))
def test_gains_of_any_size_are_assigned_as_scipy_does(seed, height, width, more):
    rng = np.random.default_rng(seed)
    gain = rng.random((height, width)) + more * (rng.random((height, width)) < 0.1)
    gain[rng.random(gain.shape) < rng.random()] = 0
    assert ours(gain) == of_scipy(gain)
