"""Masks, skeletons, rotated boxes, classes: what is drawn, and what must stay untouched."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.boxes.masks import rle_of, text_of
from stages.details import Attribute, FrameLabel, put_attributes, put_masks
from stages.drawing.annotator import Annotator, annotator_of
from stages.drawing.copies import copy_detections
from stages.drawing.palette import COLOURS
from stages.drawing.semantic_layer import SemanticLayer
from stages.drawing.shapes import mask_part
from tests.stages.task_frames import (
    BOX,
    GREY,
    RED,
    SIZE,
    context_of_tasks,
    mask_of_rows,
    plain_frame,
    rotated_frame,
    task_frame,
)

NAN, INF = float("nan"), float("inf")


def draw(frame, **options):
    return Annotator(trail_frames=0, **options).draw(frame).copy()


def changed(frame, **options):
    """Return where the image differs from that of the frame, and from one with boxes alone."""
    image = draw(frame, **options)
    boxes = draw(plain_frame(frame["boxes"], size=image.shape[:2]))
    return (image != GREY).any(axis=2), (image != boxes).any(axis=2)


def with_masks(*texts, boxes=(BOX,)):
    frame = plain_frame(boxes)
    put_masks(frame, texts)
    return frame


def with_points(*points):
    frame = plain_frame()
    frame.put("keypoints", np.array([points], np.float32))
    return frame


def with_labels(*labels):
    frame = plain_frame(())
    frame.put("frame_labels", np.frombuffer(msgspec.json.encode(labels), np.uint8))
    return frame


def with_map(classes):
    frame = plain_frame(())
    frame.put("semantic_map", np.array(classes, np.uint8))
    return frame


# --- masks ---


def test_a_mask_is_tinted_and_the_rest_of_its_box_is_not():
    image = draw(with_masks(mask_of_rows(80, 130, 60, 140)))
    tinted = np.rint(0.6 * GREY + 0.4 * np.array(COLOURS[0]))
    assert (image[84:126, 64:136] == tinted).all()
    assert (image[134:190, 50:150] == GREY).all()
    assert (image[80, 60:140] == COLOURS[0]).all()


def test_a_mask_that_leaves_its_box_is_drawn_inside_the_box_alone():
    _, more = changed(with_masks(mask_of_rows(0, SIZE[0], 0, SIZE[1])))
    inside = np.zeros(SIZE, bool)
    inside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert more[70:190, 50:150].all()
    assert not more[~inside].any()


def test_a_hole_in_a_mask_stays_as_it_was():
    mask = np.zeros(SIZE, np.uint8)
    mask[70:190, 50:150] = 1
    mask[100:140, 80:120] = 0
    image = draw(with_masks(text_of(rle_of(mask).counts).encode()))
    assert (image[104:136, 84:116] == GREY).all()
    assert (image[75:95, 55:145] != GREY).any(axis=2).all()


def test_an_empty_mask_leaves_the_box():
    assert not changed(with_masks(mask_of_rows(0, 0, 0, 0)))[1].any()


@pytest.mark.parametrize("box", [(-50, -20, 400, 300), (300, 200, 900, 900), (NAN, 0, 9, 9)])
def test_masks_of_boxes_that_leave_the_image_are_drawn(box):
    changed(with_masks(mask_of_rows(0, *SIZE[:1], 0, SIZE[1]), boxes=(box,)))


def test_each_object_has_the_mask_of_its_row():
    frame = with_masks(
        mask_of_rows(0, 0, 0, 0),
        mask_of_rows(80, 120, 200, 240),
        mask_of_rows(80, 120, 60, 100),
        boxes=(BOX, (190, 60, 260, 200)),
    )
    frame.put("rows", np.array([2, 1], np.int32))
    _, more = changed(frame)
    assert more[90:110, 70:90].all()
    assert more[90:110, 210:230].all()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"^array 'masks': expected runs of 320x240 pixels"):
        draw(with_masks(mask_of_rows(1, 5, 1, 5, size=(100, 100))))


@given(st.data())
def test_the_part_of_a_mask_is_that_of_the_whole(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits, np.uint8).reshape(height, width)
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    text = text_of(rle_of(mask).counts).encode()
    part = mask_part(text, (height, width), (x1, y1, x2, y2))
    assert np.array_equal(part, mask[y1:y2, x1:x2])


# --- skeletons ---


def test_keypoints_are_joined_by_the_lines_of_their_skeleton():
    frame = with_points((60, 80, 0.9), (140, 80, 0.9), (140, 180, 0.9))
    _, more = changed(frame, edges=((0, 1),))
    assert more[80, 60:140].all()
    assert more[180, 140]
    assert not more[90:170, 138:143].any()


@pytest.mark.parametrize("weak", [(140, 80, 0.29), (NAN, 80, 0.9), (140, INF, 0.9), (140, 80, NAN)])
def test_a_keypoint_that_is_weak_or_no_number_is_left_out_with_its_lines(weak):
    _, more = changed(with_points((60, 80, 0.9), weak), edges=((0, 1),))
    assert more[80, 60]
    assert not more[:, 70:].any()


def test_a_keypoint_far_outside_is_left_out():
    _, more = changed(with_points((60, 80, 0.9), (1e9, -1e9, 0.9)), edges=((0, 1),))
    assert not more[:, 70:].any()


# --- rotated boxes ---


def test_a_rotated_box_takes_the_place_of_the_upright_one():
    seen, _ = changed(rotated_frame())
    reach = round(35 * 2**0.5)
    for x, y in ((100 - reach, 130), (100 + reach, 130), (100, 130 + reach)):
        assert seen[y - 1 : y + 2, x - 1 : x + 2].any()
    assert not seen[150:, BOX[0]].any()
    assert not seen[BOX[3] - 1, BOX[0] : BOX[2]].any()
    assert not seen[125:135, 60:140].any()


def test_the_tag_of_a_rotated_box_stands_at_its_highest_corner():
    seen, _ = changed(rotated_frame(), labels=("person",))
    top = 130 - round(35 * 2**0.5)
    assert seen[top - 6, 102:140].all()


@pytest.mark.parametrize("box", [(NAN, 1, 2, 3, 4), (1, 1, INF, 3, 0), (0, 0, 1e30, 1e30, 1)])
def test_rotated_boxes_of_any_numbers_are_drawn_or_left_out(box):
    frame = plain_frame()
    frame.put("rotated", np.array([box], np.float32))
    draw(frame)


# --- classes of objects, of the frame, of its parts ---


def test_the_class_of_another_model_stands_in_the_tag():
    def tag(*attributes):
        frame = plain_frame(((40, 60, 300, 200),))
        for number, attribute in enumerate(attributes):
            put_attributes(frame, f"stage{number}", [attribute])
        return (draw(frame, labels=("person",))[52, :] != GREY).any(axis=1).sum()

    blue = Attribute("blue", 2, 0.5, 1)
    assert tag() < tag(RED) < tag(RED, blue)
    assert tag(None) == tag()


def test_labels_of_the_frame_stand_at_the_top_right_best_first():
    one = draw(with_labels(FrameLabel("beach", 1, 0.8)))
    two = draw(with_labels(FrameLabel("beach", 1, 0.8), FrameLabel("sea", 2, 0.1)))
    rows = np.flatnonzero((one != GREY).any(axis=(1, 2)))
    assert rows[0] == 0
    assert (one[5, -40:] != GREY).any(axis=1).all()
    assert (one[:, :160] == GREY).all()
    assert np.array_equal(two[: rows[-1] + 1], one[: rows[-1] + 1])
    assert (two[rows[-1] + 5, -20:] != GREY).any(axis=1).all()


def test_labels_of_the_frame_give_way_to_a_status_line():
    annotator, frame = Annotator(), with_labels(FrameLabel("beach", 1, 0.8))
    beside = annotator.draw(frame, "demo").copy()
    below = annotator.draw(frame, "a status line that is as wide as the whole image " * 2).copy()
    assert (beside[2, -40:] != GREY).any()
    assert (below[14:18, -30:] != GREY).any()
    assert (beside[20:, -30:] == GREY).all()


@pytest.mark.parametrize(
    ("names", "classes", "tinted"),
    [
        ((), (0, 1, 2), (1, 2)),
        (("other", "person"), (0, 1), (1,)),
        (("sky", "road", "Background"), (0, 1, 2), (0, 1)),
        (("a", "b", "c"), (0, 2, 255), (0, 2)),
    ],
)
def test_classes_of_the_map_are_tinted_and_background_is_not(names, classes, tinted):
    image = draw(with_map([classes]), classes=names)
    width = SIZE[1] / len(classes)
    for place, number in enumerate(classes):
        pixel = image[20, round((place + 0.5) * width)]
        shown = 0.6 * GREY + 0.4 * np.array(COLOURS[number % len(COLOURS)])
        assert np.abs(pixel - (shown if number in tinted else GREY)).max() <= 1


def test_the_legend_names_the_classes_of_the_image_alone():
    def legend(*classes):
        image = np.full((*SIZE, 3), GREY, np.uint8)
        SemanticLayer(("grass", "road", "sea")).draw(image, np.array([classes], np.uint8), 0.35)
        grounds = {tuple(pixel) for pixel in image[150:, :40].reshape(-1, 3).tolist()}
        return [number for number in range(3) if COLOURS[number] in grounds]

    assert legend(0, 0, 2) == [0, 2]
    assert legend(1, 1) == [1]


def test_maps_of_any_size_are_drawn():
    for shape in ((0, 0), (1, 1), (300, 7), (1000, 1000)):
        draw(with_map(np.full(shape, 200)))


# --- names and copies ---


def test_the_annotator_of_a_context_knows_lines_and_classes():
    drawn = annotator_of(context_of_tasks(), trail_frames=0).draw(task_frame())
    options = {"edges": ((0, 1),), "classes": ("background", "grass", "road")}
    assert np.array_equal(drawn, draw(task_frame(), labels=("person", "car"), **options))
    assert (drawn[160:170, 100] != GREY).any(axis=1).all()


@pytest.mark.parametrize("make", [task_frame, rotated_frame])
def test_a_smaller_copy_shows_the_same(make):
    frame = make()
    small = plain_frame(size=(SIZE[0] // 2, SIZE[1] // 2))
    for name, array in copy_detections(frame, 0.5, 0.5).items():
        small.put(name, array)
    small.header.height, small.header.width = SIZE
    seen = {(image != GREY).any(axis=2).mean() for image in (draw(frame)[60:], draw(small)[30:])}
    assert max(seen) - min(seen) < 0.05
    assert draw(small).shape == (120, 160, 3)


def test_a_copy_shares_no_memory_with_its_frame():
    frame = task_frame()
    for name, array in copy_detections(frame, 1.0, 1.0).items():
        assert not np.shares_memory(array, frame[name]), name
