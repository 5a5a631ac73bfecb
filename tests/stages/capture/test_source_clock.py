"""Clocks of files, of live sources, and of sources that are read once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.capture.source_clock import FileClock, ForwardClock, SourceClock

MS = 1_000_000
SECOND_NS = 1_000_000_000


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


def test_a_long_step_forward_is_a_jump_only_in_joined_recordings():
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
def test_time_never_stands_still_or_goes_back(stamps_ms, fps, joined):
    found = times(stamps_ms, fps, joined)
    assert all(a < b for a, b in pairwise(found))


# --- live sources ---


def ms(*times):
    return [round(time * 1e6) for time in times]


def live_times(clock, stamps_ms, came_ms):
    return [
        clock.time_ns(stamp, came) / 1e6
        for stamp, came in zip(ms(*stamps_ms), ms(*came_ms), strict=True)
    ]


def test_between_images_time_is_the_sources_own_clock():
    clock = SourceClock(ms(1000)[0])
    assert live_times(clock, [0, 40, 80, 120], [1500, 1550, 1575, 1621]) == [500, 540, 580, 620]


def test_a_source_without_stamps_is_timed_by_arrival():
    clock = SourceClock(ms(1000)[0])
    assert [clock.time_ns(-1, came) / 1e6 for came in ms(1500, 1550, 1575)] == [500, 550, 575]


def test_across_connections_time_goes_on_by_our_clock():
    clock = SourceClock(0)
    assert live_times(clock, [0, 40], [500, 540]) == [500, 540]
    clock.connect()
    assert live_times(clock, [0, 40], [9500, 9551]) == [9500, 9540]


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_jump_of_the_sources_clock_is_not_followed(jump_ms):
    clock = SourceClock(0)
    start = 4_000_000  # of a camera that has run for an hour
    assert live_times(clock, [start, start + 40], [500, 540]) == [500, 540]
    jumped = [start + jump_ms + 80, start + jump_ms + 120]
    assert live_times(clock, jumped, [581, 620]) == [581, 621]


def test_drift_is_followed_up_to_a_second():
    clock = SourceClock(0)
    came = [i * 40.0 for i in range(3000)]
    times = live_times(clock, [at * 1.02 for at in came], came)
    assert max(abs(time - at) for time, at in zip(times, came, strict=True)) <= 1000
    steps = np.diff(times)
    assert ((steps >= 19.9) & (steps <= 41)).all()  # it waits for our clock, and never stands still


def test_after_a_crash_time_does_not_go_back():
    clock = SourceClock(0, last_ns=ms(900)[0])
    assert live_times(clock, [0, 40], [800, 840])[0] > 900


@given(
    images=st.lists(
        st.tuples(st.integers(0, 10 * SECOND_NS), st.integers(-1, 100 * SECOND_NS), st.booleans()),
        min_size=2,
    )
)
def test_time_never_goes_back_and_is_never_far_ahead_of_us(images):
    clock, came_ns, times = SourceClock(0), 0, []
    for passed_ns, stamp_ns, connected in images:
        came_ns += passed_ns
        if connected:
            clock.connect()
        times.append(clock.time_ns(stamp_ns, came_ns))
        assert abs(times[-1] - came_ns) <= 2 * SECOND_NS or times[-1] < came_ns + SECOND_NS
    assert all(before < after for before, after in pairwise(times))


# --- sources that are read once ---


def test_stamps_that_begin_again_go_on_by_the_step_before():
    clock = ForwardClock()
    found = [clock.time_ns(at * MS) for at in (0, 40, 80, 0, 40, 80, 0, 100)]
    assert found == [at * MS for at in (0, 40, 80, 120, 160, 200, 240, 340)]


@given(stamps=st.lists(st.integers(0, 10**12), min_size=2))
def test_time_goes_forward_for_any_stamps(stamps):
    clock = ForwardClock()
    found = [clock.time_ns(stamp) for stamp in stamps]
    assert all(before < after for before, after in pairwise(found))
