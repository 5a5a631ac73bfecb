"""The rate of a video, and the place of each frame in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sinks.video.rate import MAX_GAP_S, Pace, rate_of

FILM = 24000 / 1001


def placed(fps, times_s):
    """The frame that each picture of the video shows, by its index."""
    pace, shown = Pace(fps), []
    for index, time_s in enumerate(times_s):
        repeats = pace.repeats(time_s)
        if repeats is None:
            continue
        shown += shown[-1:] * repeats + [index]
        pace.take(time_s, repeats)
    return shown


def stamps(fps, count, unit_s=0.001):
    """Times of frames as a container rounds them."""
    return [round(index / fps / unit_s) * unit_s for index in range(count)]


@pytest.mark.parametrize("fps", [FILM, 30000 / 1001, 60000 / 1001, 60, 25, 10, 12.5, 9])
@pytest.mark.parametrize("unit_s", [1e-3, 1 / 90_000, 1e-9])
def test_a_declared_rate_that_the_times_confirm_is_taken_exactly(fps, unit_s):
    times_s = stamps(fps, round(fps) + 12, unit_s)
    assert rate_of(times_s, round(fps, 5)) == pytest.approx(fps, rel=1e-12)


@pytest.mark.parametrize("declared", [25, 90_000, 0, 1000, float("inf")])
def test_a_declared_rate_that_the_times_contradict_is_not_taken(declared):
    assert rate_of(stamps(10, 12), declared) in (10, 50)  # 25 declared: not on its grid
    assert rate_of(stamps(10, 12), declared) == 10


def test_the_jitter_of_a_camera_does_not_change_its_rate():
    times_s = [index / 15 + (0.012 if index % 3 else -0.009) for index in range(20)]
    assert rate_of(times_s, 0) == pytest.approx(15)


def test_frames_of_a_steady_rate_with_some_missing_are_all_shown():
    times_s = [index / 10 for index in (0, 5, 10, 11, 12, 15, 18, 21, 22, 26, 30, 31)]
    shown = placed(rate_of(times_s, 0), times_s)
    assert set(shown) == set(range(len(times_s)))


@pytest.mark.parametrize("fps", [FILM, 30000 / 1001, 60, 10])
def test_frames_at_the_rate_are_one_picture_each(fps):
    count = 20_000
    assert placed(fps, stamps(fps, count)) == list(range(count))


def test_a_missing_frame_is_the_one_before_once_more():
    assert placed(10, [0, 0.1, 0.4, 0.5]) == [0, 1, 1, 1, 2, 3]


def test_frames_that_come_too_fast_are_left_out():
    assert placed(10, [index / 20 for index in range(8)]) == [0, 1, 3, 5, 7]


def test_jitter_of_less_than_a_place_costs_no_frame():
    times_s = [index / 10 + (0.06 if index % 2 else 0) for index in range(50)]
    assert placed(10, times_s) == list(range(50))


@pytest.mark.parametrize("back_s", [0.05, 3, 1000])
def test_a_clock_that_goes_back_begins_again_behind_what_was_shown(back_s):
    times_s = [1000, 1000.1, 1000.2]
    times_s += [time_s - back_s for time_s in (1000.3, 1000.4)]
    shown = placed(10, times_s)
    assert set(shown) == set(range(5))
    assert len(shown) == 5


def test_of_a_long_gap_the_video_shows_one_minute():
    shown = placed(10, [0, 0.1, 5000, 5000.1])
    assert len(shown) == pytest.approx(3 + MAX_GAP_S * 10, abs=1)
    assert shown[-2:] == [2, 3]


@given(
    st.floats(1, 60),
    st.lists(st.floats(0.001, 2), min_size=1, max_size=60),
)
def test_a_video_lasts_as_long_as_its_source(fps, apart_s):
    times_s = [0.0]
    for far_s in apart_s:
        times_s.append(times_s[-1] + far_s)
    lasts_s = (len(placed(fps, times_s)) - 1) / fps
    assert abs(lasts_s - times_s[-1]) <= 2 / fps
