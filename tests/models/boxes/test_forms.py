"""Boxes keep their place when they are written in another form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.forms import from_xyxy, to_xyxy

FORMS = ("xyxy", "cxcywh", "xywh", "yxyx")
CASES = {
    "xyxy": (10, 20, 16, 30),
    "cxcywh": (13, 25, 6, 10),
    "xywh": (10, 20, 6, 10),
    "yxyx": (20, 10, 30, 16),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16])
def test_a_box_in_each_form_is_the_same_box(form, dtype):
    box, written = np.array([CASES["xyxy"]], dtype), np.array([CASES[form]], dtype)
    np.testing.assert_array_equal(to_xyxy(written, form), box)
    np.testing.assert_array_equal(from_xyxy(box, form), written)
    expected = np.float64 if dtype is np.float64 else np.float32
    assert to_xyxy(written, form).dtype == from_xyxy(box, form).dtype == expected
    np.testing.assert_array_equal(box, [CASES["xyxy"]], err_msg="the argument is unchanged")


@given(arrays(np.float64, (3, 2, 4), elements=st.floats(-1e4, 1e4)), st.sampled_from(FORMS))
def test_another_form_and_back_gives_the_same_boxes(boxes, form):
    np.testing.assert_allclose(to_xyxy(from_xyxy(boxes, form), form), boxes, atol=1e-10)
    np.testing.assert_allclose(from_xyxy(to_xyxy(boxes, form), form), boxes, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_no_boxes_stay_no_boxes(form):
    none = np.zeros((0, 4), np.float32)
    assert to_xyxy(none, form).shape == from_xyxy(none, form).shape == (0, 4)
