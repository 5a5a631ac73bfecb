"""Histograms of durations: exact counts, percentiles within a few percent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.telemetry.histogram import HISTOGRAM_WORDS, Histogram, percentiles

MS = 1_000_000


def words():
    return memoryview(np.zeros(HISTOGRAM_WORDS, np.int64)).cast("B").cast("q")


def histogram(durations_ns=()):
    made = Histogram(words(), 0)
    for duration in durations_ns:
        made.record(int(duration))
    return made


def found(made):
    return percentiles(made.buckets(), made.max_ms())


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(0.1, 500, 5000),
        lambda rng: rng.lognormal(2, 1.5, 5000) + 0.1,
        lambda rng: rng.exponential(20, 5000) + 0.1,
        lambda rng: np.concatenate([rng.normal(10, 0.5, 4900), rng.normal(90, 5, 100)]),
        lambda rng: rng.uniform(60_000, 3_600_000, 300),
    ],
    ids=["uniform", "lognormal", "exponential", "two humps", "minutes"],
)
def test_percentiles_are_within_4_percent_of_the_exact_ones(draw, rng):
    durations_ms = draw(rng)
    made = found(histogram(durations_ms * MS))
    exact = np.percentile(durations_ms, [50, 95, 99], method="inverted_cdf")
    np.testing.assert_allclose([made.p50, made.p95, made.p99], exact, rtol=0.04)
    assert made.max == pytest.approx(durations_ms.max(), abs=0.001)


@given(st.integers(100_000, 10_000 * 10**9))
def test_all_percentiles_of_a_single_duration_are_that_duration(duration_ns):
    made = found(histogram([duration_ns]))
    for value in (made.p50, made.p95, made.p99):
        assert value == pytest.approx(duration_ns / MS, rel=0.04, abs=0.001)
    assert made.p50 <= made.p95 <= made.p99 <= made.max == round(duration_ns / MS, 3)


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=30))
def test_percentiles_rise_and_never_exceed_the_longest(durations_ns):
    made = found(histogram(durations_ns))
    assert made.p50 <= made.p95 <= made.p99 <= made.max


def test_percentiles_without_durations_are_zero():
    made = found(histogram())
    assert (made.p50, made.p95, made.p99, made.max) == (0, 0, 0, 0)


def test_durations_beyond_the_range_count_in_the_outer_buckets():
    made = histogram([0, -5, 2**62])
    assert made.count == 3
    assert sum(made.buckets()) == 3
    assert made.buckets()[0] == 2
    assert made.buckets()[-1] == 1


def test_counts_and_sum_are_exact():
    made = histogram([3 * MS, 5 * MS])
    assert (made.count, made.sum_ns, made.max_ms()) == (2, 8 * MS, 5.0)


def test_buckets_of_two_histograms_add_and_subtract():
    one, other = histogram([MS] * 10), histogram([100 * MS] * 90)
    both = [a + b for a, b in zip(one.buckets(), other.buckets(), strict=True)]
    assert percentiles(both, 100.0).p50 == pytest.approx(100, rel=0.04)
    before = one.buckets()
    one.record(50 * MS)
    since = [a - b for a, b in zip(one.buckets(), before, strict=True)]
    assert percentiles(since, 50.0).p50 == pytest.approx(50, rel=0.04)


def test_durations_up_to_each_bound_are_counted():
    made = histogram()
    for ms in (1, 2, 3, 50, 50, 2000):
        made.record(ms * MS)
    assert made.up_to([0.0025, 0.01, 0.1, 1.0]) == [2, 3, 5, 5, 6]
    assert made.up_to([]) == [6]
