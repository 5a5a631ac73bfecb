"""Masks, keypoints and rotated boxes of COCO and YOLO are read, written, and checked."""

import json

import msgspec
import numpy as np
import pytest

from models import datasets
from models.boxes.masks import coco_rle, mask_of, rle_of
from models.boxes.rotated import corners_of
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.shapes import rle_of_object
from models.errors import DataError
from tests.models.datasets.builders import image, text

TRIANGLE = (10.0, 5.0, 30.0, 5.0, 30.0, 35.0)
SQUARE = rle_of(np.pad(np.ones((20, 30)), ((10, 20), (5, 65))))
"""Rows 10 to 29 and columns 5 to 34 of an image of 100x50."""


def coco(folder, *annotations):
    """Read a file with annotations of one image of 100x50."""
    image(folder / "a.jpg")
    own = [
        {"image_id": 1, "category_id": 1, "bbox": [5, 10, 30, 20], **item} for item in annotations
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "annotations": own,
        "categories": [{"id": 1, "name": "cat"}],
    }
    return datasets.read(text(folder / "a.json", json.dumps(document)))


def objects(data):
    return data.images[0].objects


def yolo(folder, lines, more=""):
    """Read labels of one image of 100x50."""
    image(folder / "images/a.jpg")
    text(folder / "labels/a.txt", lines)
    text(folder / "data.yaml", f"train: images\n{more}names: [cat, dog]\n")
    return datasets.read(folder)


def test_polygons_and_runs_of_coco_become_the_same_mask(tmp_path):
    runs = {"size": [50, 100], "counts": SQUARE.counts.tolist()}
    corners = [5, 10, 35, 10, 35, 30, 5, 30]
    data = coco(
        tmp_path,
        {"segmentation": [corners]},
        {"segmentation": coco_rle(SQUARE)},
        {"segmentation": runs},
        {"segmentation": []},
    )
    first, *others, without = objects(data)
    assert first.mask == (tuple(map(float, corners)),)
    for item in (first, *others):
        np.testing.assert_array_equal(mask_of(rle_of_object(item, (100, 50))), mask_of(SQUARE))
    assert without.mask is None
    assert data.notes == ()
    # Without a mask, that of the box is meant.
    np.testing.assert_array_equal(mask_of(rle_of_object(without, (100, 50))), mask_of(SQUARE))


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "1 mask is wrong, and is left out"),
        ({"segmentation": "x"}, "1 mask is wrong"),
        ({"segmentation": [[1, 2, 3, 4, 1e9, 3]]}, "1 mask is wrong"),
        ({"segmentation": {"size": [50, 100], "counts": "abc"}}, "1 mask is wrong"),
        ({"segmentation": {"size": [5, 10], "counts": [50]}}, "1 mask is wrong"),
        ({"keypoints": [1, 2]}, "1 list of keypoints is wrong, and is left out"),
        ({"keypoints": {"nose": 1}}, "1 list of keypoints is wrong"),
    ],
)
def test_wrong_masks_and_keypoints_are_counted_and_the_box_kept(tmp_path, wrong, note):
    data = coco(tmp_path, wrong)
    [item] = objects(data)
    assert (item.box, item.mask, item.keypoints) == ((5, 10, 35, 30), None, None)
    assert note in data.notes[0]


def test_keypoints_of_coco_are_read(tmp_path):
    [item] = objects(coco(tmp_path, {"keypoints": [1, 2, 2, 3.5, 4, 0]}))
    assert item.keypoints == ((1, 2, 2), (3.5, 4, 0))


def test_polygons_of_yolo_are_masks_and_four_corners_a_rotated_box(tmp_path):
    box = np.array([[50, 25, 30, 10, 0.4]])
    corners = (corners_of(box)[0] / (100, 50)).ravel()
    lines = f"0 .1 .1 .3 .1 .3 .7\n1 {' '.join(map(str, corners))}\n0 .5 .5 .2 .2\n"
    three, four, plain = objects(yolo(tmp_path, lines))
    assert three.mask == (pytest.approx(TRIANGLE),)
    assert three.rotated is None
    assert four.rotated == pytest.approx(box[0])
    assert four.mask == (pytest.approx(corners_of(box).ravel()),)
    assert (plain.mask, plain.rotated) == (None, None)


@pytest.mark.parametrize(
    ("shape", "numbers", "expected"),
    [
        ("[2, 3]", ".1 .2 2 .3 .4 0", ((10, 10, 2), (30, 20, 0))),
        ("[2, 2]", ".1 .2 -1 -1", ((10, 10, 2), (-100, -50, 0))),
    ],
)
def test_keypoints_of_yolo_have_the_shape_of_data_yaml(tmp_path, shape, numbers, expected):
    data = yolo(tmp_path, f"0 .5 .5 .2 .4 {numbers}\n", f"kpt_shape: {shape}\n")
    [item] = objects(data)
    assert item.box == pytest.approx((40, 15, 60, 35))
    assert np.array(item.keypoints) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("line", "more", "complaint"),
    [
        ("0 .5 .5 .2 .4 .1 .2 2", "kpt_shape: [2, 3]\n", "and 2 keypoints of 3 numbers"),
        ("0 .5 .5 .2 .4 nan .2 2", "kpt_shape: [1, 3]\n", "not 3 finite numbers a point"),
        ("0 .5 .5 .2 .4", "kpt_shape: 17\n", "kpt_shape: not the number of points and 2 or 3"),
    ],
)
def test_wrong_keypoints_of_yolo_are_refused(tmp_path, line, more, complaint):
    with pytest.raises(DataError, match=complaint):
        yolo(tmp_path, line, more)


def a_set(folder, *things):
    """Make a data set of one image with some objects."""
    one = LabelledImage(image(folder / "source.png"), "a.png", (100, 50), things)
    return DataSet(root=folder, format="", task="detect", labels=("cat",), images=(one,))


ROTATED = (50.0, 25.0, 30.0, 10.0, 0.4)
AROUND = (
    *np.array(corners_of(np.array([ROTATED]))[0].min(axis=0)).tolist(),
    *np.array(corners_of(np.array([ROTATED]))[0].max(axis=0)).tolist(),
)
THINGS = {
    "polygon": TrueObject(0, (10, 5, 30, 35), mask=(TRIANGLE,)),
    "keypoints": TrueObject(0, (10, 5, 30, 35), keypoints=((11, 6, 2), (12, 7, 0))),
    "rotated": TrueObject(0, AROUND, rotated=ROTATED),
    "runs": TrueObject(0, (5, 10, 35, 30), mask=coco_rle(SQUARE)["counts"]),
}


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("coco", "polygon"),
        ("coco", "keypoints"),
        ("coco", "runs"),
        ("yolo", "polygon"),
        ("yolo", "keypoints"),
        ("yolo", "rotated"),
    ],
)
def test_shapes_are_read_as_they_were_written(tmp_path, format, name):
    thing = THINGS[name]
    datasets.write(a_set(tmp_path, thing), tmp_path / "out", format)
    [found] = objects(datasets.read(tmp_path / "out", format))
    assert found.box == pytest.approx(thing.box, abs=1e-3)
    for field in (name,) if name in ("keypoints", "rotated") else ("mask",):
        expected = getattr(thing, field)
        if isinstance(expected, str):
            assert getattr(found, field) == expected
        else:
            own = np.array(getattr(found, field))
            assert own == pytest.approx(np.array(expected), abs=1e-3)


def test_masks_that_yolo_cannot_hold_are_written_as_the_box(tmp_path):
    far = msgspec.structs.replace(THINGS["polygon"], box=(10, 5, 60, 35))
    datasets.write(a_set(tmp_path, far, THINGS["runs"]), tmp_path / "out", "yolo")
    found = objects(datasets.read(tmp_path / "out"))
    assert [item.mask for item in found] == [None, None]
    assert [item.box for item in found] == [pytest.approx(far.box), pytest.approx((5, 10, 35, 30))]
