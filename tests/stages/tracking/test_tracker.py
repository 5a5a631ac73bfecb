"""The tracker stage: what it hands on, stream by stream, and after a crash."""

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from stages.tracking.tracker import TrackerStage
from tests.builders import context_of, tracker_settings


def tracker(**settings):
    return TrackerStage(tracker_settings(**settings), context_of())


def frame(seq=0, lefts=(0,), stream="demo", scores=None):
    boxes = np.array([(x, 0, x + 40, 80) for x in lefts], np.float32).reshape(-1, 4)
    values = [0.9] * len(boxes) if scores is None else scores
    return Frame.of(
        stream,
        seq,
        seq / 10,
        boxes=boxes,
        scores=np.array(values, np.float32),
        classes=np.zeros(len(boxes), np.int32),
    )


def ids(stage, given):
    stage.process(given)
    return given["ids"].tolist()


def test_hands_on_the_detections_themselves_in_their_order():
    stage = tracker()
    stage.process(frame(0, (0, 200, 400)))
    given = frame(1, (407, 3, 600, 201), scores=(0.95, 0.8, 0.7, 0.35))
    detected = {name: given[name].copy() for name in ("boxes", "scores", "classes")}
    stage.process(given)
    assert given["ids"].tolist() == [3, 1, 2]  # 600 is not confirmed yet
    for name, values in detected.items():
        np.testing.assert_array_equal(given[name], values[[0, 1, 3]])


def test_gives_arrays_of_the_types_it_says():
    given = frame()
    tracker().process(given)
    for array in TrackerStage.gives[:-1]:  # without `rows`, which only details have
        assert given[array.name].dtype == array.dtype


@pytest.mark.parametrize("kind", ["bytetrack", "none"])
def test_an_empty_frame_stays_empty(kind):
    given = frame(lefts=())
    assert ids(tracker(kind=kind), given) == []
    assert given["boxes"].shape == (0, 4)
    assert given["ids"].dtype == np.int64


def test_none_hands_on_everything_without_an_id():
    given = frame(lefts=(0, 10, 20), scores=(0.9, 0.1, 0.05))
    assert ids(tracker(kind="none"), given) == [-1, -1, -1]
    assert len(given["boxes"]) == len(given["scores"]) == len(given["classes"]) == 3


def test_of_still_pictures_every_good_detection_is_handed_on_without_an_id():
    stage = tracker(new_track_score=0.6)
    for seq in range(3):
        given = frame(seq, (0, 200, 400), scores=(0.9, 0.6, 0.59))
        given.header.still = True
        assert ids(stage, given) == [-1, -1]
        np.testing.assert_array_equal(given["scores"], np.float32([0.9, 0.6]))
        assert given["boxes"].tolist() == [[0, 0, 40, 80], [200, 0, 240, 80]]
    assert stage.state("demo") == b""


def test_of_still_pictures_boxes_that_are_not_finite_are_left_out():
    given = frame(0, (np.nan, 3))
    given.header.still = True
    assert ids(tracker(), given) == [-1]
    assert given["boxes"].tolist() == [[3, 0, 43, 80]]


@pytest.mark.parametrize("lefts", [(), (0,)])
def test_of_still_pictures_an_empty_result_has_the_right_types(lefts):
    given = frame(lefts=lefts, scores=[0.1] * len(lefts))
    given.header.still = True
    tracker().process(given)
    for array in TrackerStage.gives[:-1]:  # without `rows`, which only details have
        assert given[array.name].dtype == array.dtype
        assert len(given[array.name]) == 0
    assert given["boxes"].shape == (0, 4)


def test_every_stream_counts_for_itself():
    stage = tracker()
    assert ids(stage, frame(0, (0, 100), "a")) == [1, 2]
    assert ids(stage, frame(0, (0,), "b")) == [1]
    assert ids(stage, frame(1, (0, 100), "a")) == [1, 2]


def test_a_stream_that_ended_is_forgotten():
    stage = tracker()
    stage.process(frame())
    stage.end("demo")
    stage.end("another")
    assert stage.state("demo") == b""


@pytest.mark.parametrize("kind", ["bytetrack", "none"])
@pytest.mark.parametrize("died_after", range(8))
def test_after_a_crash_the_ids_are_as_without_it(kind, died_after):
    frames = [
        (seq, (5 * seq, 300 - 5 * seq, 600)[: 1 + seq % 3], "ab"[seq % 2]) for seq in range(8)
    ]
    whole = tracker(kind=kind, lost_s=0.3)
    expected = [ids(whole, frame(*given)) for given in frames]

    first, saved, found = tracker(kind=kind, lost_s=0.3), {}, []
    for given in frames[:died_after]:
        found.append(ids(first, frame(*given)))
        saved[given[2]] = first.state(given[2])
    second = tracker(kind=kind, lost_s=0.3)
    for stream, state in saved.items():
        second.restore(stream, state)
    found += [ids(second, frame(*given)) for given in frames[died_after:]]
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"low_score": 0.6, "high_score": 0.5}, r"low_score: expected at most high_score \(0.5\)"),
        (
            {"high_score": 0.5, "new_track_score": 0.4},
            r"high_score: expected at most new_track_score \(0.4\), found 0.5",
        ),
    ],
)
def test_scores_out_of_order_are_refused(settings, complaint):
    with pytest.raises(SetupError, match=complaint):
        tracker(**settings)


def test_scores_that_are_left_out_follow_the_given_ones():
    assert tracker(low_score=0.6).effective() == {
        "low_score": 0.6,
        "high_score": 0.6,
        "new_track_score": 0.65,
    }
    assert tracker(new_track_score=0.4).effective() == {
        "low_score": 0.3,
        "high_score": 0.4,
        "new_track_score": 0.4,
    }


def test_weak_boxes_continue_a_track_in_their_order_behind_the_others():
    stage = tracker()
    stage.process(frame(0, (0, 200, 400)))
    given = frame(1, (400, 0), scores=(0.9, 0.8))
    for name, value in (("boxes", [[201, 0, 241, 80]]), ("scores", [0.35]), ("classes", [0])):
        given.put(f"weak_{name}", np.array(value, given[name].dtype))
    assert ids(stage, given) == [3, 1, 2]
    assert given["scores"].tolist() == pytest.approx([0.9, 0.8, 0.35])
