"""A region keeps the objects whose feet are in it; polygons that are none are refused."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import SetupError
from stages.region import Region

SQUARE = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]
WIDTH, HEIGHT = 64, 32


def inside(corners, points, width=WIDTH, height=HEIGHT):
    """Return which points (x, y) in px are inside, as the feet of boxes 4 px wide and 9 px high."""
    boxes = [(x - 2, y - 9, x + 2, y) for x, y in points]
    region = Region(corners, "region")
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return region.contains_feet(rows, width, height).tolist()


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((32, 16), True),
        ((32, 26), False),
        ((15, 16), False),
        ((16, 16), True),
        ((48, 24), True),
        ((48.01, 24), False),
    ],
    ids=["centre", "below", "left", "on the left side", "corner", "beside the corner"],
)
def test_a_point_is_inside_or_on_a_side(point, expected):
    assert inside(SQUARE, [point]) == [expected]


def test_the_middle_of_the_lower_edge_counts_and_not_the_centre():
    region = Region(SQUARE, "region")
    head_inside, feet_inside = (20, 10, 40, 30), (20, 0, 40, 20)
    boxes = np.array([head_inside, feet_inside], np.float32)
    assert region.contains_feet(boxes, WIDTH, HEIGHT).tolist() == [False, True]


@pytest.mark.parametrize("size", [(640, 480), (1921, 1083), (7, 3), (1, 1)])
def test_the_whole_frame_contains_boxes_at_all_its_edges(size):
    width, height = size
    whole = [(0, 0), (1, 0), (1, 1), (0, 1)]
    points = [(x, y) for x in (0, width / 3, width) for y in (0, height / 3, height)]
    assert inside(whole, points, width, height) == [True] * 9


def test_no_boxes_are_no_rows():
    assert inside(SQUARE, []) == []


# Whole numbers, of which OpenCV computes the same as exactly.
CORNERS = st.lists(
    st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT)), min_size=3, max_size=8, unique=True
)
POINTS = st.lists(st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT)), max_size=20)


@given(CORNERS, POINTS)
def test_points_are_inside_as_by_opencv(corners, points):
    try:
        found = inside([(x / WIDTH, y / HEIGHT) for x, y in corners], points)
    except SetupError:
        assume(False)
    contour = np.array(corners, np.float32).reshape(-1, 1, 2)
    expected = [cv2.pointPolygonTest(contour, (float(x), float(y)), False) >= 0 for x, y in points]
    assert found == expected


@given(CORNERS)
def test_a_polygon_is_refused_if_two_of_its_sides_meet(corners):
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    try:
        Region([(x / WIDTH, y / HEIGHT) for x, y in corners], "region")
        refused = False
    except SetupError:
        refused = True
    assert refused == any(common(*sides[i], *sides[j]) for j in range(len(sides)) for i in range(j))


def common(a, b, c, d):
    """Return whether two sides have a point in common, other than a corner that they share."""
    neighbours = bool({a, b} & {c, d})
    # The sides are the points a + s (b - a) and c + t (d - c), solved exactly in whole numbers.
    u, v, w = sub(b, a), sub(d, c), sub(c, a)
    det = cross(u, v)
    if det:
        s, t = cross(w, v), cross(w, u)
        if det < 0:
            s, t, det = -s, -t, -det
        return 0 <= s <= det and 0 <= t <= det and not neighbours
    if cross(w, u):
        return False
    along = [dot(sub(p, a), u) for p in (c, d)]
    low, high = max(min(along), 0), min(max(along), dot(u, u))
    return low < high or (low == high and not neighbours)


def sub(a, b):
    return a[0] - b[0], a[1] - b[1]


def cross(a, b):
    return a[0] * b[1] - a[1] * b[0]


def dot(a, b):
    return a[0] * b[0] + a[1] * b[1]


@pytest.mark.parametrize(
    ("corners", "complaint"),
    [
        ([], "expected 3 to 100 corners, found 0"),
        (SQUARE[:2], "expected 3 to 100 corners, found 2"),
        ([*SQUARE[:2], SQUARE[0]], "expected 3 to 100 corners, found 2"),
        (SQUARE * 26, "expected 3 to 100 corners, found 104"),
        ([*SQUARE[:3], (300, 0.5)], r"corner 4 is outside the frame \(found \[300, 0.5\]\); use"),
        ([*SQUARE[:3], (float("nan"), 0)], r"corner 4 is outside the frame \(found \[nan, 0\]"),
        ([SQUARE[i] for i in (0, 2, 1, 3)], r"crosses itself \(found side 3 on side 1\); list"),
        ([(0, 0), (0.5, 0.5), (1, 1)], "crosses itself"),
        ([(0.1, 0.1), (0.3, 0.3), (0.2, 0.2)], "crosses itself"),
        ([SQUARE[0], SQUARE[0], *SQUARE[1:]], "crosses itself"),
    ],
)
def test_corners_that_are_no_polygon_are_refused(corners, complaint):
    with pytest.raises(SetupError, match=f"^streams.yard.region: .*{complaint}"):
        Region(corners, "streams.yard.region")


def test_the_first_corner_may_be_repeated_at_the_end():
    assert len(Region([*SQUARE, SQUARE[0]], "region")) == 4
