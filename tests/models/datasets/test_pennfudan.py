"""Penn-Fudan: texts of boxes, and a PNG with the number of an object per pixel."""

import cv2
import msgspec
import numpy as np
import pytest

from models import datasets
from models.datasets.base import TrueObject
from models.datasets.shapes import rle_of_object
from models.errors import DataError
from tests.models.datasets.builders import image, small_set, text

HEAD = """# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/{name}.png"
Image size (X x Y x C) : 100 x 50 x 3
Objects with ground truth : 2 {{ "PASpersonWalking" "PASpersonStanding" }}
# Top left pixel co-ordinates : (1, 1)
"""
BOX = (
    'Bounding box for object {number} "{label}" (Xmin, Ymin) - (Xmax, Ymax) : '
    "({x1}, {y1}) - ({x2}, {y2})\n"
    'Pixel mask for object {number} "{label}" : "PennFudanPed/PedMasks/p1_mask.png"\n'
)


def box(number, x1, y1, x2, y2, label="PASpersonWalking"):
    return BOX.format(number=number, label=label, x1=x1, y1=y1, x2=x2, y2=y2)


TWO = box(1, 11, 6, 30, 35) + box(2, 91, 1, 110, 50, "PASpersonStanding")


def masks_of_two():
    values = np.zeros((50, 100), np.uint8)
    values[5:35, 10:30] = 1
    values[0:50, 90:100] = 2
    values[10:20, 92:96] = 0
    return values


def written(root, images, masks, content=TWO, suffix="png", values=None):
    text(root / "Annotation/p1.txt", HEAD.format(name="p1") + content)
    image(root / images / f"p1.{suffix}")
    (root / masks).mkdir()
    values = masks_of_two() if values is None else values
    assert cv2.imwrite(str(root / masks / "p1_mask.png"), values)
    return root


@pytest.mark.parametrize(
    ("images", "masks", "suffix"),
    [("PNGImages", "PedMasks", "png"), ("images", "masks", "jpg"), ("JPEGImages", "masks", "jpeg")],
)
def test_boxes_and_masks_are_read_from_every_layout(tmp_path, images, masks, suffix):
    data = datasets.read(written(tmp_path, images, masks, suffix=suffix))
    assert (data.format, data.task, data.labels) == ("pennfudan", "detect", ("person",))
    [found] = data.images
    assert (found.name, found.size) == (f"p1.{suffix}", (100, 50))
    # Boxes count from 1 and include the last pixel; the second one is clipped.
    assert [item.box for item in found.objects] == [(10, 5, 30, 35), (90, 0, 100, 50)]
    assert [item.area_px for item in found.objects] == [600, 460]
    for number, item in enumerate(found.objects, 1):
        inside = masks_of_two() == number
        rle = rle_of_object(item, found.size)
        assert rle.counts[1::2].sum() == inside.sum()
        assert (
            np.repeat(np.arange(len(rle.counts)) % 2, rle.counts)
            .reshape((50, 100), order="F")
            .tolist()
            == inside.astype(int).tolist()
        )
    assert data.notes == (f"1 box reaches out of its image, and is clipped (first: p1.{suffix})",)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("PASpersonWalking", "person"),
        ("PAScarSide", "car"),
        ("PASbicycle", "bicycle"),
        ("dog", "dog"),
        ("traffic light", "traffic light"),
    ],
)
def test_label_is_the_class_without_its_pose(tmp_path, label, expected):
    data = datasets.read(written(tmp_path, "images", "masks", box(1, 11, 6, 30, 35, label)))
    assert data.labels == (expected,)


def test_object_without_pixels_or_png_keeps_its_box(tmp_path):
    written(tmp_path, "images", "masks", values=np.ones((50, 100), np.uint8))
    text(tmp_path / "Annotation/p2.txt", HEAD.format(name="p2") + box(1, 1, 1, 9, 9))
    image(tmp_path / "images/p2.png")
    data = datasets.read(tmp_path)
    assert [[item.mask is None for item in one.objects] for one in data.images] == [
        [False, True],
        [True],
    ]
    assert data.notes == (
        "1 mask is wrong, and is left out (first: p1)",
        "1 box reaches out of its image, and is clipped (first: p1.png)",
        "1 image has no PNG of its objects, which have no mask (first: p2)",
    )


@pytest.mark.parametrize("values", [np.ones((10, 10), np.uint8), np.ones((50, 100, 3), np.uint8)])
def test_png_of_another_size_or_kind_is_counted(tmp_path, values):
    data = datasets.read(written(tmp_path, "images", "masks", values=values))
    assert [item.mask for item in data.images[0].objects] == [None, None]
    assert "mask is wrong" in data.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (box(1, "x", 1, 2, 3), "line 6: a side of the box is not a number"),
        ("Bounding box for object 1 : 1, 2, 3\n", "line 6: not a box of PASCAL"),
        (box(1, 1, 1, 2, 2, ""), "line 6: an object has no name"),
    ],
)
def test_wrong_line_of_a_box_is_refused_with_its_place(tmp_path, content, message):
    written(tmp_path, "images", "masks", content)
    with pytest.raises(DataError, match=message):
        datasets.read(tmp_path)


def test_missing_image_and_nan_are_counted(tmp_path):
    written(tmp_path, "images", "masks", box(1, "nan", 1, 2, 3))
    text(tmp_path / "Annotation/p2.txt", HEAD.format(name="p2") + TWO)
    data = datasets.read(tmp_path)
    assert [len(item.objects) for item in data.images] == [0]
    assert any("image is listed but not there" in note for note in data.notes)
    assert any("no area or is not a number" in note for note in data.notes)


def test_masks_are_read_as_they_were_written(tmp_path):
    data = small_set(tmp_path / "source", "coco")
    square = ((10.0, 5.0, 30.0, 5.0, 30.0, 35.0, 10.0, 35.0),)
    things = (
        TrueObject(1, (10, 5, 30, 35), mask=square),
        TrueObject(0, (40, 5, 60, 35)),
    )
    [item] = data.images
    data = msgspec.structs.replace(
        data, images=(msgspec.structs.replace(item, objects=things),), labels=("cat", "dog")
    )
    datasets.write(data, tmp_path / "out", "pennfudan")
    found = datasets.read(tmp_path / "out")
    assert found.labels == data.labels
    first, second = found.images[0].objects
    assert (first.number, first.box, first.area_px) == (1, (10, 5, 30, 35), 600)
    assert (second.number, second.box, second.mask) == (0, (40, 5, 60, 35), None)


def test_maps_of_classes_are_not_taken_for_masks_of_objects(tmp_path):
    image(tmp_path / "images/p1.png")
    image(tmp_path / "masks/p1_mask.png")
    with pytest.raises(DataError, match="no format of data sets fits"):
        datasets.read(tmp_path)
