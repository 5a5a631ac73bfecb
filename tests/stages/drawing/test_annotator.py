"""Drawing: what must be seen, what must stay untouched, and what must not crash."""

import numpy as np
import pytest

from pipeline.frame import Frame
from stages.drawing.annotator import COLOURS, MAX_TRAIL_POINTS, Annotator

BACKGROUND = 77


def frame(boxes=(), ids=None, classes=None, scores=None, size=(200, 300), seq=0, stream="test"):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    arrays = {
        "image": np.full((*size, 3), BACKGROUND, np.uint8),
        "boxes": boxes,
        "scores": np.full(len(boxes), 0.9, np.float32)
        if scores is None
        else np.asarray(scores, np.float32),
        "classes": np.zeros(len(boxes), np.int32)
        if classes is None
        else np.asarray(classes, np.int32),
    }
    if ids is not None:
        arrays["ids"] = np.asarray(ids, np.int64)
    return Frame.of(stream, seq, **arrays)


def colours(picture):
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


def changed(picture):
    return (picture != BACKGROUND).any(axis=2)


def test_a_picture_without_objects_is_a_faithful_copy():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    plain = frame()
    plain.put("image", noise)
    assert np.array_equal(Annotator().draw(plain), noise)


def test_the_captured_image_stays_as_it_was():
    given = frame([[50, 60, 120, 160]], [3])
    Annotator().draw(given, "status")
    assert (given["image"] == BACKGROUND).all()


def test_a_box_is_drawn_inside_its_corners_and_leaves_its_inside_free():
    seen = changed(Annotator(trail_frames=0).draw(frame([[50, 60, 120, 160]], [3])))
    assert seen[60:160, 50].all()
    assert seen[60:160, 119].all()
    assert seen[60, 50:120].all()
    assert seen[159, 50:120].all()
    assert not seen[62:158, 52:118].any()
    assert not seen[160:].any()
    assert not seen[:, :50].any()
    assert not seen[60:, 120:].any()


def test_an_id_keeps_its_colour_in_every_frame_and_stream():
    annotator = Annotator()
    first = annotator.draw(frame([[50, 60, 120, 160]], [5], [0]))[160 - 1, 60].tolist()
    later = annotator.draw(frame([[90, 70, 150, 160]], [5], [2], seq=9, stream="b"))
    assert tuple(first) == COLOURS[5]
    assert tuple(later[160 - 1, 100].tolist()) == COLOURS[5]


@pytest.mark.parametrize("ids", [None, [-1]])
def test_an_object_without_an_id_has_the_colour_of_its_class(ids):
    assert COLOURS[2] in colours(Annotator().draw(frame([[50, 60, 120, 160]], ids, [2])))


def test_the_tag_shows_label_id_and_score():
    def tag(labels=("person",), ids=(7,), scores=(0.91,)):
        drawn = Annotator(labels, trail_frames=0).draw(
            frame([[50, 60, 250, 160]], ids, scores=scores)
        )
        return drawn[:60].copy()

    same = tag()
    assert changed(same).any()
    assert np.array_equal(tag(), same)
    assert not np.array_equal(tag(labels=("parson",)), same)
    assert not np.array_equal(tag(ids=(7 + len(COLOURS),)), same)
    assert not np.array_equal(tag(scores=(0.51,)), same)


def test_a_tag_without_room_above_is_put_inside_the_box():
    seen = changed(Annotator(("person",), trail_frames=0).draw(frame([[50, 0, 200, 150]], [1])))
    assert seen[2:10, 60].all()


def test_a_tag_at_the_right_edge_is_moved_into_the_picture():
    seen = changed(Annotator(("person",), trail_frames=0).draw(frame([[290, 100, 300, 150]], [1])))
    assert seen[92, 250:300].all()


def test_a_trail_joins_the_places_where_an_object_stood():
    annotator = Annotator(trail_frames=10)
    for seq, x in enumerate((20, 60, 100)):
        drawn = annotator.draw(frame([[x, 100, x + 20, 140]], [1], seq=seq))
    assert changed(drawn)[140, 30:110].all()


def test_a_trail_forgets_what_is_older_than_its_length():
    annotator = Annotator(trail_frames=10)
    for seq, x in ((0, 20), (1, 60), (11, 100), (12, 140)):
        drawn = annotator.draw(frame([[x, 100, x + 20, 140]], [1], seq=seq))
    assert not changed(drawn)[140, 30:108].any()
    assert changed(drawn)[140, 112:148].all()


def test_a_trail_has_no_more_than_its_number_of_points():
    annotator = Annotator(trail_frames=10_000)
    for seq in range(MAX_TRAIL_POINTS + 20):
        y = 150 if seq >= 20 else 50
        drawn = annotator.draw(frame([[4 * seq, y - 40, 4 * seq + 8, y]], [1], seq=seq))
    seen = changed(drawn)
    assert not seen[50].any()
    assert seen[150, 4 * 21 + 4 : 4 * (MAX_TRAIL_POINTS + 19)].all()


def test_no_trail_jumps_between_streams():
    annotator = Annotator()
    annotator.draw(frame([[20, 100, 40, 140]], [1], stream="a"))
    drawn = annotator.draw(frame([[200, 100, 220, 140]], [1], seq=1, stream="b"))
    assert not changed(drawn)[140].any()


def test_objects_that_are_gone_are_forgotten():
    annotator = Annotator(trail_frames=5)
    for seq in range(100):
        annotator.draw(frame([[20, 100, 40, 140]], [seq], seq=seq))
    assert len(annotator._trails["test"]) <= 6


def test_the_picture_is_used_again_for_the_next_frame_of_its_stream_only():
    annotator = Annotator()
    first = annotator.draw(frame())
    assert annotator.draw(frame(stream="other")) is not first
    assert annotator.draw(frame(seq=1)) is first
    assert annotator.draw(frame(seq=2, size=(90, 120))).shape == (90, 120, 3)


def test_a_stream_that_has_ended_is_forgotten():
    annotator = Annotator()
    first = annotator.draw(frame())
    annotator.forget("test")
    annotator.forget("never seen")
    assert annotator.draw(frame(seq=1)) is not first


def test_the_status_line_stands_at_the_top_left():
    seen = changed(Annotator().draw(frame(), "demo 10.0 fps"))
    assert seen[:8, :40].mean() > 0.95  # the soft edges of letters may equal the background
    assert not seen[40:].any()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    [
        (NAN, 10, 20, 30),
        (10, 10, NAN, 30),
        (NAN, NAN, NAN, NAN),
        (300, 10, 320, 30),
        (10, 200, 20, 230),
        (-50, 10, -1, 30),
        (10, -50, 20, -1),
        (1e30, 1e30, 2e30, 2e30),
        (INF, 0, INF, 10),
        (80, 80, 20, 20),
    ],
)
def test_a_box_that_is_none_or_lies_outside_is_left_out(box):
    assert not changed(Annotator().draw(frame([box], [1]))).any()


@pytest.mark.parametrize("box", [(-INF, -INF, INF, INF), (-1e30, -1e30, 1e30, 1e30)])
def test_a_box_around_the_whole_picture_shows_no_line(box):
    seen = changed(Annotator(trail_frames=0).draw(frame([box], [1])))
    assert not seen[40:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 1), (2, 2), (5, 3), (2160, 3840)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 0, 0), (-3, -3, 9, 9), (0.4, 0.4, 0.6, 0.6)])
def test_pictures_and_boxes_of_any_size_are_drawn(size, box):
    annotator = Annotator(("a label that is longer than any picture of this test is wide" * 9,))
    for seq in range(3):
        drawn = annotator.draw(frame([box], [1], size=size, seq=seq), "status")
    assert drawn.shape == (*size, 3)


def test_the_lines_of_a_box_smaller_than_they_are_wide_stay_inside():
    drawn = Annotator(trail_frames=0).draw(frame([[900, 900, 905, 903]], [1], size=(2160, 3840)))
    assert changed(drawn)[900:].sum() == 5 * 3


def test_lines_grow_with_the_picture():
    def line_px(size):
        drawn = Annotator(trail_frames=0).draw(frame([[100, 100, 300, 300]], [1], size=size))
        return int(changed(drawn)[250, 100:200].sum())

    assert [line_px(size) for size in ((320, 320), (720, 1280), (1080, 1920), (2160, 3840))] == [
        1,
        2,
        3,
        6,
    ]
