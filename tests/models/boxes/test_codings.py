"""Boxes that are encoded and decoded are the same, and decoded as plain Python does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.distances import decode_bins, decode_distances, encode_bins, encode_distances
from models.boxes.grids import (
    decode_yolov3,
    decode_yolov5,
    decode_yolox,
    encode_yolov3,
    encode_yolov5,
    encode_yolox,
)
from models.boxes.offsets import (
    FASTER_RCNN,
    RPN,
    SSD,
    TF_SSD,
    OffsetCoding,
    decode_offsets,
    encode_offsets,
)

N = 6
RAW = arrays(np.float64, (N, 4), elements=st.floats(-4, 4))
POINTS = arrays(np.float64, (N, 2), elements=st.integers(0, 79)).map(lambda cells: cells * 8)
SIZES = arrays(np.float64, (N, 2), elements=st.floats(1, 200))
STRIDES = arrays(np.float64, N, elements=st.sampled_from([8.0, 16.0, 32.0]))
CODINGS = [SSD, TF_SSD, FASTER_RCNN, RPN, OffsetCoding((1, 2, 3, 4), yx_first=True)]
ORDERS = ("rows", "columns", "bin_rows", "bin_columns")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def box_of(cx, cy, w, h):
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def check(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(RAW, POINTS, SIZES, st.sampled_from(CODINGS))
def test_offsets_are_decoded_as_in_plain_python_and_encoded_back(raw, points, sizes, coding):
    anchors = np.concatenate([points, sizes], axis=1)
    expected = []
    for row, (cx, cy, w, h) in zip(raw.tolist(), anchors.tolist(), strict=True):
        ty, tx, th, tw = row
        if not coding.yx_first:
            tx, ty, tw, th = row
        tx, ty, tw, th = (t / s for t, s in zip((tx, ty, tw, th), coding.scales, strict=True))
        expected.append(box_of(cx + tx * w, cy + ty * h, w * math.exp(tw), h * math.exp(th)))
    boxes = decode_offsets(raw, anchors, coding)
    check(boxes, expected)
    check(encode_offsets(boxes, anchors, coding), raw)


def test_growth_of_faster_rcnn_is_limited():
    anchors, raw = np.array([(50, 50, 16, 16)]), np.array([(0, 0, 1e4, 5 * math.log(2))])
    [[left, top, right, bottom]] = decode_offsets(raw, anchors, FASTER_RCNN).tolist()
    assert (right - left, bottom - top) == (pytest.approx(1000), pytest.approx(32))
    assert decode_offsets(raw.astype(np.float32), anchors, SSD)[0, 2] == np.inf


def test_a_side_of_zero_is_encoded_as_minus_infinity_and_back():
    anchors, boxes = np.array([(5, 5, 4, 4)]), np.array([(3, 3, 3, 9)])
    offsets = encode_offsets(boxes.astype(float), anchors)
    assert offsets[0, 2] == -np.inf
    check(decode_offsets(offsets, anchors), boxes)


@given(arrays(np.float64, (N, 4), elements=st.floats(-2, 20)), POINTS, STRIDES)
def test_distances_are_decoded_as_in_plain_python_and_back(distances, points, strides):
    zipped = zip(points.tolist(), distances.tolist(), strides.tolist(), strict=True)
    expected = [[x - a * s, y - b * s, x + c * s, y + d * s] for (x, y), (a, b, c, d), s in zipped]
    boxes = decode_distances(distances, points, strides)
    check(boxes, expected)
    check(encode_distances(boxes, points, strides), distances)
    check(encode_distances(decode_distances(distances, points), points), distances)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bins", [1, 2, 16])
def test_bins_are_decoded_to_their_expectation(order, bins, rng):
    logits = rng.normal(0, 3, (5, 4, bins))
    logits[0, 0] += 1e4  # a softmax does not depend on a constant
    expected = []
    for point in logits.tolist():
        powers = [[math.exp(x - max(side)) for x in side] for side in point]
        expected.append([sum(i * p for i, p in enumerate(ps)) / sum(ps) for ps in powers])
    table = logits if order in ("rows", "columns") else logits.transpose(0, 2, 1)
    table = table.reshape(5, -1)
    written = table.T if order in ("columns", "bin_columns") else table
    check(decode_bins(written, order), expected)
    found = decode_bins(written.astype(np.float32), order)
    assert (found.dtype, found.shape) == (np.float32, (5, 4))
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("order", ORDERS)
@given(arrays(np.float64, (N, 4), elements=st.floats(0, 15)))
def test_bins_of_a_distance_have_it_as_their_expectation(order, distances):
    logits = encode_bins(distances, 16, order)
    assert (np.isfinite(logits).sum(axis=0 if "columns" in order else 1) <= 8).all()
    check(decode_bins(logits, order), distances)


def test_distances_beyond_the_last_bin_are_moved_to_it():
    logits = encode_bins(np.array([(-1.0, 2.5, 7.0, 99.0)]), 8)
    check(decode_bins(logits), [[0, 2.5, 7, 7]])


def test_bins_that_are_not_four_per_point_are_refused():
    with pytest.raises(ValueError, match=r"columns take 4 \* B numbers per point"):
        decode_bins(np.zeros((63, 9)))
    with pytest.raises(ValueError, match=r"found \(9, 63\)"):
        decode_bins(np.zeros((9, 63)), "rows")


@given(RAW, POINTS, STRIDES, SIZES, st.sampled_from([1.0, 1.05, 1.2]))
def test_yolov3_is_decoded_as_in_plain_python_and_encoded_back(raw, points, strides, sizes, spread):
    expected = []
    for row, corner, stride, size in zip(raw, points, strides, sizes, strict=True):
        cx, cy = (
            ((sigmoid(t) - 0.5) * spread + 0.5 + c / stride) * stride
            for t, c in zip(row[:2], corner, strict=True)
        )
        expected.append(box_of(cx, cy, math.exp(row[2]) * size[0], math.exp(row[3]) * size[1]))
    boxes = decode_yolov3(raw, points, strides, sizes, spread)
    check(boxes, expected)
    np.testing.assert_allclose(
        encode_yolov3(boxes, points, strides, sizes, spread), raw, rtol=1e-7, atol=1e-7
    )


@given(RAW, POINTS, STRIDES, SIZES)
def test_yolov5_is_decoded_as_in_plain_python_and_encoded_back(raw, points, strides, sizes):
    expected = []
    for row, corner, stride, size in zip(raw, points, strides, sizes, strict=True):
        x, y, w, h = (sigmoid(t) for t in row)
        cx = (x * 2 - 0.5 + corner[0] / stride) * stride
        cy = (y * 2 - 0.5 + corner[1] / stride) * stride
        expected.append(box_of(cx, cy, (2 * w) ** 2 * size[0], (2 * h) ** 2 * size[1]))
    boxes = decode_yolov5(raw, points, strides, sizes)
    check(boxes, expected)
    np.testing.assert_allclose(
        encode_yolov5(boxes, points, strides, sizes), raw, rtol=1e-6, atol=1e-6
    )


@given(RAW, POINTS, STRIDES)
def test_yolox_is_decoded_as_in_plain_python_and_encoded_back(raw, points, strides):
    expected = [
        box_of((x + px / s) * s, (y + py / s) * s, math.exp(w) * s, math.exp(h) * s)
        for (x, y, w, h), (px, py), s in zip(raw, points, strides, strict=True)
    ]
    boxes = decode_yolox(raw, points, strides)
    check(boxes, expected)
    check(encode_yolox(boxes, points, strides), raw)


def test_extreme_numbers_of_a_model_give_no_warning_and_no_nan():
    raw = np.array([(1e4, -1e4, 1e4, -1e4)], np.float32)
    corners, strides = np.array([(8, 16)], np.float32), np.array([8], np.float32)
    sizes = np.array([(10, 20)], np.float32)
    for boxes in (
        decode_yolov3(raw, corners, strides, sizes),
        decode_yolov5(raw, corners, strides, sizes),
        decode_yolox(raw, corners, strides),
        decode_offsets(raw, np.array([(5, 5, 4, 4)], np.float32)),
    ):
        assert not np.isnan(boxes).any()
    for step in (0, 8):  # a centre at an end of the sigmoid
        centre = corners + np.array([step, 4])
        box = np.concatenate([centre - 2, centre + 2], axis=1)
        assert np.isinf(encode_yolov3(box, corners, strides, sizes)[0, 0])
        check(
            decode_yolov3(encode_yolov3(box, corners, strides, sizes), corners, strides, sizes), box
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_decoded_boxes_have_the_dtype_of_the_output(dtype):
    raw, points = np.zeros((N, 4), dtype), np.zeros((N, 2), np.float32)
    strides, sizes = np.full(N, 8, np.float32), np.full((N, 2), 10, np.float32)
    anchors = np.concatenate([points, sizes], axis=1)
    results = [
        decode_offsets(raw, anchors),
        decode_offsets(raw, anchors, FASTER_RCNN),
        encode_offsets(decode_offsets(raw, anchors), anchors),
        decode_distances(raw, points, strides),
        encode_distances(decode_distances(raw, points, strides), points, strides),
        decode_bins(np.zeros((64, N), dtype)),
        decode_yolov3(raw, points, strides, sizes),
        decode_yolov5(raw, points, strides, sizes),
        decode_yolox(raw, points, strides),
        encode_yolox(decode_yolox(raw, points, strides), points, strides),
    ]
    expected = np.float64 if dtype is np.float64 else np.float32
    assert {(r.dtype, r.shape) for r in results} == {(np.dtype(expected), (N, 4))}


def test_no_rows_give_no_boxes():
    none, points = np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32)
    strides = np.zeros(0, np.float32)
    for boxes in (
        decode_offsets(none, none),
        decode_distances(none, points, strides),
        decode_yolov3(none, points, strides, points),
        decode_yolov5(none, points, strides, points),
        decode_yolox(none, points, strides),
        decode_bins(np.zeros((64, 0), np.float32)),
        decode_bins(np.zeros((0, 64), np.float32), "rows"),
    ):
        assert boxes.shape == (0, 4)
