"""Boxes of the last moments, and the whole pixels of boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.drawing.recent_boxes import (
    MAX_BOXES,
    MIN_MARGIN_PX,
    RecentBoxes,
    fractions_of,
    rectangles,
)

A, NEAR_A, B = (0.1, 0.1, 0.2, 0.4), (0.13, 0.1, 0.23, 0.4), (0.6, 0.5, 0.7, 0.8)
NAN, INF = float("nan"), float("inf")


def update(recent, time_s, *found):
    """Add boxes, each alone or with a track id; return those that are kept."""
    pairs = [box if len(box) == 2 else (box, -1) for box in found]
    boxes = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
    kept = recent.update(boxes, np.array([id for _, id in pairs], np.int64), time_s)
    assert kept.dtype == np.float32
    return {tuple(round(side, 3) for side in box) for box in kept.tolist()}


def test_a_box_is_kept_for_a_time_after_it_was_last_seen():
    recent = RecentBoxes(0.5, 0.1)
    assert update(recent, 0.0, A) == {A}
    assert update(recent, 0.2, B) == {A, B}
    assert update(recent, 0.5) == {A, B}
    assert update(recent, 0.6) == {B}
    assert update(recent, 0.8) == set()


def test_without_a_time_only_the_newest_boxes_are_there():
    recent = RecentBoxes(0.0, 0.1)
    assert update(recent, 0.0, A) == {A}
    assert update(recent, 0.1, B) == {B}


def test_a_box_is_dropped_once_a_newer_one_covers_it():
    recent = RecentBoxes(0.5, 0.1)
    a_little_on = (0.105, 0.1, 0.205, 0.4)
    assert update(recent, 0.0, A, B) == {A, B}
    assert update(recent, 0.1, a_little_on) == {a_little_on, B}
    # Of what is beside the newer box, something could still be seen.
    assert update(recent, 0.2, NEAR_A) == {a_little_on, NEAR_A, B}


def test_an_object_that_moves_on_leaves_no_trail_if_it_is_tracked():
    recent = RecentBoxes(0.5, 0.1)
    assert update(recent, 0.0, (A, 7), (B, 8)) == {A, B}
    assert update(recent, 0.1, (NEAR_A, 7)) == {NEAR_A, B}


def test_an_id_that_goes_to_a_distant_object_does_not_uncover_the_first():
    recent = RecentBoxes(0.5, 0.1)
    update(recent, 0.0, (A, 7))
    assert update(recent, 0.1, (B, 7)) == {A, B}


def test_boxes_without_an_id_are_not_one_object():
    recent = RecentBoxes(0.5, 0.1)
    update(recent, 0.0, A)
    assert update(recent, 0.1, NEAR_A) == {A, NEAR_A}


def test_after_a_jump_back_boxes_are_kept_from_there_on():
    recent = RecentBoxes(0.5, 0.1)
    update(recent, 100.0, A)
    assert update(recent, 2.0, B) == {A, B}
    assert update(recent, 2.5) == {A, B}
    assert update(recent, 2.6) == set()


@pytest.mark.parametrize("frames", [1, 4])
def test_more_boxes_than_can_be_kept_become_the_whole_frame(frames):
    recent, many = RecentBoxes(0.5, 0.0), MAX_BOXES // frames + 1
    for number in range(frames):
        left = np.linspace(0, 0.9, many) + number * 1e-4
        boxes = np.column_stack([left, left * 0, left + 1e-5, left * 0 + 0.1]).astype(np.float32)
        kept = recent.update(boxes, np.full(many, -1), number * 0.1)
    assert kept.tolist() == [[0, 0, 1, 1]]
    assert update(recent, frames * 0.1, A) == {(0, 0, 1, 1), A}
    assert update(recent, 9.0, A) == {A}
    assert len(recent.state()) < 100


FRAMES = st.lists(
    st.lists(
        st.tuples(
            st.tuples(*[st.integers(-3, 19).map(lambda part: part / 16)] * 4),
            st.integers(-1, 3),
        ),
        max_size=6,
    ),
    max_size=8,
)


@settings(deadline=None)
@given(FRAMES, st.integers(0, 8))
def test_a_restored_one_goes_on_as_if_nothing_had_happened(frames, at):
    whole, broken = RecentBoxes(0.25, 0.1), RecentBoxes(0.25, 0.1)
    for number, found in enumerate(frames):
        if number == at:
            state, broken = broken.state(), RecentBoxes(0.25, 0.1)
            broken.restore(state)
        assert update(whole, number / 10, *found) == update(broken, number / 10, *found)
        assert whole.state() == broken.state()


# --- whole pixels ---


def pixels(boxes, margin=0.0, width=100, height=80):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    found = rectangles(fractions_of(boxes, width, height), margin, width, height)
    assert found.dtype == np.int32
    return found.tolist()


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((10, 20, 30, 40), 0.0, [[8, 18, 32, 42]]),
        ((10, 20, 30, 60), 0.2, [[6, 12, 34, 68]]),
        ((10.4, 20.6, 30.1, 40), 0.0, [[8, 18, 33, 42]]),
        ((10, 20, 11, 21), 0.0, [[8, 18, 13, 23]]),
        ((10, 20, 10, 20), 0.5, [[8, 18, 12, 22]]),
        ((30, 40, 10, 20), 0.0, [[8, 18, 32, 42]]),  # corners in another order
        ((-50, -50, 5, 5), 0.0, [[0, 0, 7, 7]]),
        ((95, 75, 200, 300), 0.0, [[93, 73, 100, 80]]),
        ((-INF, -INF, INF, INF), 0.1, [[0, 0, 100, 80]]),
        ((-1e30, 10, 1e30, 20), 0.0, [[0, 8, 100, 22]]),
        ((-30, 10, -1, 20), 0.5, []),
        ((100, 10, 120, 20), 0.5, []),
        ((10, 80, 20, 90), 0.5, []),
    ],
)
def test_a_box_is_all_pixels_it_touches_with_its_margin(box, margin, expected):
    assert pixels([box], margin) == expected


def test_the_largest_comes_first_and_what_it_covers_is_left_out():
    small, large, inside = (60, 60, 70, 70), (5, 5, 50, 50), (10, 10, 20, 20)
    assert pixels([small, inside, large, large]) == [[3, 3, 52, 52], [58, 58, 72, 72]]


def test_no_boxes_and_too_many():
    assert pixels([]) == []
    assert pixels([(10, 10, 11, 11)] * (MAX_BOXES + 1)) == [[0, 0, 100, 80]]


SIDES = st.one_of(st.floats(-50, 150, width=32), st.sampled_from([-INF, INF, 0, 100, 80]))


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=SIDES))
def test_every_pixel_of_every_box_is_in_a_rectangle_inside_the_frame(boxes):
    found = pixels(boxes)
    covered = np.zeros((80, 100), bool)
    for x1, y1, x2, y2 in found:
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 80
        covered[y1:y2, x1:x2] = True
    x, y = np.meshgrid(np.arange(100) + 0.5, np.arange(80) + 0.5)
    for xa, ya, xb, yb in boxes.tolist():
        inside = (x > min(xa, xb)) & (x < max(xa, xb)) & (y > min(ya, yb)) & (y < max(ya, yb))
        assert covered[inside].all()
    for one in found:
        others = [other for other in found if other is not one]
        assert not any(
            o[0] <= one[0] and o[1] <= one[1] and one[2] <= o[2] and one[3] <= o[3] for o in others
        )
    assert MIN_MARGIN_PX >= 1
