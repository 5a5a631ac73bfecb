"""Other labels, several data sets as one, main objects and crops."""

from pathlib import Path

import numpy as np
import pytest

from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.crops import crops, cut
from models.datasets.main_objects import main_objects
from models.datasets.relabel import merge, relabel
from models.errors import DataError, DataFaults


def detect(*images, labels=("cat", "dog", "bus"), root="set"):
    made = tuple(
        LabelledImage(
            Path(f"{number}.png"),
            f"{number}.png",
            (100, 100),
            tuple(TrueObject(kind, box) for kind, box in objects),
        )
        for number, objects in enumerate(images)
    )
    return DataSet(root=Path(root), format="", task="detect", labels=labels, images=made)


def classify(*classes, labels=("cat", "dog", "bus")):
    images = tuple(
        LabelledImage(Path(f"{at}.png"), f"{at}.png", (9, 9), (), (number,))
        for at, number in enumerate(classes)
    )
    return DataSet(root=Path("set"), format="", task="classify", labels=labels, images=images)


SMALL, LARGE = (0, 0, 20, 20), (10, 10, 90, 90)
PAIR = [(0, SMALL), (1, LARGE), (2, SMALL)]


def numbers(data):
    return [[item.number for item in image.objects] for image in data.images]


def test_several_labels_become_one_and_others_are_left_out():
    data = relabel(detect(PAIR, [(2, SMALL)]), {"dog": "animal", "cat": "animal"})
    assert data.labels == ("animal",)
    assert numbers(data) == [[0, 0], []]  # an image without an object is background
    [note] = data.notes
    assert note == "1 label is not in the map and left out, with 2 examples (bus)"


def test_labels_that_are_not_named_can_be_kept():
    data = relabel(detect(PAIR), {"cat": None, "dog": "hound"}, keep=True)
    assert (data.labels, numbers(data), data.notes) == (("hound", "bus"), [[0, 1]], ())


def test_image_whose_class_is_left_out_is_left_out_too():
    data = relabel(classify(0, 1, 2, 1), {"dog": "pet", "cat": None, "bus": None})
    assert [image.classes for image in data.images] == [(0,), (0,)]
    assert data.notes == ()


def test_every_unknown_label_of_a_map_is_listed():
    with pytest.raises(DataFaults) as info:
        relabel(detect(PAIR), {"cta": "x", "horse": "y", "dog": "z"})
    assert [("did you mean 'cat'?" in line) for line in info.value.faults] == [True, False]
    with pytest.raises(DataError, match="no label is left"):
        relabel(detect(PAIR), {"dog": None})


def test_joined_sets_share_labels_and_keep_names_apart():
    first = detect([(0, SMALL)], labels=("cat", "dog"), root="a/set")
    second = detect([(0, SMALL), (1, LARGE)], labels=("dog", "bus"), root="b/set")
    data = merge([first, second])
    assert data.labels == ("cat", "dog", "bus")
    assert numbers(data) == [[0], [1, 2]]
    assert [image.name for image in data.images] == ["set/0.png", "set-2/0.png"]
    assert merge([first]) == first


def test_sets_of_different_tasks_are_not_joined():
    with pytest.raises(DataError, match="its task is another one"):
        merge([detect(PAIR), classify(0)])


@pytest.mark.parametrize(
    ("objects", "kept"),
    [
        (PAIR, 1),  # 64 % of the image, and 16 times the next
        ([(0, (0, 0, 40, 40))], 0),
        ([(0, (0, 0, 30, 30))], None),  # 9 % of the image
        ([(0, (0, 0, 40, 40)), (1, (0, 0, 36, 36))], None),  # 1.23 times the next
        ([], None),
    ],
)
def test_main_object_is_large_and_much_larger_than_the_next(objects, kept):
    data = main_objects(detect(objects, [(2, LARGE)]))
    expected = [] if kept is None else [[kept]]
    assert numbers(data) == [*expected, [2]]
    assert [image.classes for image in data.images] == [(*row,) for row in numbers(data)]
    assert bool(data.notes) == (kept is None)


def test_set_without_any_main_object_is_refused():
    with pytest.raises(DataError, match="no image has one main object"):
        main_objects(detect([(0, SMALL)]))


def test_crops_are_the_boxes_that_count():
    data = detect(PAIR, [])
    ignored = TrueObject(0, LARGE, ignored=True)
    first = data.images[0]
    image = LabelledImage(first.path, first.name, first.size, (*first.objects, ignored))
    data = DataSet(root=data.root, format="", task="detect", labels=data.labels, images=(image,))
    assert [(item.box, item.number) for item in crops(data)] == [
        (SMALL, 0),
        (LARGE, 1),
        (SMALL, 2),
    ]
    assert [item.number for item in crops(data, min_side_px=30)] == [1]


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((2, 3, 5, 9), (6, 3, 3)),
        ((2.5, 3.9, 4.1, 5), (2, 3, 3)),
        ((7.9, 9.99, 8, 10), (1, 1, 3)),
        ((8, 10, 8, 10), (1, 1, 3)),
    ],
)
def test_cut_has_all_pixels_of_a_box_and_never_none(box, shape):
    assert cut(np.zeros((10, 8, 3), np.uint8), box).shape == shape
