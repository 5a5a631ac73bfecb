"""A second model names the objects: the right one, once it is sure, at a bounded cost."""

import msgspec
import numpy as np
import pytest

from pipeline.context import RowLimit
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.memory.saved_states import ANSWER_BYTES, STATE_BYTES
from pipeline.testing import context, run_stages
from stages.details import AttributeLabels, attributes_of
from stages.detections import Labels, labels_of, objects_of
from stages.inference.classify_objects import (
    MAX_VOTES,
    ClassifyObjects,
    ClassifyObjectsSettings,
    Vote,
    winner,
)
from stages.inference.object_crops import crop_places
from tests.builders import graph
from tests.models.builders import save
from tests.models.seeing import NAMES, classifier, picture

SIZE = (200, 100)
WIDE = (0, 0, 200, 100)


def make(model, *, offers=None, **settings):
    table = {"model": str(model), "device": "cpu", **settings}
    made = msgspec.convert(table, ClassifyObjectsSettings)
    return ClassifyObjects(made, context(stage="kind", **(offers or {})))


@pytest.fixture
def model(tmp_path):
    return classifier(tmp_path / "colours.onnx")


def frame_of(image, boxes, ids=None, seq=0, time_s=None, stream="test", classes=None):
    count = len(boxes)
    frame = Frame.of(stream, seq, seq / 10 if time_s is None else time_s, image=image)
    frame.put("boxes", np.array(boxes, np.float32).reshape(-1, 4))
    frame.put("scores", np.full(count, 0.9, np.float32))
    frame.put("classes", np.array(classes or [0] * count, np.int32))
    if ids is not None:
        frame.put("ids", np.array(ids, np.int64))
    return frame


def of_colours(names, ids=None, **more):
    """A frame with one object of each colour, side by side; None: a black one."""
    boxes = [(10 + 40 * i, 20, 40 + 40 * i, 80) for i in range(len(names))]
    places = {f"{name}{i}": boxes[i] for i, name in enumerate(names) if name}
    ids = list(range(1, len(names) + 1)) if ids is None else ids
    return frame_of(picture(*SIZE, **places), boxes, ids, **more)


def labels_in(frame):
    """The label of each object; None: none is shown."""
    return [own["kind"].label if "kind" in own else None for own in attributes_of(frame)]


# --- the right label ---


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_each_object_gets_the_class_of_its_own_pixels(batch, tmp_path):
    stage = make(classifier(tmp_path / "m.onnx", batch), margin=0, min_votes=1)
    names = ["blue", "red", "green", "red"]
    [frame] = run_stages([stage], [of_colours(names)])
    assert labels_in(frame) == names
    assert [own["kind"].number for own in attributes_of(frame)] == [2, 0, 1, 0]


def test_a_class_is_shown_after_enough_votes_with_their_mean(model):
    frames = run_stages([make(model)], [of_colours(["red"], seq=seq) for seq in range(4)])
    assert [labels_in(frame) for frame in frames] == [[None], [None], ["red"], ["red"]]
    shown = attributes_of(frames[2])[0]["kind"]
    assert shown == attributes_of(frames[3])[0]["kind"]
    assert shown.votes == 3
    assert 0.9 < shown.score <= 1


def test_votes_that_disagree_show_nothing_until_most_agree(model):
    colours = ["red", "blue", "red", "blue", "red", "red", "red"]
    frames = run_stages(
        [make(model, min_votes=3, agreement=0.7)],
        [of_colours([name], seq=seq) for seq, name in enumerate(colours)],
    )
    assert [labels_in(frame)[0] for frame in frames] == [None] * 6 + ["red"]
    assert attributes_of(frames[-1])[0]["kind"].votes == 5


def test_a_try_below_the_score_is_no_vote(model):
    colours = ["red", None, "red", None, None, "red"]
    frames = run_stages(
        [make(model)], [of_colours([name], seq=seq) for seq, name in enumerate(colours)]
    )
    assert [labels_in(frame)[0] for frame in frames] == [None] * 5 + ["red"]


def test_the_labels_of_the_boxes_stay_those_of_the_detector(model):
    [frame] = run_stages([make(model, min_votes=1)], [of_colours(["green"])])
    [found] = objects_of(frame, ("bottle",))
    assert found.label == "bottle"
    assert found.attributes["kind"].label == "green"


def test_objects_without_ids_have_the_class_of_the_frame(model):
    frames = [of_colours(["red", "blue"], seq=0), of_colours(["blue", None], seq=1)]
    for frame in frames:
        del frame.header.arrays["ids"]
    run_stages([make(model)], frames)
    assert [labels_in(frame) for frame in frames] == [["red", "blue"], ["blue", None]]
    assert attributes_of(frames[0])[0]["kind"].votes == 1


def test_attributes_of_two_stages_stand_beside_each_other(model):
    first = make(model, min_votes=1)
    second = ClassifyObjects(first.settings, context(stage="again"))
    [frame] = run_stages([first, second], [of_colours(["red"])])
    [own] = attributes_of(frame)
    assert list(own) == ["kind", "again"]


@pytest.mark.parametrize("ids", [[], None])
def test_a_frame_without_objects_has_no_attributes(ids, model):
    [frame] = run_stages([make(model)], [frame_of(picture(*SIZE), [], ids)])
    assert attributes_of(frame) == []


def test_streams_do_not_mix(model):
    frames = [
        of_colours([name], seq=seq, stream=stream)
        for seq in range(3)
        for stream, name in (("a", "red"), ("b", "blue"))
    ]
    run_stages([make(model)], frames)
    assert [labels_in(frame) for frame in frames[-2:]] == [["red"], ["blue"]]
    assert labels_in(frames[1]) == [None]


# --- which objects are tried ---


def crops_of(stage, frames):
    """Rows that are tried in each frame."""
    tried = []
    infer = stage.infer

    def spy(frame):
        trials = infer(frame)
        tried.append([trial.row for trial in trials])
        return trials

    stage.infer = spy
    run_stages([stage], frames)
    return tried


def test_a_track_that_is_decided_costs_no_more_crops(model):
    stage = make(model)
    tried = crops_of(stage, [of_colours(["red", "blue"], seq=seq) for seq in range(6)])
    assert [sorted(rows) for rows in tried] == [[0, 1]] * 3 + [[]] * 3
    assert stage.counters() == {"crops": 6}


def test_a_track_that_grows_by_half_is_tried_again(model):
    image = picture(*SIZE, red=WIDE)
    sides = [40, 40, 48, 50, 50]
    frames = [frame_of(image, [(0, 0, s, s)], [1], seq=i) for i, s in enumerate(sides)]
    assert crops_of(make(model, min_votes=1, margin=0), frames) == [[0], [], [], [0], []]


@pytest.mark.parametrize(("max_tries", "expected"), [(2, 2), (10, 10), (None, 14)])
def test_an_object_without_a_decision_has_so_many_tries(max_tries, expected, model):
    stage = make(model, max_tries=max_tries)
    tried = crops_of(stage, [of_colours([None], seq=seq) for seq in range(14)])
    assert tried == [[0]] * expected + [[]] * (14 - expected)


def test_an_object_that_had_its_tries_is_tried_again_as_it_grows(model):
    image = picture(*SIZE, red=WIDE)
    frames = [frame_of(image, [(0, 0, s, s)], [1], seq=i) for i, s in enumerate([40, 41, 60, 61])]
    assert crops_of(make(model, max_tries=1, margin=0), frames) == [[0], [], [0], []]


@pytest.mark.parametrize(("again_s", "expected"), [(0.3, [0, 3, 6]), (None, [0])])
def test_a_decided_track_is_tried_again_after_a_while(again_s, expected, model):
    frames = [of_colours(["red"], seq=seq) for seq in range(8)]
    tried = crops_of(make(model, min_votes=1, again_s=again_s), frames)
    assert [seq for seq, rows in enumerate(tried) if rows] == expected


def test_time_that_jumps_back_does_not_count(model):
    frames = [of_colours(["red"], time_s=t) for t in (0, 0.9, 0.1, 0.9, 1.0)]
    tried = crops_of(make(model, min_votes=1, again_s=1.8), frames)
    assert tried == [[0], [], [], [], [0]]


def test_at_most_so_many_objects_are_tried_the_new_ones_first(model):
    stage = make(model, max_per_frame=2)
    names = ["red", "green", "blue", "red"]
    tried = crops_of(stage, [of_colours(names, seq=seq) for seq in range(7)])
    assert tried == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1], [2, 3], []]


def test_an_object_that_comes_later_does_not_wait_behind_old_ones(model):
    frames = [of_colours([None, None], seq=0), of_colours([None, None, "red"], seq=1)]
    assert crops_of(make(model, max_per_frame=2), frames) == [[0, 1], [2, 0]]


def test_only_objects_with_the_labels_are_tried(model):
    detector = {"labels": Labels(("bottle", "hand"))}
    stage = make(model, offers=detector, labels=["hand"], min_votes=1)
    frames = [of_colours(["red", "blue"], classes=[0, 1])]
    assert crops_of(stage, frames) == [[1]]
    assert labels_in(frames[0]) == [None, "blue"]


def test_a_track_that_is_gone_for_long_is_forgotten(model):
    stage = make(model, forget_s=1, min_votes=1)
    stage.open()
    for seq, time_s, ids in ((0, 0, [1, 2]), (1, 1.0, [1]), (2, 1.2, [1])):
        stage.process(of_colours(["red"] * len(ids), ids, seq=seq, time_s=time_s))
    assert list(stage._streams["test"].by_id) == [1]


def test_the_newest_votes_count(model):
    stage = make(model, min_votes=1, again_s=0.05, forget_s=100)
    colours = ["red"] * 20 + ["blue"] * 30
    frames = [of_colours([name], seq=seq) for seq, name in enumerate(colours)]
    run_stages([stage], frames)
    assert labels_in(frames[19]) == ["red"]
    assert labels_in(frames[-1]) == ["blue"]
    assert attributes_of(frames[-1])[0]["kind"].votes == MAX_VOTES


def test_equal_numbers_of_votes_are_decided_by_the_scores():
    assert winner([Vote(1, 9000), Vote(2, 9500)]) == (2, 1)
    assert winner([Vote(2, 9000), Vote(1, 9000)]) == (1, 1)


# --- odd boxes ---

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 10, 10),
        (10, 10, 10, 50),
        (50, 50, 40, 40),
        (NAN, 0, 50, 50),
        (0, 0, INF, 50),
        (-90, -90, -10, -10),
        (200, 0, 260, 50),
        (0, 100, 50, 150),
        (-3e38, -3e38, 3e38, 3e38),
    ],
    ids=[
        "point",
        "line",
        "corners exchanged",
        "nan",
        "infinite",
        "above the image",
        "right of the image",
        "below the image",
        "sides beyond float32",
    ],
)
def test_odd_boxes_break_no_frame(box, model):
    image = picture(*SIZE, red=WIDE)
    [frame] = run_stages([make(model, min_votes=1)], [frame_of(image, [box, (0, 0, 9, 9)], [1, 2])])
    first, second = labels_in(frame)
    assert first == ("red" if box[2] > 1e38 and box[2] < INF else None)
    assert second == "red"


@pytest.mark.parametrize("box", [(5, 5, 6, 6), (5.2, 5.2, 5.3, 5.3), (199.5, 99.5, 200, 100)])
def test_an_object_of_one_pixel_gets_its_class(box, model):
    image = picture(*SIZE, blue=WIDE)
    [frame] = run_stages([make(model, min_votes=1)], [frame_of(image, [box], [1])])
    assert labels_in(frame) == ["blue"]


def test_a_crop_is_larger_than_the_box_and_inside_the_image():
    boxes = np.array([[10, 20, 30, 40], [0, 0, 200, 100], [0.5, 0.5, 1.5, 1.5]], np.float32)
    assert crop_places(boxes, 200, 100, 0.1).tolist() == [
        [8, 18, 32, 42],
        [0, 0, 200, 100],
        [0, 0, 2, 2],
    ]


# --- many objects, and crashes ---


def crowd(seq, count=300):
    boxes = [(i % 20 * 10, i // 20 * 6, i % 20 * 10 + 8, i // 20 * 6 + 5) for i in range(count)]
    image = picture(*SIZE, red=(0, 0, 100, 100), blue=(100, 0, 200, 100))
    return frame_of(image, boxes, range(1, count + 1), seq=seq)


def test_the_state_and_answer_of_three_hundred_objects_can_be_saved(model):
    stage = make(model, max_per_frame=300, min_votes=1, again_s=0.05, forget_s=100)
    frames = run_stages([stage], [])
    stage.open()
    for seq in range(MAX_VOTES + 2):
        frames.append(crowd(seq))
        stage.process(frames[-1])
    assert None not in labels_in(frames[-1])
    assert frames[-1]["attributes"].nbytes < ANSWER_BYTES
    assert all(len(track.votes) == MAX_VOTES for track in stage._streams["test"].by_id.values())
    assert len(stage.state("test")) * stage.max_tracks / 300 < STATE_BYTES


def test_the_tracks_that_are_kept_are_bounded(model, monkeypatch):
    monkeypatch.setattr(ClassifyObjects, "max_tracks", 3)
    stage = make(model, min_votes=1)
    stage.open()
    for seq in range(3):
        stage.process(of_colours(["red"] * 2, [2 * seq + 1, 2 * seq + 2], seq=seq))
    assert sorted(stage._streams["test"].by_id) == [4, 5, 6]


@pytest.mark.parametrize("cut", [1, 2, 4, 7])
def test_a_restored_stage_gives_the_same_bytes(cut, model):
    settings = {"max_per_frame": 2, "again_s": 0.3}

    def frames():
        names = ["red", "blue", None, "green"]
        return [of_colours(names[seq % 2 :], [9, 4, 7, 1][seq % 2 :], seq=seq) for seq in range(10)]

    whole = run_stages([make(model, **settings)], frames())
    first, again = make(model, **settings), make(model, **settings)
    parts = frames()
    first.open()
    for frame in parts[:cut]:
        first.process(frame)
    again.open()
    again.restore("test", first.state("test"))
    again.restore("other", first.state("other"))
    for frame in parts[cut:]:
        again.process(frame)
    assert [f["attributes"].tobytes() for f in parts] == [f["attributes"].tobytes() for f in whole]
    first.end("test")
    assert first.state("test") == b""


# --- before the start ---


def test_the_names_are_offered_under_the_name_of_the_stage(model):
    built = graph(
        {
            "boxes": {"use": "boxes"},
            "kind": {"use": "classify_objects", "model": str(model), "device": "cpu"},
            "sink": {"use": "sink"},
        },
        registry={
            "boxes": "tests.processes.stages:Boxes",
            "classify_objects": "stages.inference.classify_objects:ClassifyObjects",
            "sink": "tests.builders:Sink",
        },
    )
    of_sink = built.nodes[-1].context
    assert of_sink.get(AttributeLabels) == AttributeLabels(stage="kind", names=NAMES)
    assert labels_of(of_sink) == ()


def test_a_label_that_the_detector_has_not_is_refused(model):
    with pytest.raises(SetupError, match="labels: the model has no label 'bottel'"):
        make(model, offers={"labels": Labels(("bottle",))}, labels=["bottel"])


def test_labels_with_which_no_answer_could_be_saved_are_refused(tmp_path):
    long = tuple(name * 60 for name in NAMES)
    stage = classifier(tmp_path / "m.onnx", names=long)
    with pytest.raises(SetupError, match=r"cannot be saved with its labels .*; shorten labels"):
        make(stage, offers={"limit": RowLimit(300)})
    make(stage, offers={"limit": RowLimit(100)})


def test_a_model_for_images_of_one_size_is_refused(model, tmp_path):
    (tmp_path / "card.yaml").write_text(
        "name: m\nweights: {file: colours.onnx}\nfamily: classify\ninput: {resize: none}\n"
    )
    with pytest.raises(SetupError, match="`resize: none` takes images of one size"):
        ClassifyObjects.resolve(ClassifyObjectsSettings(model=str(tmp_path / "card.yaml")))


def test_a_detector_is_refused(tmp_path):
    detector = save(tmp_path / "d.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    with pytest.raises(SetupError, match=r"does not take \(classify\)"):
        make(detector)
