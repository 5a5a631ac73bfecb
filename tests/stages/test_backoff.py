"""Delays between retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.backoff import Backoff


@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_retry_comes_after_half_a_second_to_half_a_minute(chances):
    backoff = Backoff(iter(chances).__next__)
    delays = [backoff.delay_s(0) for _ in chances]
    assert all(0.5 <= delay <= 30 for delay in delays)
    for i, delay in enumerate(delays):
        longest = min(30, 2**i)
        assert longest / 2 <= delay <= longest


def test_cameras_lost_together_are_not_retried_together():
    assert len({Backoff().delay_s(0) for _ in range(20)}) == 20


@pytest.mark.parametrize(("lived_s", "delay_s"), [(0, 30), (59.9, 30), (60, 1), (1e6, 1)])
def test_after_a_healthy_minute_the_retry_is_as_soon_as_the_first(lived_s, delay_s):
    backoff = Backoff(lambda: 1.0)
    for _ in range(10):
        backoff.delay_s(0)
    assert backoff.delay_s(lived_s) == delay_s
