"""Clocks of sources whose rate is wrong or unknown."""

import pytest

from stages.capture.clock_rate import WINDOW_NS, RateCheck

MS = 1_000_000


def trusted(known, stamps_ms, came_ms):
    """Return whether the stamp of each image is trusted."""
    check = RateCheck()
    check.connect(known)
    return [
        check.checked_ns(round(stamp * MS), round(came * MS)) >= 0
        for stamp, came in zip(stamps_ms, came_ms, strict=True)
    ]


def every(step_ms, seconds, jitter_ms=0):
    """Return the times of images; every third one is late."""
    return [i * step_ms + jitter_ms * (i % 3 == 0) for i in range(round(seconds * 1000 / step_ms))]


@pytest.mark.parametrize("step_ms", [20, 40, 200, 1000])
def test_a_clock_of_the_right_rate_is_trusted_in_spite_of_jitter(step_ms):
    stamps, came = every(step_ms, 30), every(step_ms, 30, jitter_ms=60)
    assert all(trusted(True, stamps, came))
    late = trusted(False, stamps, came)
    assert not late[0]
    assert late[-1]
    assert late.index(True) * step_ms <= 2 * WINDOW_NS / MS  # jitter may cost a window


@pytest.mark.parametrize("fps", [1, 5, 10, 20, 24, 30, 50])
def test_an_invented_rate_of_25_is_never_trusted_if_not_known(fps):
    came = every(1000 / fps, 30)
    assert not any(trusted(False, [i * 40 for i in range(len(came))], came))


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.2, 2.0])
def test_a_known_clock_of_wrong_rate_is_not_trusted_after_two_windows(rate):
    came = every(40, 30)
    found = trusted(True, [at * rate for at in came], came)
    assert found.index(False) * 40 <= 2 * WINDOW_NS / MS + 80
    assert not any(found[found.index(False) :])


def test_a_network_that_stops_and_catches_up_is_no_wrong_clock():
    stamps = every(40, 30)
    came = [max(at, 5000.0) if at > 2500 else at for at in stamps]
    assert all(trusted(True, stamps, came))


def test_a_burst_at_the_beginning_is_no_wrong_clock():
    stamps = every(40, 30)
    came = [max(0.0, at - 2000) for at in stamps]
    assert all(trusted(True, stamps, came))
    assert trusted(False, stamps, came)[-1]


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_jump_alone_is_no_wrong_rate(jump_ms):
    came = every(40, 30)
    assert all(trusted(True, [4e6 + at + jump_ms * (at > 10_000) for at in came], came))


def test_a_clock_that_starts_again_and_again_is_not_trusted():
    came = every(40, 30)
    assert not trusted(True, [at % 2000 for at in came], came)[-1]


def test_a_clock_that_becomes_right_is_trusted_again():
    came = every(40, 40)
    stamps = [at * 2 if at < 10_000 else at + 10_000 for at in came]
    found = trusted(True, stamps, came)
    assert not found[250]
    assert found[-1]


def test_each_connection_is_compared_separately():
    check = RateCheck()
    check.connect(True)
    for at in every(40, 30):
        last = check.checked_ns(2 * at * MS, at * MS)
    assert last == -1
    check.connect(True)
    assert check.checked_ns(0, 40_000 * MS) == 0


def test_an_image_without_a_stamp_has_none():
    check = RateCheck()
    assert check.checked_ns(-1, 0) == -1
