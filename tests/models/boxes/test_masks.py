"""Masks are those of pycocotools, in each of its functions."""

import numpy as np
import pycocotools.mask as reference
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.masks import (
    Rle,
    coco_rle,
    counts_of,
    mask_of,
    merge_rles,
    read_rle,
    rle_area,
    rle_box,
    rle_iou,
    rle_of,
    text_of,
)
from models.boxes.polygons import rle_of_polygons
from models.errors import DataError

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def masks_of(size, count):
    # Few pixels that are inside, or all: runs from one column to the next.
    return st.lists(
        st.one_of(arrays(bool, size), arrays(bool, size, elements=st.just(True))),
        min_size=count,
        max_size=count,
    )


MASK = SIDES.flatmap(lambda size: masks_of(size, 1)).map(lambda masks: masks[0])
THREE = SIDES.flatmap(lambda size: masks_of(size, 3))


def theirs(mask):
    return reference.encode(np.asfortranarray(mask, np.uint8))


@given(MASK)
def test_text_box_area_and_mask_are_those_of_pycocotools(mask):
    rle, expected = rle_of(mask), theirs(mask)
    written = coco_rle(rle)
    assert written == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    again = read_rle(written, "a.json")
    np.testing.assert_array_equal(again.counts, rle.counts)
    np.testing.assert_array_equal(mask_of(again), mask)
    assert rle_area(rle) == reference.area(expected) == mask.sum()
    x, y, w, h = reference.toBbox(expected).tolist()
    assert rle_box(rle) == (x, y, x + w, y + h)


@given(THREE, THREE, st.lists(st.booleans(), min_size=3, max_size=3))
def test_iou_is_that_of_pycocotools_and_of_pixels(a, b, crowd):
    if a[0].shape != b[0].shape:
        b = [np.resize(mask, a[0].shape) for mask in b]
    found = rle_iou([rle_of(m) for m in a], [rle_of(m) for m in b], crowd)
    expected = reference.iou([theirs(m) for m in a], [theirs(m) for m in b], crowd)
    np.testing.assert_array_equal(found, expected)
    plain = rle_iou([rle_of(m) for m in a], [rle_of(m) for m in b])
    pixels = [[(p & q).sum() / max((p | q).sum(), 1) for q in b] for p in a]
    np.testing.assert_allclose(plain, pixels, atol=1e-15)


@given(THREE, st.booleans(), st.integers(1, 3))
def test_merged_masks_are_those_of_pycocotools(masks, intersect, count):
    masks = masks[:count]
    found = merge_rles([rle_of(mask) for mask in masks], intersect)
    expected = reference.merge([theirs(mask) for mask in masks], intersect)
    assert coco_rle(found)["counts"] == expected["counts"].decode()
    pixels = np.logical_and.reduce(masks) if intersect else np.logical_or.reduce(masks)
    np.testing.assert_array_equal(mask_of(found), pixels)


# Numbers, and differences, of each number of letters and either sign.
@given(st.lists(st.one_of(st.integers(0, 70), st.integers(0, 2**31 - 1)), max_size=12))
def test_counts_of_any_size_are_written_and_read_back(counts):
    text = text_of(np.array(counts, np.int64))
    assert counts_of(text).tolist() == counts_of(text.encode()).tolist() == counts
    assert all(48 <= ord(letter) < 112 for letter in text)


def test_a_large_mask_has_the_text_of_pycocotools(rng):
    y, x = np.mgrid[:720, :1280]
    mask = np.hypot(x - 500, y - 300) < 200 + 30 * np.sin(x / 9)
    mask ^= rng.random(mask.shape) < 0.001
    rle = rle_of(mask)
    assert coco_rle(rle)["counts"] == theirs(mask)["counts"].decode()
    np.testing.assert_array_equal(mask_of(read_rle(coco_rle(rle), "")), mask)


def test_runs_as_numbers_are_read_also_with_runs_of_zero():
    rle = read_rle({"size": [2, 3], "counts": [1, 2, 0, 1, 2]}, "a.json")
    assert mask_of(rle).tolist() == [[0, 1, 0], [1, 1, 0]]
    assert (rle_area(rle), rle_box(rle)) == (3, (0, 0, 2, 2))
    assert rle_iou([rle], [rle_of(mask_of(rle))]).tolist() == [[1]]
    assert merge_rles([rle]).counts.tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("abc", "not a mask as RLE"),
        ({"counts": [4]}, "not a mask as RLE"),
        ({"size": [2], "counts": [4]}, "not a mask as RLE"),
        ({"size": [2, -2], "counts": [4]}, "size of the mask is wrong"),
        ({"size": [2, 2.0], "counts": [4]}, "size of the mask is wrong"),
        ({"size": [2, True], "counts": [4]}, "size of the mask is wrong"),
        ({"size": [10**9, 10**9], "counts": [4]}, "too large"),
        ({"size": [2, 2], "counts": [3]}, "do not fill its 2x2 pixels"),
        ({"size": [2, 2], "counts": [5, 1, 2]}, "do not fill"),
        ({"size": [2, 2], "counts": []}, "do not fill"),
        ({"size": [2, 2], "counts": [5, -1]}, "runs of the mask are wrong"),
        ({"size": [2, 2], "counts": [10**30]}, "runs of the mask are wrong"),
        ({"size": [2, 2], "counts": [[4]]}, "runs of the mask are wrong"),
        ({"size": [2, 2], "counts": None}, "runs of the mask are wrong"),
        ({"size": [2, 2]}, "runs of the mask are wrong"),
        ({"size": [2, 2], "counts": "4\n"}, "a letter that is not in use"),
        ({"size": [2, 2], "counts": "4é"}, "a letter that is not in use"),
        ({"size": [2, 2], "counts": "4\ud800"}, "a letter that is not in use"),
        ({"size": [2, 2], "counts": "4\x00"}, "a letter that is not in use"),
        ({"size": [2, 2], "counts": "4T"}, "the last number is cut off"),
        ({"size": [2, 2], "counts": "o" * 40}, "the last number is cut off"),
        ({"size": [2, 2], "counts": "o" * 40 + "0"}, "a number that is too large"),
        ({"size": [2, 2], "counts": "oooooooooo1"}, "do not fill"),
    ],
)
def test_a_wrong_rle_is_refused_in_one_line(value, complaint):
    with pytest.raises(DataError, match=f"^a.json: .*{complaint}") as caught:
        read_rle(value, "a.json")
    assert len(str(caught.value)) <= 300


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20))
def test_any_text_is_read_or_refused(text):
    try:
        counts = counts_of(text)
    except ValueError:
        return
    assert counts.dtype == np.int64


def test_masks_of_different_images_are_refused():
    one, two = rle_of(np.ones((2, 3))), rle_of(np.ones((3, 2)))
    for call in (lambda: rle_iou([one], [two]), lambda: merge_rles([one, two])):
        with pytest.raises(ValueError, match="different sizes"):
            call()
    with pytest.raises(ValueError, match="no mask to merge"):
        merge_rles([])


def test_no_masks_and_empty_images_give_empty_results():
    one = rle_of(np.ones((2, 3)))
    assert rle_iou([], [one]).shape == (0, 1)
    assert rle_iou([one], []).shape == (1, 0)
    empty = rle_of(np.zeros((0, 4)))
    assert mask_of(empty).shape == (0, 4)
    assert (rle_area(empty), rle_box(empty)) == (0, (0, 0, 0, 0))
    assert rle_iou([empty], [empty]).tolist() == [[0]]
    assert isinstance(empty, Rle)


def their_polygons(polygons, height, width):
    return reference.merge(reference.frPyObjects(polygons, height, width))


NUMBER = st.one_of(
    st.floats(-5, 25), st.integers(-5, 25), st.integers(-20, 100).map(lambda n: n / 5)
)
POLYGON = st.integers(3, 8).flatmap(lambda n: st.lists(NUMBER, min_size=2 * n, max_size=2 * n))


@settings(max_examples=300)
@given(st.lists(POLYGON, min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 20))
@example([[0, 0, 0, 0, 0, 0]], 5, 5)
@example([[0, 0, 5, 0, 5, 5, 0, 5]], 5, 5)
def test_masks_of_polygons_are_those_of_pycocotools(polygons, height, width):
    found = rle_of_polygons(polygons, height, width)
    assert coco_rle(found)["counts"] == their_polygons(polygons, height, width)["counts"].decode()


def test_large_outlines_are_those_of_pycocotools(rng):
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
        radius = rng.uniform(50, 300, 60)
        points = np.stack([320 + radius * np.cos(angle), 240 + radius * np.sin(angle)], axis=1)
        polygon = points.ravel().tolist()
        found = coco_rle(rle_of_polygons([polygon], 480, 640))["counts"]
        assert found == their_polygons([polygon], 480, 640)["counts"].decode()


@pytest.mark.parametrize(
    ("polygons", "complaint"),
    [
        (None, "not a list of polygons"),
        ([], "not a list of polygons"),
        ([None], "not a polygon"),
        ([[1, 2, 3, 4]], "not a polygon"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not a polygon"),
        (["123456"], "not a polygon"),
        ([[1, 2, 3, 4, 5, True]], "not a polygon"),
        ([[1, 2, 3, 4, 5, float("nan")]], "out of range"),
        ([[1, 2, 3, 4, 5, float("inf")]], "out of range"),
        ([[1, 2, 3, 4, 5, 10**400]], "out of range"),
        ([[0, 0, 9e5, 9e5, 0, 9e5]], "too long"),
    ],
)
def test_wrong_polygons_are_refused_in_one_line(polygons, complaint):
    with pytest.raises(DataError, match=f"^a.json: .*{complaint}"):
        rle_of_polygons(polygons, 10, 10, "a.json")
