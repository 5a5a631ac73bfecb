"""Odd results are found in wrong readings, and in none of the right ones."""

import numpy as np
import pytest

from models.results import Results, describe
from models.transform import Transform

SIZE = (640, 640)
TRANSFORM = Transform(0.5, 0.5, 0.0, 140.0, 1280, 720)


def frames_of(results, boxes, scores, classes, frames=5):
    """Give the same rows to several frames; return which of them are handed on."""
    for _ in range(frames):
        good = results.check(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(classes, np.int32),
            TRANSFORM,
            SIZE,
        )
    return good.tolist()


def right(count=10):
    """Boxes of people all over the image, some of them over its edges."""
    x, y = np.linspace(-20, 600, count), np.linspace(130, 480, count)
    return np.stack([x, y, x + 50, y + 120], axis=1), np.linspace(0.55, 1.0, count), [0, 2] * 5


def test_right_results_are_handed_on_and_not_odd():
    results = Results(3, 0.5)
    assert all(frames_of(results, *right()))
    assert (results.rows, results.failed, results.odd()) == (50, 0, [])


@pytest.mark.parametrize(
    ("change", "text", "key"),
    [
        (lambda b, s, c: (b, s * 30, c), r"100 % of the scores are not from 0 to 1", "activation"),
        (lambda b, s, c: (b, -s + 0.3, c), None, None),
        (lambda b, s, c: (b[:, [2, 3, 0, 1]], s, c), "boxes are inverted", "outputs"),
        (lambda b, s, c: (b / 640, s, c), "100 % of the boxes are under 3 px", "units (fraction)"),
        (lambda b, s, c: (b * 640, s, c), "end far beyond the image", "units (pixels)"),
        (lambda b, s, c: (b, s, [7] * 10), "class numbers are unknown (largest 7", "class_offset"),
    ],
    ids=["logits", "weak", "inverted", "fractions", "pixels", "classes"],
)
def test_wrong_readings_are_odd_with_the_key_that_decides(change, text, key):
    results = Results(3, 0.5)
    frames_of(results, *change(*right()))
    found = results.odd()
    if text is None:
        assert found == []
        return
    line = describe(found)
    assert text in line
    assert key in line


def test_three_hundred_objects_in_every_frame_are_odd():
    results = Results(None, 0.5)
    boxes = np.tile([10.0, 200.0, 60.0, 300.0], (300, 1))
    frames_of(results, boxes, np.full(300, 0.9), np.zeros(300), frames=3)
    assert "300 objects or more in 3 of 3 frames" in describe(results.odd())


def test_rows_that_no_detector_gives_are_left_out_and_counted():
    results = Results(2, 0.5)
    box, inverted = [10, 200, 60, 300], [60, 200, 10, 300]
    good = frames_of(
        results,
        [box, box, inverted, box, box],
        [0.9, 1.5, 0.9, 0.9, 1.0004],
        [0, 0, 0, 2, 1],
        frames=1,
    )
    assert good == [True, False, False, False, True]
    assert (results.wrong_scores, results.inverted, results.unknown) == (1, 1, 1)


def test_rounding_is_no_fault():
    results = Results(2, 0.5)
    assert frames_of(results, [[10, 200, 9.9, 300]], [1.0005], [1]) == [True]
    assert results.failed == 0


def test_few_rows_say_nothing():
    results = Results(2, 0.5)
    frames_of(results, [[0.1, 0.1, 0.2, 0.3]], [0.9], [0], frames=19)
    assert results.odd() == []
    frames_of(results, [[0.1, 0.1, 0.2, 0.3]], [0.9], [0], frames=1)
    assert "under 3 px" in describe(results.odd())


def test_rows_below_the_confidence_do_not_count():
    results = Results(2, 0.5)
    frames_of(results, [[0.1, 0.1, 0.2, 0.3]] * 10, [0.4] * 10, [0] * 10)
    assert (results.rows, results.odd()) == (0, [])


def test_frames_without_rows_are_counted():
    results = Results(2, 0.5)
    assert frames_of(results, [], [], []) == []
    assert (results.frames, results.rows) == (5, 0)
