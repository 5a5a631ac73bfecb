"""Methods of suppression, scores of classes, and the rules of single streams."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import zoo
from models.boxes.suppress import suppress
from models.card import Thresholds
from pipeline.errors import SetupError
from pipeline.frame import Frame
from run import main
from stages.detections import WantsAllBoxes
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings
from stages.thresholds import StreamConfidences
from tests.builders import CLIP, context_of

LABELS = ("person", "dog", "car", "person")
CONTRACT = msgspec.structs.replace(
    zoo.resolve("ssdlite_mobilenet_v2"), thresholds=Thresholds(score=0.5)
)
END_TO_END = msgspec.structs.replace(CONTRACT, end_to_end=True)
BOX = (0, 0, 10, 10)
NEAR = (0, 0, 10, 8)  # IoU with BOX: 0.8
LEFT, RIGHT = (0, 0, 20, 90), (60, 0, 80, 50)
LEFT_HALF = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]


def stage(context=None, **settings):
    made = msgspec.convert(settings, NonMaxSuppressionSettings)
    return NonMaxSuppression(made, context or context_of(LABELS, contract=CONTRACT))


def run(of, boxes, scores, classes=None, stream="test"):
    """Pass the boxes of a frame of 100x100 through the stage."""
    frame = Frame.of(
        stream,
        image=np.zeros((100, 100, 3), np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        classes=np.array([0] * len(scores) if classes is None else classes, np.int32),
    )
    of.process(frame)
    return frame


def scores_of(frame):
    return [
        [round(score, 3) for score in frame[name].tolist()] for name in ("scores", "weak_scores")
    ]


# --- methods ---


def test_each_method_does_as_its_source_says():
    boxes, scores = [BOX, NEAR, LEFT], [0.9, 0.8, 0.7]

    def found(**settings):
        strong, weak = scores_of(run(stage(**settings), boxes, scores))
        return strong + weak

    assert found() == [0.9, 0.7]
    assert found(method="greedy") == [0.9, 0.7]
    assert found(method="diou", max_iou=0.78) == [0.9, 0.7]
    # The centres are 1 px apart, the diagonal of both is 14.1 px: DIoU = 0.8 - 1 / 200.
    assert found(method="diou", max_iou=0.798) == [0.9, 0.8, 0.7]
    assert found(max_iou=0.798) == [0.9, 0.7]
    # BOX and LEFT: 100 / 1800. NEAR has 0.8 * (1 - 0.8) left.
    assert found(method="soft_linear") == [0.9, 0.7, 0.16]
    by_box, by_left = (np.exp(-(iou**2) / 0.5) for iou in (0.8, 80 / 1800))
    kept = [0.9, 0.7 * np.exp(-((100 / 1800) ** 2) / 0.5), 0.8 * by_box * by_left]
    assert found(method="soft_gaussian") == pytest.approx(kept, abs=1e-3)
    assert found(method="soft_gaussian", sigma=0.1) == [0.9, pytest.approx(0.679, abs=1e-3)]
    assert found(method="fusion") == [0.9, 0.7]
    assert found(method="fusion", fused_score="mean") == [0.85, 0.7]


def test_fusion_gives_the_mean_of_boxes_as_float32():
    found = run(stage(method="fusion"), [BOX, NEAR], [0.9, 0.3])
    assert found["boxes"].dtype == found["scores"].dtype == np.float32
    assert found["classes"].dtype == np.int32
    np.testing.assert_allclose(found["boxes"], [[0, 0, 10, 10 * 0.75 + 8 * 0.25]])


CASES = st.integers(0, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.float32, (n, 4), elements=st.integers(-5, 25)),
        arrays(np.float32, n, elements=st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.9, np.nan])),
        arrays(np.int32, n, elements=st.integers(0, 2)),
    )
)


@given(CASES, st.sampled_from([0.0, 0.5]), st.integers(1, 50), st.integers(1, 9), st.booleans())
def test_the_default_method_gives_the_same_bytes_as_before(case, max_iou, best, most, agnostic):
    boxes, scores, classes = case
    limits = {"max_candidates": best, "max_boxes": most, "max_iou": max_iou}
    found = run(stage(class_agnostic=agnostic, **limits), boxes, scores, classes)
    # The steps of the stage before it had other methods.
    rows = np.flatnonzero(scores >= 0.1)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:best]
    groups = None if agnostic else classes[rows]
    rows = rows[suppress(boxes[rows], groups, max_iou)[:most]]
    strong, weak = rows[scores[rows] >= 0.5], rows[scores[rows] < 0.5]
    for name, of in (("boxes", boxes), ("scores", scores), ("classes", classes)):
        assert found[name].tobytes() == of[strong].tobytes()
        assert found[f"weak_{name}"].tobytes() == of[weak].tobytes()


# --- scores of classes ---


@pytest.mark.parametrize("contract", [CONTRACT, END_TO_END], ids=["nms", "end to end"])
def test_a_class_may_need_a_higher_score(contract):
    context = context_of(LABELS, contract=contract)
    of = stage(context, class_scores={"person": 0.6, "dog": 0.8})
    scores = [0.7, 0.55, 0.85, 0.7, 0.2, 0.5]
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(6)]
    found = run(of, boxes, scores, [0, 3, 1, 1, 2, 2])
    assert scores_of(found) == [[0.85, 0.7, 0.5], [0.2]]


def test_a_class_score_equal_to_that_of_a_box_keeps_the_box():
    assert scores_of(run(stage(class_scores={"person": 0.7}), [BOX], [0.7])) == [[0.7], []]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"class_scores": {"persn": 0.5}}, "class_scores: .* 'persn'; did you mean 'person'"),
        (
            {"class_scores": {"dog": 0.05}},
            r"class_scores.dog: expected at least min_score \(0.1\), found 0.05; change one",
        ),
        ({"streams": {"yard": {"classes": ["dgo"]}}}, "^streams.yard.classes: .*mean 'dog'"),
        (
            {"streams": {"yard": {"confidence": 0.05}}},
            r"^streams.yard.confidence: expected at least min_score \(0.1\), found 0.05",
        ),
        ({"streams": {"yard": {"region": [[0, 0], [1, 1]]}}}, "^streams.yard.region: expected 3"),
    ],
)
def test_wrong_rules_are_refused_before_a_process_starts(settings, complaint):
    with pytest.raises(SetupError, match=complaint):
        stage(**settings)


# --- streams ---


def test_a_stream_has_its_own_classes_and_the_others_those_of_the_stage():
    of = stage(classes=["dog"], streams={"yard": {"classes": ["person"]}})
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(4)]
    for stream, expected in (("yard", [0, 3]), ("door", [1])):
        found = run(of, boxes, [0.9] * 4, [0, 1, 2, 3], stream)
        assert found["classes"].tolist() == expected


def test_boxes_below_the_confidence_of_a_stream_are_weak():
    of = stage(streams={"yard": {"confidence": 0.7}, "gate": {"confidence": 0.2}})
    boxes, scores = [(20 * i, 0, 20 * i + 10, 10) for i in range(3)], [0.8, 0.6, 0.3]
    assert scores_of(run(of, boxes, scores, stream="door")) == [[0.8, 0.6], [0.3]]
    assert scores_of(run(of, boxes, scores, stream="yard")) == [[0.8], [0.6, 0.3]]
    assert scores_of(run(of, boxes, scores, stream="gate")) == [[0.8, 0.6, 0.3], []]


def test_the_confidence_of_streams_is_offered_to_the_tracker():
    settings = msgspec.convert(
        {"streams": {"yard": {"confidence": 0.7}, "door": {}}}, NonMaxSuppressionSettings
    )
    offers = NonMaxSuppression.resolve(settings).offers
    assert offers[2:] == (StreamConfidences((("yard", 0.7),)),)


@pytest.mark.parametrize("contract", [CONTRACT, END_TO_END], ids=["nms", "end to end"])
def test_objects_outside_the_region_of_a_stream_are_left_out(contract):
    of = stage(context_of(LABELS, contract=contract), streams={"yard": {"region": LEFT_HALF}})
    boxes, scores = [LEFT, RIGHT, (0, 60, 10, 90)], [0.8, 0.9, 0.2]
    assert scores_of(run(of, boxes, scores, stream="yard")) == [[0.8], [0.2]]
    assert scores_of(run(of, boxes, scores, stream="door")) == [[0.9, 0.8], [0.2]]


def test_the_best_box_of_an_object_decides_whether_it_is_in_the_region():
    # The worse box of the same object has its feet inside.
    of = stage(streams={"yard": {"region": LEFT_HALF}})
    assert scores_of(run(of, [(41, 0, 61, 60), (38, 0, 58, 60)], [0.9, 0.8], stream="yard")) == [
        [],
        [],
    ]


def test_boxes_outside_the_region_do_not_count_for_max_boxes():
    of = stage(max_boxes=1, streams={"yard": {"region": LEFT_HALF}})
    assert scores_of(run(of, [RIGHT, LEFT, RIGHT], [0.9, 0.8, 0.7], stream="yard")) == [[0.8], []]


def test_check_shows_the_rules_of_streams_and_refuses_unknown_ones(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    rules = "{classes: [person], confidence: 0.6, region: [[0, 0], [1, 0], [1, 1]]}"
    text = (
        f"streams: {{yard: {{source: {CLIP}}}, door: {{source: {CLIP}}}}}\n"
        "stages:\n  capture: {use: capture}\n  preprocess: {use: preprocess}\n"
        "  detector: {use: detector}\n"
        f"  nms: {{use: nms, method: diou, streams: {{yard: {rules}, door: {{}}}}}}\n"
        '  end: {use: "null"}\n'
    )
    config.write_text(text)
    assert main(["check", str(config)]) == 0
    assert (
        "min_score 0.1, confidence 0.5, max_iou 0.5, method diou, streams.yard (classes person, "
        "confidence 0.6, region of 3 corners), streams.door (as all)"
    ) in capsys.readouterr().out
    config.write_text(text.replace("streams: {yard: {classes", "streams: {yrad: {classes"))
    assert main(["check", str(config)]) == 2
    last = capsys.readouterr().err.splitlines()
    assert len(last) == 1
    words = "stages.nms: streams: no stream is named 'yrad'; did you mean 'yard'?"
    assert last[0].endswith(words)


# --- boxes for stages that hide objects ---

DOG, CAR = 1, 2
STREET = ([LEFT, RIGHT, BOX, NEAR, BOX], [0.9, 0.8, 0.3, 0.7, 0.05], [0, CAR, DOG, 0, CAR])


def unfiltered(contract=CONTRACT, **settings):
    context = context_of(LABELS, contract=contract, hiding=WantsAllBoxes())
    frame = run(stage(context, **settings), *STREET)
    names = frame["unfiltered_boxes"], frame["unfiltered_classes"]
    assert names[1].dtype == np.int32
    return {(*box, number) for *box, number in np.column_stack(names).tolist()}


@pytest.mark.parametrize("contract", [CONTRACT, END_TO_END])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"classes": ["car"]},
        {"classes": []},
        {"streams": {"test": {"classes": ["dog"], "region": LEFT_HALF}}},
        {"streams": {"test": {"region": [[0.9, 0.9], [1, 0.9], [1, 1]]}}},
        {"max_boxes": 1},
    ],
)
def test_boxes_that_are_dropped_are_there_for_a_stage_that_hides_them(settings, contract):
    expected = {(*LEFT, 0), (*RIGHT, CAR), (*BOX, DOG), (*NEAR, 0)}
    assert unfiltered(contract, **settings) == expected


def test_a_box_that_another_class_suppresses_is_there_to_be_hidden():
    assert len(run(stage(class_agnostic=True), *STREET)["boxes"]) == 3
    assert (*BOX, DOG) in unfiltered(class_agnostic=True)


def test_boxes_below_the_lowest_score_of_their_class_are_not_there():
    assert unfiltered(class_scores={"dog": 0.5}) == {(*LEFT, 0), (*RIGHT, CAR), (*NEAR, 0)}


def test_without_a_stage_that_hides_objects_no_box_is_given_twice():
    assert "unfiltered_boxes" not in run(stage(classes=["car"]), *STREET)
