"""Rotated boxes keep their corners, and their IoU is that of clipped polygons."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.boxes.iou import iou_matrix
from models.boxes.rotated import (
    corners_of,
    from_corners,
    from_upright,
    normalised,
    rotated_iou_matrix,
    rotated_iou_pairs,
    upright_around,
)

# Few values, so that parallel sides, shared corners and equal boxes are frequent.
NUMBER = st.one_of(st.integers(-4, 4).map(float), st.floats(-5, 5))
SIDE = st.one_of(st.sampled_from([1.0, 2.0, 4.0]), st.floats(0.01, 8))
ANGLE = st.one_of(st.sampled_from([i * math.pi / 8 for i in range(-16, 17)]), st.floats(-7, 7))
BOX = st.tuples(NUMBER, NUMBER, SIDE, SIDE, ANGLE)


def array(*boxes, dtype=np.float64):
    return np.array(boxes, dtype).reshape(-1, 5)


def clipped(polygon, edge_from, edge_to):
    """The part of a polygon on the inner side of a line (Sutherland and Hodgman, 1974)."""
    (ax, ay), (bx, by) = edge_from, edge_to

    def side(point):
        return (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)

    kept = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if side(p) >= 0:
            kept.append(p)
        if (side(p) >= 0) != (side(q) >= 0):
            t = side(p) / (side(p) - side(q))
            kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return kept


def true_corners(box):
    cx, cy, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    steps = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in steps]


def true_iou(a, b):
    shape, other = true_corners(a), true_corners(b)
    for p, q in zip(other, other[1:] + other[:1], strict=True):
        shape = clipped(shape, p, q)
    pairs = zip(shape, shape[1:] + shape[:1], strict=True)
    shared = abs(sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs)) / 2
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@given(BOX, BOX)
def test_iou_is_that_of_clipped_polygons(a, b):
    iou = rotated_iou_pairs(array(a), array(b))[0]
    assert iou == pytest.approx(true_iou(a, b), abs=1e-10)
    assert rotated_iou_pairs(array(b), array(a))[0] == pytest.approx(iou, abs=1e-10)
    assert rotated_iou_matrix(array(a), array(b))[0, 0] == pytest.approx(iou, abs=1e-10)


@given(BOX)
def test_iou_of_a_box_with_itself_is_one_however_it_is_written(box):
    cx, cy, w, h, angle = box
    same = array(box, (cx, cy, h, w, angle + math.pi / 2), (cx, cy, w, h, angle + math.pi))
    np.testing.assert_allclose(rotated_iou_matrix(same, same), 1, atol=1e-11)


def test_iou_of_upright_boxes_is_that_of_their_corners(rng):
    corner = rng.integers(0, 20, (30, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 12, (30, 2))], axis=1).astype(float)
    rotated = from_upright(boxes)
    np.testing.assert_allclose(
        rotated_iou_matrix(rotated, rotated), iou_matrix(boxes, boxes), atol=1e-13
    )


def test_iou_agrees_with_opencv_to_its_precision(rng):
    a, b = rng.uniform(5, 60, (2, 100, 5))
    for p, q, iou in zip(a, b, rotated_iou_pairs(a, b), strict=True):
        shapes = [((x[0], x[1]), (x[2], x[3]), math.degrees(x[4])) for x in (p, q)]
        points = cv2.rotatedRectangleIntersection(*shapes)[1]
        shared = 0 if points is None else cv2.contourArea(cv2.convexHull(points))
        assert iou == pytest.approx(shared / (p[2] * p[3] + q[2] * q[3] - shared), abs=1e-3)


def test_rotated_boxes_without_area_or_rows_overlap_nothing():
    odd = array((1, 1, 0, 4, 0.3), (1, 1, 0, 0, 0), (1, 1, -2, 4, 1), (1, 1, 3, 3, 0.5))
    assert rotated_iou_matrix(odd, odd).tolist()[:3] == [[0] * 4] * 3
    assert rotated_iou_matrix(array(), odd).shape == (0, 4)
    assert rotated_iou_pairs(array(), array()).shape == (0,)


@given(BOX)
def test_corners_and_back_give_the_same_box(box):
    boxes = array(box)
    corners = corners_of(boxes)
    np.testing.assert_allclose(corners[0], true_corners(box), atol=1e-12)
    back = from_corners(corners)
    np.testing.assert_allclose(back[:, :4], boxes[:, :4], atol=1e-12)
    np.testing.assert_allclose(np.cos(back[:, 4] - boxes[:, 4]), 1, atol=1e-12)


def test_corners_of_a_box_without_width_keep_its_direction():
    for box in ((0, 0, 0, 5, 0.3), (0, 0, 5, 0, 0.3)):
        np.testing.assert_allclose(from_corners(corners_of(array(box))), [box], atol=1e-12)


@given(BOX)
def test_upright_box_reaches_to_the_corners(box):
    corners = corners_of(array(box))[0]
    around = upright_around(array(box))[0]
    np.testing.assert_allclose(around[:2], corners.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(around[2:], corners.max(axis=0), atol=1e-12)


@given(BOX, st.sampled_from([np.float32, np.float64]))
def test_normalised_boxes_are_the_same_area_in_one_form(box, dtype):
    given_box = array(box, dtype=dtype)
    boxes = normalised(given_box)
    w, h, angle = boxes[0, 2:].tolist()
    limit = math.pi / 4 if w == h else math.pi / 2
    assert w >= h
    assert -limit - 1e-6 <= angle <= limit + 1e-6
    tolerance = 1e-12 if dtype is np.float64 else 1e-5
    reach = 8 * tolerance
    np.testing.assert_allclose(upright_around(boxes), upright_around(given_box), atol=reach)
    again = normalised(boxes)
    np.testing.assert_array_equal(again[:, :4], boxes[:, :4])
    turns = (again - boxes)[0, 4] / (2 * limit)  # a square looks the same after a quarter turn
    assert turns == pytest.approx(round(turns), abs=1e-6)


def test_results_have_the_dtype_of_the_boxes():
    for dtype in (np.float32, np.float64):
        boxes = array((1, 2, 3, 4, 0.5), dtype=dtype)
        upright = upright_around(boxes)
        results = [corners_of(boxes), from_corners(corners_of(boxes)), normalised(boxes), upright]
        assert {r.dtype for r in [*results, from_upright(upright)]} == {np.dtype(dtype)}
