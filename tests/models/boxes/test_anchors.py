"""Anchors are those of the models that they were made for."""

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from models.boxes.anchors import (
    AnchorLevel,
    anchor_grid,
    blazeface_anchors,
    grid_points,
    octave_shapes,
    pyramid_levels,
    rpn_shapes,
    ssd_scales,
    ssd_shapes,
    tf_ssd_shapes,
    tile,
)
from tests.builders import ROOT


def levels_of(cells, shapes):
    return [AnchorLevel((n, n), own) for n, own in zip(cells, shapes, strict=True)]


def test_anchors_of_tensorflow_are_those_in_the_embedded_model():
    graph = onnx.load(ROOT / "models/weights/ssdlite_mobilenet_v2.onnx").graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    anchors = tile(levels_of([19, 10, 5, 3, 2, 1], tf_ssd_shapes()))
    assert anchors.shape == (1917, 4)
    centre, size = stored["anchor_centre"][0], 2 * stored["anchor_half"][0]
    np.testing.assert_allclose(anchors[:, :2], centre, atol=1e-6)
    np.testing.assert_allclose(anchors[:, 2:], size, atol=1e-6)


def test_tensorflow_without_reduction_has_all_shapes_in_each_level():
    full = tf_ssd_shapes(reduce_lowest=False)
    assert [len(own) for own in full] == [6] * 6
    assert full[1:] == tf_ssd_shapes()[1:]
    assert full[0][0] == (0.2, 0.2)
    assert full[0][5] == pytest.approx((math.sqrt(0.2 * 0.35),) * 2)
    assert [len(own) for own in tf_ssd_shapes(extra_ratio=None)] == [3, 5, 5, 5, 5, 5]


def test_ssd300_has_the_8732_priors_of_the_paper():
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    priors = tile(levels_of([38, 19, 10, 5, 3, 1], ssd_shapes(ssd_scales(6), ratios)))
    assert priors.shape == (8732, 4)
    # The first cell: squares of 0.2 and sqrt(0.2 * 0.34), and the ratios 2 and 1/2.
    root, extra = math.sqrt(2), math.sqrt(0.2 * 0.34)
    sizes = [(0.2, 0.2), (extra, extra), (0.2 * root, 0.2 / root), (0.2 / root, 0.2 * root)]
    np.testing.assert_allclose(priors[:4, 2:], sizes, rtol=1e-6)
    np.testing.assert_allclose(priors[:4, :2], 0.5 / 38, rtol=1e-6)
    # The last level: scale 0.9, and next 1.04.
    np.testing.assert_allclose(priors[-3], [0.5, 0.5, *[math.sqrt(0.9 * 1.04)] * 2], rtol=1e-6)


def test_scales_of_ssd_are_at_equal_distances():
    assert ssd_scales(6) == pytest.approx([0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1.04])
    assert ssd_scales(1, 0.3) == [0.3, 0.3]


def test_anchors_of_efficientdet_d0_are_in_its_order():
    ratios = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    strides = [8, 16, 32, 64, 128]
    shapes = [octave_shapes(4 * stride, 3, ratios) for stride in strides]
    anchors = tile(pyramid_levels((512, 512), strides, shapes))
    assert anchors.shape == (49104, 4)
    np.testing.assert_allclose(
        anchors[:3], [[4, 4, 32, 32], [4, 4, 44.8, 22.4], [4, 4, 22.4, 44.8]]
    )
    np.testing.assert_allclose(anchors[3, 2:], [32 * 2 ** (1 / 3)] * 2, rtol=1e-6)
    np.testing.assert_allclose(anchors[9, :2], [12, 4])
    np.testing.assert_allclose(anchors[64 * 9, :2], [4, 12])


def test_octaves_have_one_area_per_scale_and_both_orders():
    first, second = (octave_shapes(32, order=order) for order in ("scales", "ratios"))
    areas = [32**2 * 4 ** (i / 3) for i in range(3)]
    assert [w * h for w, h in first] == pytest.approx(np.repeat(areas, 3))
    assert [w * h for w, h in second] == pytest.approx(areas * 3)
    assert [w / h for w, h in first] == pytest.approx([1, 2, 0.5] * 3)
    assert sorted(first) == sorted(second)


def test_shapes_of_a_proposal_network_are_those_of_torchvision():
    # torchvision.models.detection.anchor_utils.AnchorGenerator((128, 256, 512), (0.5, 1, 2)):
    # half sides (91, 45), (64, 64), (45, 91) for the size 128, and twice, four times as much.
    expected = [(91, 45), (181, 91), (362, 181), (64, 64), (128, 128), (256, 256)]
    expected += [(45, 91), (91, 181), (181, 362)]
    assert rpn_shapes((128, 256, 512)) == [(2 * w, 2 * h) for w, h in expected]
    # A half of a pixel goes to the even number.
    assert rpn_shapes((5, 7), (1,)) == [(4, 4), (8, 8)]


def test_anchors_with_offset_zero_begin_at_the_corner():
    [level] = pyramid_levels((33, 16), [16], [[(2, 4), (6, 8)]])
    assert level.cells == (3, 1)
    rows = [[x, 0, *shape] for x in (0, 16, 32) for shape in ((2, 4), (6, 8))]
    assert tile([level], offset=0).tolist() == rows


def test_anchors_of_blazeface_are_two_and_six_per_cell():
    anchors = blazeface_anchors()
    assert anchors.shape == (896, 4)
    assert (anchors[:, 2:] == 1).all()
    fine = [
        [(x + 0.5) / 16, (y + 0.5) / 16] for y in range(16) for x in range(16) for _ in range(2)
    ]
    coarse = [[(x + 0.5) / 8, (y + 0.5) / 8] for y in range(8) for x in range(8) for _ in range(6)]
    np.testing.assert_allclose(anchors[:, :2], fine + coarse, rtol=1e-6)
    assert blazeface_anchors((192, 192), (4,), 1).shape == (2304, 4)


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.lists(st.sampled_from([4, 8, 16, 32]), max_size=3),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from(["floor", "ceil"]),
)
def test_points_of_a_grid_are_those_of_plain_loops(size, strides, offset, rounding):
    whole = math.floor if rounding == "floor" else math.ceil
    expected = [
        ((x + offset) * stride, (y + offset) * stride, stride)
        for stride in strides
        for y in range(whole(size[1] / stride))
        for x in range(whole(size[0] / stride))
    ]
    points, rows = grid_points(size, strides, offset, rounding)
    assert points.dtype == rows.dtype == np.float32
    assert [(*p, s) for p, s in zip(points.tolist(), rows.tolist(), strict=True)] == expected


def test_points_of_a_640_image_are_8400():
    assert grid_points((640, 640), (8, 16, 32)).points.shape == (8400, 2)


@pytest.mark.parametrize("order", ["anchors", "cells"])
def test_cells_with_anchors_are_in_the_order_of_the_output(order):
    shapes = [[(10, 13), (16, 30)], [(30, 61), (62, 45)]]
    grid = anchor_grid((24, 16), (8, 16), shapes, order)
    expected = []
    for stride, own in zip((8, 16), shapes, strict=True):
        cells = [(x, y) for y in range(0, 16, stride) for x in range(0, 24 - stride + 1, stride)]
        if order == "anchors":
            expected += [[*cell, stride, *shape] for shape in own for cell in cells]
        else:
            expected += [[*cell, stride, *shape] for cell in cells for shape in own]
    assert np.column_stack(grid).tolist() == expected


def test_no_levels_give_no_anchors():
    assert tile([]).shape == (0, 4)
    assert [len(part) for part in anchor_grid((64, 64), [], [])] == [0, 0, 0]
    assert tile([AnchorLevel((2, 2), [])]).shape == (0, 4)
