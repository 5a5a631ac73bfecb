"""Greedy suppression keeps the best box of each overlapping group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.iou import overlapping_pairs
from models.boxes.suppress import MAX_COORDINATE_PX, MIN_AREA_PX2, suppress

BOX = (0, 0, 10, 10)
NEAR = (0, 0, 10, 9)  # IoU with BOX: 0.9
HALF = (0, 0, 10, 5)  # IoU with BOX: 0.5
POINT = (5, 5, 5, 5)


def kept(boxes, groups=None, max_iou=0.5):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    rows = suppress(boxes, None if groups is None else np.array(groups, np.int32), max_iou)
    assert rows.dtype == np.intp
    return rows.tolist()


@pytest.mark.parametrize(
    ("boxes", "groups", "max_iou", "rows"),
    [
        pytest.param([], None, 0.5, [], id="no boxes"),
        pytest.param([], [], 0.5, [], id="no boxes, no groups"),
        pytest.param([BOX, NEAR], None, 0.5, [0], id="the first of two"),
        pytest.param([BOX, NEAR], [3, 3], 0.5, [0], id="one group that is not 0"),
        pytest.param([BOX, NEAR], [0, 1], 0.5, [0, 1], id="two groups"),
        pytest.param([BOX, HALF], None, 0.5, [0, 1], id="IoU at the limit"),
        pytest.param([BOX, HALF], None, 0.49, [0], id="IoU above the limit"),
        pytest.param([BOX, BOX], None, 1.0, [0, 1], id="equal boxes, limit 1"),
        pytest.param([POINT, BOX, POINT, NEAR], None, 0.5, [0, 1, 2], id="points"),
        pytest.param([POINT, POINT], [0, 1], 0.5, [0, 1], id="points only"),
    ],
)
def test_kept_rows(boxes, groups, max_iou, rows):
    assert kept(boxes, groups, max_iou) == rows


def test_a_dropped_box_drops_no_other_box():
    assert kept([(0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10)]) == [0, 2]


def test_coordinates_beyond_the_bound_leave_groups_apart():
    edge = MAX_COORDINATE_PX
    beyond = [(-1e30, -1e30, 1e30, 1e30), (edge - 10, 0, 4 * edge, 10), (edge - 10, 0, edge, 10)]
    assert kept(beyond, [0, 1, 2]) == [0, 1, 2]
    assert kept(beyond, [0, 1, 1]) == [0, 1]


def test_boxes_below_the_smallest_area_overlap_no_other_box():
    side = (MIN_AREA_PX2 / 2) ** 0.5
    assert kept([(0, 0, side, side)] * 2) == [0, 1]
    assert kept([(0, 0, 4 * side, 4 * side)] * 2) == [0]


# Whole pixels, so that the IoU of two boxes is exact.
@given(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            arrays(np.int16, (n, 4), elements=st.integers(-5, 25)),
            arrays(np.int32, n, elements=st.integers(0, 3)),
        )
    ),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_a_box_is_dropped_only_for_a_better_kept_box_of_its_group(case, max_iou):
    boxes, groups = case[0].astype(np.float32), case[1]
    rows = suppress(boxes, groups, max_iou)
    i, j, iou = overlapping_pairs(boxes, boxes[rows])
    rivals = (i > rows[j]) & (groups[i] == groups[rows[j]]) & (iou > max_iou + 1e-9)
    dropped = np.setdiff1d(np.arange(len(boxes)), rows)
    assert set(i[rivals].tolist()) == set(dropped.tolist())
    assert (np.diff(rows) > 0).all()
