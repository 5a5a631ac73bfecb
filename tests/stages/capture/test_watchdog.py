"""The watchdog of a reading thread."""

import pytest

from stages.capture import watchdog
from stages.capture.watchdog import OVERDUE_S, STUCK_OPENING_S, STUCK_S, Watchdog


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock in seconds, as a list of one number."""
    now = [1.0]
    monkeypatch.setattr(watchdog.time, "monotonic_ns", lambda: round(now[0] * 1e9))
    return now


def test_a_thread_outside_the_library_is_never_overdue(clock):
    dog = Watchdog()
    clock[0] += 1000
    assert (dog.silent_s, dog.is_overdue) == (0.0, False)
    dog.enter(5.0)
    clock[0] += 3
    assert dog.leave() == pytest.approx(3)
    clock[0] += 1000
    assert (dog.silent_s, dog.is_overdue) == (0.0, False)


def test_a_call_is_overdue_a_little_after_its_patience(clock):
    dog = Watchdog()
    dog.enter(5.0)
    clock[0] += 5 + OVERDUE_S - 0.01
    assert not dog.is_overdue
    clock[0] += 0.02
    assert dog.is_overdue
    assert dog.max_silent_s == 5 + STUCK_S


def test_a_call_with_a_timeout_of_its_own_is_never_overdue_but_stuck(clock):
    dog = Watchdog()
    dog.enter(0.0)
    clock[0] += STUCK_OPENING_S + 1
    assert not dog.is_overdue
    assert dog.silent_s > dog.max_silent_s == STUCK_OPENING_S
