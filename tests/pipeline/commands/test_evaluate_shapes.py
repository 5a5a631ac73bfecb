"""Shapes of a run and of a data set are paired, or a note says why not."""

import msgspec
import numpy as np
import pytest

from models.boxes.masks import rle_of, text_of
from models.boxes.rotated import upright_around
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.errors import EvaluationError
from models.evaluation.shapes import evaluate_shapes
from pipeline.commands.evaluate_boxes import image_pairs, match_classes
from pipeline.commands.evaluate_shapes import shapes_of
from pipeline.commands.evaluate_whole import pixels_of, ranks_of
from stages.details import FrameLabel
from stages.sinks.score import Masks, Scored, SemanticMap
from tests.models.datasets.test_semantic import png

SIZE = (100, 50)
BOX = (10.0, 5.0, 30.0, 35.0)
LABELS = ("cat", "dog")


def a_set(tmp_path, *images, task="detect"):
    """Make a data set of images that are lists of objects."""
    made = tuple(
        LabelledImage(tmp_path / f"{n}.png", f"{n}.png", SIZE, tuple(objects))
        for n, objects in enumerate(images)
    )
    return DataSet(root=tmp_path, format="", task=task, labels=LABELS, images=made)


def line(number, boxes=(BOX,), **more):
    """Make the result of an image, with a cat in each box."""
    count = len(boxes)
    own = [list(map(float, box)) for box in boxes]
    return Scored("data", number, own, [0.9] * count, [0] * count, file=f"{number}.png", **more)


def paired(data, *lines):
    pairs, notes = image_pairs(data, lines, match_classes(LABELS, LABELS, {}))
    assert notes == []
    return shapes_of(pairs)


def masks_of(*masks, size=(50, 100)):
    return Masks(size, [text_of(rle_of(mask).counts) for mask in masks])


def inside(x1, y1, x2, y2):
    mask = np.zeros((50, 100))
    mask[y1:y2, x1:x2] = 1
    return mask


def test_masks_of_the_rows_of_measured_classes_are_paired(tmp_path):
    thing = TrueObject(0, BOX, mask=((10, 5, 30, 5, 30, 35, 10, 35),))
    data = a_set(tmp_path, [thing], [])
    found = line(0, [BOX, BOX], masks=masks_of(inside(60, 5, 80, 35), inside(10, 5, 30, 35)))
    found.classes = [7, 0]  # the first is of no class of the data set
    [shapes], notes = paired(data, found, line(1, []))
    assert (shapes.kind, notes) == ("masks", [])
    assert shapes.images[0].overlaps.values.tolist() == [[1.0]]
    assert shapes.images[0].areas.tolist() == [600]
    assert evaluate_shapes(shapes.images, LABELS).figures.ap == pytest.approx(1)


def test_an_object_without_a_mask_in_a_set_of_masks_is_ignored(tmp_path):
    outline = (10, 5, 30, 5, 30, 35, 10, 35)
    data = a_set(tmp_path, [TrueObject(0, BOX)], [TrueObject(0, BOX, mask=(outline,))])
    mask = masks_of(inside(10, 5, 30, 35))
    [shapes], notes = paired(data, line(0, masks=mask), line(1, masks=mask))
    assert [image.ignored.tolist() for image in shapes.images] == [[True], [False]]
    assert "1 of 2 objects have no mask" in notes[0]


def test_shapes_that_the_data_set_lacks_are_noted(tmp_path):
    data = a_set(tmp_path, [TrueObject(0, BOX)])
    found = line(0, masks=masks_of(inside(1, 1, 2, 2)), rotated=[[1, 1, 1, 1, 0]])
    shapes, notes = paired(data, found)
    assert shapes == []
    assert notes == [
        "the masks are not measured: the data set has none",
        "the rotated boxes are not measured: the data set has none",
    ]


def test_a_mask_of_another_size_than_its_image_is_refused_by_name(tmp_path):
    data = a_set(tmp_path, [TrueObject(0, BOX, mask=((10, 5, 30, 5, 30, 35),))])
    small = masks_of(np.ones((5, 5)), size=(5, 5))
    with pytest.raises(EvaluationError, match=r"0\.png: masks: .* different sizes"):
        paired(data, line(0, masks=small))


def test_objects_without_a_rotated_box_count_with_their_upright_one(tmp_path):
    turned = (50.0, 25.0, 30.0, 10.0, 0.4)
    around = tuple(upright_around(np.array([turned]))[0].tolist())
    data = a_set(tmp_path, [TrueObject(0, around, rotated=turned)], [TrueObject(0, BOX)])
    lines = (
        line(0, [around], rotated=[[*turned[:4], 0.4 + np.pi]]),
        line(1, rotated=[[20, 20, 20, 30, 0]]),
    )
    [shapes], notes = paired(data, *lines)
    assert [image.overlaps.values[0, 0] for image in shapes.images] == pytest.approx([1, 1])
    assert "1 of 2 objects have no rotated box: their upright box counts" in notes


POINTS = ((12.0, 8.0, 2.0), (20.0, 30.0, 1.0))


def test_keypoints_use_the_area_of_the_box_where_none_is_stated(tmp_path):
    data = a_set(tmp_path, [TrueObject(0, BOX, keypoints=POINTS)])
    found = line(0, keypoints=[[[12, 8, 0.5], [20, 30, 0.5]]])
    [shapes], notes = paired(data, found)
    assert shapes.sigmas == (0.5, 0.5)
    assert shapes.images[0].areas.tolist() == pytest.approx([600 * 0.53])
    assert shapes.images[0].overlaps.values.tolist() == [[1.0]]
    assert notes[0] == "keypoints: the sigmas are 1/2 each"
    assert "0.53 of that of its box" in notes[1]


def test_another_number_of_keypoints_is_noted(tmp_path):
    data = a_set(tmp_path, [TrueObject(0, BOX, keypoints=POINTS)])
    shapes, notes = paired(data, line(0, keypoints=[[[12, 8, 0.5]] * 3]))
    assert shapes == []
    assert notes == [
        "keypoints are not measured: the model gives 3 for an object, and the data set has 2"
    ]


def test_classes_that_are_not_measured_take_a_rank(tmp_path):
    data = a_set(tmp_path, [], [], task="classify")
    first, second = data.images
    images = (
        msgspec.structs.replace(first, classes=(1,)),
        msgspec.structs.replace(second, classes=(0, 1)),
    )
    data = msgspec.structs.replace(data, images=images)
    labels = [FrameLabel("hat", 0, 0.6), FrameLabel("dog", 2, 0.3)]
    classes = match_classes(("hat", "cat", "dog"), LABELS, {})
    lines = [line(0, (), labels=labels), line(1, (), labels=labels)]
    ranks, notes = ranks_of(data, lines, classes)
    assert ranks.names == ["0.png"]
    assert (ranks.truth.tolist(), ranks.ranked.tolist()) == ([1], [[-1, 1, -1, -1, -1]])
    assert "1 of 2 images do not count" in notes[0]


def test_pixels_of_255_do_not_count_and_those_without_a_name_are_refused(tmp_path):
    data = a_set(tmp_path, [], task="semantic")
    values = np.array([[0, 1], [1, 255]], np.uint8)
    image = msgspec.structs.replace(data.images[0], class_map=png(tmp_path / "m.png", values))
    data = msgspec.structs.replace(data, images=(image,))
    classes = match_classes(("dog", "hat"), LABELS, {})
    found = line(0, (), semantic=SemanticMap.of(np.array([[0, 1]], np.uint8)))
    pixels, _ = pixels_of(data, [found], classes)
    # Only dogs are measured: 2 true pixels, of which the left one is found.
    assert pixels.counts.tolist() == [[[1, 1, 2]]]
    one = msgspec.structs.replace(data, labels=("cat",))
    with pytest.raises(EvaluationError, match="class 1 has no name"):
        pixels_of(one, [found], match_classes((), ("cat",), {}))
