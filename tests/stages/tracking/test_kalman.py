"""The motion of boxes: it follows, foresees, and does not mind how time is cut."""

import numpy as np
import pytest

from stages.tracking import kalman

ALL = np.array([0])


def box(x=100.0, y=100.0, width=40.0, height=80.0):
    return np.array([(x - width / 2, y - height / 2, x + width / 2, y + height / 2)], np.float32)


def followed(speed_px_s, interval_s=0.1):
    """The state after 4 s."""
    states = kalman.start(box())
    for step in range(1, round(4 / interval_s) + 1):
        kalman.predict(states, interval_s)
        kalman.correct(states, ALL, box(100 + speed_px_s * interval_s * step))
    return states


@pytest.mark.parametrize("interval_s", [0.02, 0.1, 0.5])
def test_learns_a_steady_speed_in_px_per_second_at_any_frame_rate(interval_s):
    states = followed(60, interval_s)
    assert states[kalman.VELOCITY, 0] == pytest.approx([60, 0, 0, 0], abs=0.5)


def test_foresees_where_a_steady_box_will_be():
    states = followed(60)
    kalman.predict(states, 1.0)
    assert kalman.boxes_of(states)[0] == pytest.approx(box(100 + 60 * 5)[0], abs=0.5)


def test_two_short_steps_come_to_the_same_as_a_long_one():
    long, short = kalman.start(box()), kalman.start(box())
    kalman.predict(long, 0.3)
    kalman.predict(short, 0.1)
    kalman.predict(short, 0.2)
    np.testing.assert_allclose(short, long, rtol=1e-12)


def test_no_time_changes_nothing():
    states = followed(60)
    before = states.copy()
    kalman.predict(states, 0.0)
    np.testing.assert_array_equal(states, before)


def test_it_is_the_textbook_filter():
    """Against matrices of 2 x 2, for one coordinate and a box whose size stands still."""
    side, dt_s = 50.0, 0.2
    states = kalman.start(box(width=side, height=side))
    mean = np.array([100.0, 0.0])
    covariance = side**2 * np.diag([kalman.START_STD**2, kalman.START_VELOCITY_STD**2])
    move = np.array([[1, dt_s], [0, 1]])
    stray = kalman.ACCELERATION_STD**2 * np.array([[dt_s**3 / 3, dt_s**2 / 2], [dt_s**2 / 2, dt_s]])
    noise = side**2 * (stray + np.diag([kalman.DRIFT_STD**2 * dt_s, 0]))
    for x in (103.0, 109.0, 111.0):
        kalman.predict(states, dt_s)
        kalman.correct(states, ALL, box(x, width=side, height=side))
        mean, covariance = move @ mean, move @ covariance @ move.T + noise
        gain = covariance[:, 0] / (covariance[0, 0] + (side * kalman.MEASUREMENT_STD) ** 2)
        mean = mean + gain * (x - mean[0])
        covariance = covariance - np.outer(gain, covariance[0])
    assert states[[0, 4], 0] == pytest.approx(mean)
    assert states[[kalman.PP, kalman.PV, kalman.VV], 0] == pytest.approx(
        covariance[[0, 0, 1], [0, 1, 1]]
    )


def test_only_the_boxes_that_were_detected_are_corrected():
    states = kalman.start(np.concatenate([box(), box(500), box(900)]))
    before = states.copy()
    kalman.correct(states, np.array([2, 0]), np.concatenate([box(910), box(110)]))
    np.testing.assert_array_equal(states[:, 1], before[:, 1])
    assert before[0, 0] < states[0, 0] < 110
    assert before[0, 2] < states[0, 2] < 910


def test_a_box_never_shrinks_to_nothing():
    states = kalman.start(box(width=4, height=4))
    states[kalman.SIZE_VELOCITY] = -100
    kalman.predict(states, 1.0)
    assert (states[kalman.SIZE] == kalman.MIN_SIDE_PX).all()
