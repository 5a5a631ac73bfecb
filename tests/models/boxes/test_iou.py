"""Overlaps of boxes are those of plain Python, and pairs that overlap are found."""

import math

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.iou import iou_matrix, iou_pairs, overlapping_pairs

BOX = (0, 0, 10, 10)
MEASURES = ("iou", "ioa", "giou", "diou", "ciou")


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


def true_overlap(a, b, measure):
    """A measure of two boxes in plain Python."""
    (al, at, ar, ab), (bl, bt, br, bb) = a, b
    area_a, area_b = (ar - al) * (ab - at), (br - bl) * (bb - bt)
    shared = max(min(ar, br) - max(al, bl), 0) * max(min(ab, bb) - max(at, bt), 0)
    if measure == "ioa":
        return shared / area_a if area_a else 0
    union = area_a + area_b - shared
    iou = shared / union if union else 0
    width, height = max(ar, br) - min(al, bl), max(ab, bb) - min(at, bt)
    if measure == "iou":
        return iou
    if measure == "giou":
        return iou - ((width * height - union) / (width * height) if width * height else 0)
    diagonal2 = width**2 + height**2
    distance2 = ((al + ar) / 2 - (bl + br) / 2) ** 2 + ((at + ab) / 2 - (bt + bb) / 2) ** 2
    diou = iou - (distance2 / diagonal2 if diagonal2 else 0)
    if measure == "diou":
        return diou
    slopes = [math.atan2(r - left, b - t) for left, t, r, b in (a, b)]
    v = 4 / math.pi**2 * (slopes[0] - slopes[1]) ** 2
    return diou - (v * v / (1 - iou + v) if v else 0)


def some_boxes(side):
    """Boxes with corners on a grid: many that are equal, touch, or have no area."""
    corners = arrays(side, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(-3, 6))
    return corners.map(lambda b: np.concatenate([b[:, :2], b[:, :2] + abs(b[:, 2:])], axis=1))


@pytest.mark.parametrize("measure", MEASURES)
@given(
    a=some_boxes(np.int8),
    b=some_boxes(np.int8),
    scale=st.sampled_from([1e-3, 1.0, 777.7]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_measures_of_all_pairs_are_those_of_plain_python(measure, a, b, scale, dtype):
    a, b = (a * scale).astype(dtype), (b * scale).astype(dtype)
    found = iou_matrix(a, b, measure)
    expected = [[true_overlap(p, q, measure) for q in b.tolist()] for p in a.tolist()]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=0, atol=1e-12)
    n = min(len(a), len(b))
    np.testing.assert_array_equal(iou_pairs(a[:n], b[:n], measure), np.diag(found))


@given(some_boxes(np.int8))
def test_overlap_of_a_box_with_itself_is_one(boxes):
    boxes = boxes.astype(np.float32) / 3
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for measure in MEASURES:
        assert (iou_pairs(boxes, boxes, measure) == solid).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_boxes_without_area_never_give_nan(measure):
    odd = [(0, 0, 0, 0), (5, 5, 5, 5), (0, 0, 10, 0), (8, 8, 2, 2), (0, 0, 1e-300, 1e-300), BOX]
    odd.append((-1e30, -1e30, 1e30, 1e30))
    found = iou_matrix(np.array(odd), np.array(odd), measure)
    assert np.isfinite(found).all()
    if measure in ("iou", "ioa"):
        assert (found[:5] == 0).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_no_boxes_give_an_empty_matrix(measure):
    none, some = np.zeros((0, 4), np.float32), np.array([BOX], np.float32)
    assert iou_matrix(none, some, measure).shape == (0, 1)
    assert iou_matrix(some, none, measure).shape == (1, 0)
    assert iou_pairs(none, none, measure).shape == (0,)


@given(some_boxes(np.int8), some_boxes(np.int8))
def test_pairs_are_those_of_the_matrix_above_zero(a, b):
    a, b = a.astype(np.float32) / 7, b.astype(np.float32) / 7
    i, j, iou = overlapping_pairs(a, b)
    matrix = iou_matrix(a, b)
    assert list(zip(i, j, strict=True)) == list(zip(*np.nonzero(matrix), strict=True))
    np.testing.assert_allclose(iou, matrix[i, j], rtol=1e-14)


def test_overlaps_of_a_crowd_are_those_of_pycocotools(rng):
    corner, size = rng.uniform(0, 60, (2, 40, 2)), rng.uniform(1, 40, (2, 40, 2))
    a, b = np.concatenate([corner, corner + size], axis=2)
    xywh = np.concatenate([corner, size], axis=2)
    for measure, crowd in (("iou", 0), ("ioa", 1)):
        expected = pycocotools.mask.iou(xywh[0], xywh[1], [crowd] * 40)
        np.testing.assert_allclose(iou_matrix(a, b, measure), expected, atol=1e-12)
