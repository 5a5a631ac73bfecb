"""Maps of classes are made of the masks of objects."""

import cv2
import msgspec
import numpy as np
import pytest

from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.class_maps import class_map_of, with_class_maps, with_classes
from models.datasets.semantic import IGNORED
from models.errors import DataError
from tests.models.datasets.builders import image


def square(number, x1, y1, x2, y2, **more):
    mask = ((x1, y1, x2, y1, x2, y2, x1, y2),)
    return TrueObject(number, (x1, y1, x2, y2), **({"mask": mask} | more))


def picture(*objects, name="a.png"):
    return LabelledImage(image_path, name, (20, 10), objects)


@pytest.fixture(autouse=True)
def _picture_file(tmp_path):
    global image_path
    image_path = image(tmp_path / "a.png", 20, 10)


def data_of(*images):
    labels = ("cat", "dog")
    return DataSet(root=image_path, format="coco", task="detect", labels=labels, images=images)


@pytest.mark.parametrize("turned", [False, True])
def test_smaller_objects_lie_over_larger_ones(turned):
    objects = (square(0, 0, 0, 20, 10), square(1, 2, 2, 6, 6))
    classes = class_map_of(picture(*(objects[::-1] if turned else objects)))
    assert classes[4, 4] == 2
    assert classes[8, 15] == 1
    assert (classes == 2).sum() == 16


def test_ignored_objects_do_not_count_and_the_rest_is_background():
    classes = class_map_of(picture(square(0, 0, 0, 4, 4, ignored=True), square(1, 10, 0, 14, 4)))
    assert classes[1, 1] == IGNORED
    assert classes[1, 11] == 2
    assert classes[8, 8] == 0


def test_a_set_of_objects_becomes_one_of_pixels(tmp_path):
    whole = data_of(
        picture(square(1, 2, 2, 6, 6)),
        picture(name="below/empty.png"),
        picture(square(0, 0, 0, 4, 4), square(1, 5, 5, 9, 9, mask=None), name="boxes.png"),
    )
    made = with_class_maps(whole, tmp_path / "maps")
    assert (made.task, made.labels) == ("semantic", ("background", "cat", "dog"))
    assert [own.name for own in made.images] == ["a.png", "below/empty.png"]
    assert made.notes == ("1 image has an object without a mask; left out",)
    first, second = (cv2.imread(str(own.class_map), cv2.IMREAD_UNCHANGED) for own in made.images)
    assert first.shape == (10, 20)
    assert np.unique(first).tolist() == [0, 2]
    assert not second.any()
    assert [with_classes(own).classes for own in made.images] == [(0, 2), (0,)]


def test_boxes_alone_make_no_maps(tmp_path):
    with pytest.raises(DataError, match=r"masks \(found boxes alone\); add masks"):
        with_class_maps(data_of(picture(square(0, 0, 0, 4, 4, mask=None))), tmp_path)


def test_more_classes_than_a_byte_holds_are_refused(tmp_path):
    many = msgspec.structs.replace(
        data_of(picture(square(0, 0, 0, 4, 4))), labels=tuple(map(str, range(255)))
    )
    with pytest.raises(DataError, match=r"at most \(found 255\)"):
        with_class_maps(many, tmp_path)
