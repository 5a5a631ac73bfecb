"""The classes of the whole frame: right, steady, and the same after a crash."""

import json

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.testing import context, run_stages
from stages.details import FrameLabels, frame_labels_of
from stages.detections import Labels
from stages.inference.classify import Classify, ClassifySettings
from tests.builders import ROOT
from tests.models.builders import save
from tests.models.seeing import COLOURS, NAMES, classifier, picture


def make(model, **settings):
    return Classify(
        ClassifySettings(model=str(model), device="cpu", **settings), context(stage="scene")
    )


def frames_of(colours, fps=10.0, stream="test"):
    """One frame of each colour; None: black."""
    return [
        Frame.of(stream, seq, seq / fps, image=np.full((30, 40, 3), COLOURS.get(name, 0), np.uint8))
        for seq, name in enumerate(colours)
    ]


def names_of(frames):
    return [[found.label for found in frame_labels_of(frame)] for frame in frames]


@pytest.fixture
def model(tmp_path):
    return classifier(tmp_path / "colours.onnx")


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (3, 500), (640, 2)])
@pytest.mark.parametrize("batch", [1, "N"])
def test_each_colour_gets_its_class_in_frames_of_any_size(batch, size, tmp_path):
    stage = make(classifier(tmp_path / "m.onnx", batch), steady_s=0)
    frames = [
        Frame.of(seq=i, image=picture(*size, **{name: (0, 0, *size)}))
        for i, name in enumerate(NAMES)
    ]
    run_stages([stage], frames)
    assert names_of(frames) == [[name] for name in NAMES]
    assert [frame_labels_of(frame)[0].number for frame in frames] == [0, 1, 2]
    assert all(frame_labels_of(frame)[0].score > 0.99 for frame in frames)


def test_top_gives_the_best_classes_that_reach_the_score_best_first(model):
    image = picture(90, 90, red=(0, 0, 48, 90), green=(48, 0, 90, 90))
    both = Frame.of(image=image)
    run_stages([make(model, top=3, min_score=0.05)], [both])
    assert names_of([both]) == [["red", "green"]]
    one, other = frame_labels_of(both)
    assert one.score > other.score >= 0.05
    alone = Frame.of(image=image)
    run_stages([make(model, top=1, min_score=0.1)], [alone])
    assert names_of([alone]) == [["red"]]


def test_no_class_is_given_where_none_reaches_the_score(tmp_path):
    stage = make(classifier(tmp_path / "m.onnx", strength=0.0001), min_score=0.5)
    assert names_of(run_stages([stage], frames_of(["red"]))) == [[]]


def test_a_class_replaces_another_once_it_is_the_best_for_long_enough(model):
    colours = ["red"] * 3 + ["blue"] * 2 + ["red"] + ["blue"] * 8
    frames = run_stages([make(model, steady_s=0.5)], frames_of(colours))
    assert names_of(frames) == [["red"]] * 11 + [["blue"]] * 3


def test_without_a_class_for_long_enough_none_is_given(model):
    frames = frames_of(["red"] * 2 + [None] * 4)
    run_stages([make(model, steady_s=0.2)], frames)
    assert names_of(frames) == [["red"]] * 4 + [[]] * 2


def test_time_that_jumps_back_does_not_count(model):
    frames = frames_of(["red", "blue", "blue", "blue"])
    for frame, time_s in zip(frames, (0.0, 5.0, 0.1, 0.6), strict=True):
        frame.header.source_ns = round(time_s * 1e9)
    run_stages([make(model, steady_s=0.5)], frames)
    assert names_of(frames) == [["red"]] * 3 + [["blue"]]


def test_still_images_have_their_own_class_each(model):
    frames = frames_of(["red", "blue", "green"])
    for frame in frames:
        frame.header.still = True
    run_stages([make(model, steady_s=10)], frames)
    assert names_of(frames) == [["red"], ["blue"], ["green"]]


def test_the_model_runs_as_seldom_as_set(model, monkeypatch):
    stage, runs = make(model, every_s=0.3, steady_s=0), []
    infer = stage.infer
    monkeypatch.setattr(stage, "infer", lambda frame: runs.append(frame.seq) or infer(frame))
    frames = run_stages([stage], frames_of(["red", "blue", "blue", "blue", "red", "red", "red"]))
    assert runs == [0, 3, 6]
    assert names_of(frames) == [["red"]] * 3 + [["blue"]] * 3 + [["red"]]


def test_streams_do_not_mix(model):
    frames = [*frames_of(["red"] * 2, stream="a"), *frames_of(["blue"] * 2, stream="b")]
    mixed = [frames[0], frames[2], frames[1], frames[3]]
    run_stages([make(model, steady_s=9)], mixed)
    assert names_of(mixed) == [["red"], ["blue"], ["red"], ["blue"]]


@pytest.mark.parametrize("cut", [1, 3, 6, 9])
def test_a_restored_stage_gives_the_same_bytes(cut, model):
    settings = {"steady_s": 0.3, "every_s": 0.2, "events": True}
    colours = ["red", "blue", "red", "blue", "blue", "blue", "blue", "red", "red", "red", "red"]
    whole = run_stages([make(model, **settings)], frames_of(colours))
    first, again = make(model, **settings), make(model, **settings)
    frames = frames_of(colours)
    first.open()
    for frame in frames[:cut]:
        first.process(frame)
    again.open()
    again.restore("test", first.state("test"))
    for frame in frames[cut:]:
        again.process(frame)
    for name in ("frame_labels", "object_events"):
        assert [f[name].tobytes() for f in frames] == [f[name].tobytes() for f in whole]


def test_a_change_of_the_class_is_an_event_where_that_is_set(model):
    frames = run_stages(
        [make(model, steady_s=0.2, events=True)], frames_of(["red"] * 2 + ["blue"] * 4)
    )
    events = [json.loads(frame["object_events"].tobytes()) for frame in frames]
    assert [len(found) for found in events] == [1, 0, 0, 0, 1, 0]
    [event] = events[4]
    assert event["score"] > 0.99
    assert event | {"score": 1} == {
        "kind": "scene_changed",
        "id": None,
        "label": "blue",
        "score": 1,
        "box": [0.0, 0.0, 40.0, 30.0],
        "time_s": 0.4,
        "place": None,
        "count": None,
    }


def test_no_array_of_events_is_given_unless_set(model):
    [frame] = run_stages([make(model)], frames_of(["red"]))
    assert "object_events" not in frame


def test_scores_that_are_none_are_reported_once(tmp_path, caplog):
    save(tmp_path / "m.onnx", [1, 32, 32, 3], {"scores": np.array([[9.0, 1.0]])}, dtype="uint8")
    (tmp_path / "card.yaml").write_text(
        "name: m\nweights: {file: m.onnx}\nfamily: classify\n"
        "output: {outputs: {scores: [scores]}, activation: none}\n"
    )
    frames = run_stages([make(tmp_path / "card.yaml")], frames_of(["red", "red"]))
    assert names_of(frames) == [["0"], ["0"]]
    reported = [line for line in caplog.messages if "scores from 1 to 9" in line]
    assert len(reported) == 1
    assert "set `activation`" in reported[0]


@pytest.mark.parametrize("output", ["", "output: {activation: softmax}\n"])
def test_a_card_that_adds_labels_does_not_change_the_scores(output, model, tmp_path):
    (tmp_path / "card.yaml").write_text(
        f"name: m\nweights: {{file: colours.onnx}}\nfamily: classify\nlabels: [r, g, b]\n{output}"
    )
    [frame] = run_stages([make(tmp_path / "card.yaml", min_score=0)], frames_of(["red"]))
    [found] = frame_labels_of(frame)
    assert found.label == "r"
    # A second softmax, where the card asks for it, gives at most e / (e + 2).
    assert (found.score < 0.6) is bool(output)


# --- before the start ---


def test_labels_of_the_frame_are_offered_and_no_labels_of_boxes(model):
    offers = Classify.resolve(ClassifySettings(model=str(model), device="cpu")).offers
    assert FrameLabels(NAMES) in offers
    assert not any(isinstance(offer, Labels) for offer in offers)


def test_a_second_classifier_of_frames_is_refused(model):
    settings = ClassifySettings(model=str(model), device="cpu")
    with pytest.raises(SetupError, match="another stage before it gives the labels of the frame"):
        Classify(settings, context(labels=FrameLabels(NAMES)))


def test_a_detector_is_refused():
    card = ROOT / "models" / "cards" / "ssdlite_mobilenet_v2.yaml"
    with pytest.raises(SetupError, match=r"task detect, .* not take \(classify\); .*: detector"):
        make(card)


def test_labels_that_are_too_few_are_refused(model, tmp_path):
    (tmp_path / "card.yaml").write_text(
        "name: m\nweights: {file: colours.onnx}\nfamily: classify\nlabels: [red, blue]\n"
    )
    with pytest.raises(SetupError, match="3 classes, but its card has 2 labels"):
        make(tmp_path / "card.yaml")
