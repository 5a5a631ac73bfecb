"""Clocks of sources that run at another rate than they say, or that nothing vouches for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.capture.clock_rate import WINDOW_NS, RateCheck
from stages.capture.source_clock import ForwardClock

MS = 1_000_000


def believed(known, stamps_ms, came_ms):
    """Whether the stamp of each picture is believed."""
    check = RateCheck()
    check.connect(known)
    return [
        check.checked_ns(round(stamp * MS), round(came * MS)) >= 0
        for stamp, came in zip(stamps_ms, came_ms, strict=True)
    ]


def every(step_ms, seconds, jitter_ms=0):
    """Times of pictures; every third one is late."""
    return [i * step_ms + jitter_ms * (i % 3 == 0) for i in range(round(seconds * 1000 / step_ms))]


@pytest.mark.parametrize("step_ms", [20, 40, 200, 1000])
def test_a_clock_of_the_right_rate_is_believed_in_spite_of_jitter(step_ms):
    stamps, came = every(step_ms, 30), every(step_ms, 30, jitter_ms=60)
    assert all(believed(True, stamps, came))
    late = believed(False, stamps, came)
    assert not late[0]
    assert late[-1]
    assert late.index(True) * step_ms <= 2 * WINDOW_NS / MS  # jitter may cost a window


@pytest.mark.parametrize("fps", [1, 5, 10, 20, 24, 30, 50])
def test_an_invented_rate_of_25_is_never_believed_where_nothing_vouches_for_it(fps):
    came = every(1000 / fps, 30)
    assert not any(believed(False, [i * 40 for i in range(len(came))], came))


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.2, 2.0])
def test_a_known_clock_of_the_wrong_rate_is_given_up_after_two_windows(rate):
    came = every(40, 30)
    found = believed(True, [at * rate for at in came], came)
    assert found.index(False) * 40 <= 2 * WINDOW_NS / MS + 80
    assert not any(found[found.index(False) :])


def test_a_network_that_stops_and_catches_up_is_no_wrong_clock():
    stamps = every(40, 30)
    came = [max(at, 5000.0) if at > 2500 else at for at in stamps]
    assert all(believed(True, stamps, came))


def test_a_burst_at_the_beginning_is_no_wrong_clock():
    stamps = every(40, 30)
    came = [max(0.0, at - 2000) for at in stamps]
    assert all(believed(True, stamps, came))
    assert believed(False, stamps, came)[-1]


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_jump_alone_is_no_wrong_rate(jump_ms):
    came = every(40, 30)
    assert all(believed(True, [4e6 + at + jump_ms * (at > 10_000) for at in came], came))


def test_a_clock_that_starts_again_and_again_is_not_believed():
    came = every(40, 30)
    assert not believed(True, [at % 2000 for at in came], came)[-1]


def test_a_clock_that_becomes_right_is_believed_again():
    came = every(40, 40)
    stamps = [at * 2 if at < 10_000 else at + 10_000 for at in came]
    found = believed(True, stamps, came)
    assert not found[250]
    assert found[-1]


def test_each_connection_is_compared_for_itself():
    check = RateCheck()
    check.connect(True)
    for at in every(40, 30):
        last = check.checked_ns(2 * at * MS, at * MS)
    assert last == -1
    check.connect(True)
    assert check.checked_ns(0, 40_000 * MS) == 0


def test_a_picture_without_a_stamp_has_none():
    check = RateCheck()
    assert check.checked_ns(-1, 0) == -1


# --- sources that have an end ---


def test_stamps_that_begin_again_go_on_by_the_step_before():
    clock = ForwardClock()
    found = [clock.time_ns(at * MS) for at in (0, 40, 80, 0, 40, 80, 0, 100)]
    assert found == [at * MS for at in (0, 40, 80, 120, 160, 200, 240, 340)]


@given(stamps=st.lists(st.integers(0, 10**12), min_size=2))
def test_whatever_the_stamps_are_time_goes_forward(stamps):
    clock = ForwardClock()
    found = [clock.time_ns(stamp) for stamp in stamps]
    assert all(before < after for before, after in itertools.pairwise(found))
