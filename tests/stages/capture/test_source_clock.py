"""The clock of files; that of live sources is tried in test_live.py."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.capture.source_clock import FileClock


def times(stamps_ms, fps=25.0, joined=False):
    clock = FileClock(fps, joined)
    return [
        clock.time_ns(None if stamp is None else round(stamp * 1e6)) / 1e6 for stamp in stamps_ms
    ]


def test_stamps_that_go_forward_are_the_time_from_the_first_one():
    assert times([70, 110, 143, 410, 411]) == [0, 40, 73, 340, 341]


@pytest.mark.parametrize("joined", [False, True])
def test_stamps_that_begin_again_go_on_at_the_measured_step(joined):
    assert times([0, 100, 200, 300, 400, 500, 0, 100], joined=joined) == [
        *(0, 100, 200, 300, 400, 500),
        *(600, 700),
    ]


def test_a_long_step_forward_is_a_jump_where_recordings_may_be_joined_and_else_a_pause():
    hour = 3_600_000
    stamps = [0, 40, 80, hour, hour + 40]
    assert times(stamps, joined=True) == [0, 40, 80, 120, 160]
    assert times(stamps) == [0, 40, 80, hour, hour + 40]


def test_a_time_lapse_of_joined_recordings_keeps_its_long_steps():
    stamps = [0, 15_000, 30_000, 45_000]
    assert times(stamps, fps=1 / 15, joined=True) == stamps


def test_missing_and_repeated_stamps_are_spaced_evenly():
    assert times([None, None, None], fps=10) == [0, 100, 200]
    assert times([0, 0, 1, 1, 2], fps=2000) == [0, 0.5, 1, 1.5, 2]
    assert times([0, 40, 80, None, None, 200]) == [0, 40, 80, 120, 160, 200]


def test_stamps_out_of_order_do_not_stretch_the_time():
    found = times([0, 80, 40, 160, 120, 240, 200, 320])
    assert found[-1] == 320
    assert all(a < b for a, b in pairwise(found))


@given(
    st.lists(st.none() | st.integers(0, 10**8), min_size=2),
    st.sampled_from([0.01, 10.0, 29.97, 1000.0]),
    st.booleans(),
)
def test_it_never_stands_still_or_goes_back(stamps_ms, fps, joined):
    found = times(stamps_ms, fps, joined)
    assert all(a < b for a, b in pairwise(found))
