"""Only the pairs of boxes that overlap are found, with their IoU."""

import numpy as np
import pytest

from models.boxes.iou import overlapping_pairs

BOX = (0, 0, 10, 10)


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        pytest.param(BOX, 1.0, id="the same"),
        pytest.param((0, 0, 10, 5), 0.5, id="half of it"),
        pytest.param((5, 5, 15, 15), 25 / 175, id="a corner"),
        pytest.param((2, 2, 4, 4), 0.04, id="inside"),
        pytest.param((10, 0, 20, 10), None, id="touching"),
        pytest.param((20, 0, 30, 10), None, id="beside"),
        pytest.param((0, 20, 10, 30), None, id="below"),
        pytest.param((5, 5, 5, 5), None, id="without area"),
        pytest.param((8, 8, 2, 2), None, id="right before left"),
        pytest.param((np.nan, 0, 10, 10), None, id="not finite"),
    ],
)
def test_iou_of_two_boxes(other, iou):
    for pair in ((BOX, other), (other, BOX)):
        a, b = (np.array([box], np.float32) for box in pair)
        found = overlapping_pairs(a, b)[2].tolist()
        assert found == ([] if iou is None else [pytest.approx(iou)])


def test_pairs_that_overlap_are_found_in_order_of_rows():
    a = np.array([(0, 0, 10, 10), (20, 0, 30, 10), (100, 0, 110, 10)], np.float32)
    b = np.array([(25, 0, 35, 10), (0, 0, 10, 10), (5, 0, 25, 10)], np.float32)
    i, j, _ = overlapping_pairs(a, b)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2)]


def test_no_boxes_give_no_pairs():
    none, some = np.zeros((0, 4), np.float32), np.array([BOX], np.float32)
    assert [len(part) for part in overlapping_pairs(none, some)] == [0, 0, 0]
    assert [len(part) for part in overlapping_pairs(some, none)] == [0, 0, 0]
