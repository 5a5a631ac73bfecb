"""Boxes are converted back to their place in the captured image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.transform import Transform, fit

SIDES = st.integers(1, 5000)


def box(*sides):
    return np.array([sides], np.float32)


@pytest.mark.parametrize(
    ("image", "anchor", "rect", "pad"),
    [
        # 1080 * 640 / 1920 = 360
        ((1920, 1080), "centre", (0, 140, 640, 360), (0, 140)),
        ((1920, 1080), "top_left", (0, 0, 640, 360), (0, 0)),
        # 721 * 640 / 1281 = 360.2
        ((1281, 721), "centre", (0, 140, 640, 360), (0, 140)),
        # 333 * 640 / 777 = 274.3
        ((333, 777), "centre", (183, 0, 274, 640), (183, 0)),
        # An odd number of pixels of padding: the odd one is at the right.
        ((334, 777), "centre", (182, 0, 275, 640), (182, 0)),
        ((640, 359), "centre", (0, 140, 640, 359), (0, 140)),
        # 500 * 640 / 501 = 638.7: Ultralytics rounds, YOLOX truncates
        ((501, 500), "centre", (0, 0, 640, 639), (0, 0)),
        ((501, 500), "top_left", (0, 0, 640, 638), (0, 0)),
        ((500, 501), "centre", (0, 0, 639, 640), (0, 0)),
        ((500, 501), "top_left", (0, 0, 638, 640), (0, 0)),
        ((1, 1), "centre", (0, 0, 640, 640), (0, 0)),
        ((4097, 1), "centre", (0, 319, 640, 1), (0, 319)),
        ((4097, 1), "top_left", (0, 0, 640, 1), (0, 0)),
        ((1, 4097), "centre", (319, 0, 1, 640), (319, 0)),
        ((1, 4097), "top_left", (0, 0, 1, 640), (0, 0)),
    ],
)
def test_letterbox_keeps_the_ratio_and_rounds_like_its_reference(image, anchor, rect, pad):
    transform, found = fit(*image, (640, 640), "letterbox", anchor)
    assert found == rect
    assert (transform.pad_x, transform.pad_y) == pad
    assert transform.scale_x == transform.scale_y == min(640 / side for side in image)


def test_stretch_has_a_scale_per_axis():
    transform, rect = fit(600, 150, (300, 300), "stretch", "centre")
    assert rect == (0, 0, 300, 300)
    assert transform[:4] == (0.5, 2, 0, 0)


def test_resize_none_accepts_only_images_of_the_input_size():
    transform, rect = fit(300, 200, (300, 200), "none", "centre")
    assert (transform[:4], rect) == ((1, 1, 0, 0), (0, 0, 300, 200))
    with pytest.raises(ValueError, match=r"images of 300x200 only \(found 200x300\)"):
        fit(200, 300, (300, 200), "none", "centre")


@given(
    SIDES, SIDES, st.sampled_from(["letterbox", "stretch"]), st.sampled_from(["centre", "top_left"])
)
def test_boxes_are_equal_after_apply_and_invert(width, height, resize, anchor):
    transform, rect = fit(width, height, (640, 480), resize, anchor)
    left, top, across, down = rect
    assert 0 <= left <= left + across <= 640
    assert 0 <= top <= top + down <= 480
    whole = box(0, 0, width, height)
    inner = box(width * 0.25, height * 0.5, width * 0.75, height)
    for boxes in (whole, inner):
        back = transform.invert(transform.apply(boxes))
        np.testing.assert_allclose(back, boxes, rtol=1e-5, atol=1e-3 / min(transform[:2]))


def test_inverted_boxes_are_clipped_to_the_image():
    transform, _ = fit(100, 50, (640, 640), "letterbox", "centre")
    outside = box(-50, -50, 700, np.inf)
    np.testing.assert_array_equal(transform.invert(outside), box(0, 0, 100, 50))


def test_inverted_boxes_are_float32():
    transform, _ = fit(100, 50, (640, 640), "letterbox", "centre")
    assert transform.invert(box(1, 2, 3, 4)).dtype == np.float32
    assert transform.invert(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_a_transform_is_made_again_from_its_array():
    transform, _ = fit(333, 777, (640, 480), "letterbox", "centre")
    assert transform.array.dtype == np.float64
    assert Transform.of(transform.array, 333, 777) == transform
