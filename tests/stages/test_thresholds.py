"""Settings take precedence, the other scores follow, contradictions are refused."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import zoo
from models.card import Thresholds
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings
from stages.thresholds import (
    Confidence,
    StreamConfidences,
    candidate_score,
    hand_on_score,
    max_iou,
    of_stream,
    own_confidences,
    track_scores,
)
from stages.tracking.tracker import TrackerStage
from tests.builders import context_of, tracker_settings

SCORES = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
MAYBE = st.none() | SCORES


def card(score=None, iou=None):
    """The contract of a detector with such a card."""
    return msgspec.structs.replace(EMBEDDED, thresholds=Thresholds(score=score, iou=iou))


EMBEDDED = zoo.resolve("ssdlite_mobilenet_v2")


# --- the derivation ---


def test_scores_without_confidence_and_card_are_the_defaults():
    assert track_scores(None, None, None, Confidence()) == (0.3, 0.5, 0.5, 0.65)
    assert candidate_score(None, Confidence()) == 0.1
    assert hand_on_score(None, Confidence()) is None
    assert max_iou(None, context_of()) == 0.5


@pytest.mark.parametrize(
    ("given", "of_card", "expected"),
    [
        (None, 0.4, (0.3, 0.4, 0.4, 0.4)),
        (0.7, 0.4, (0.3, 0.5, 0.7, 0.7)),
        (0.2, None, (0.2, 0.2, 0.2, 0.2)),
        (0.0, 0.4, (0.0, 0.0, 0.0, 0.0)),
        (1.0, None, (0.3, 0.5, 1.0, 1.0)),
    ],
)
def test_the_confidence_is_the_score_to_start_and_confirm_a_track(given, of_card, expected):
    assert track_scores(None, None, None, Confidence(given, of_card)) == expected


@pytest.mark.parametrize(
    ("given", "of_card", "expected"),
    [
        ((None, 0.6, None), 0.4, (0.3, 0.6, 0.6, 0.6)),
        ((None, None, 0.2), 0.4, (0.2, 0.2, 0.2, 0.2)),
        ((0.45, None, None), 0.4, (0.45, 0.45, 0.45, 0.45)),
        ((0.1, 0.5, 0.65), 0.4, (0.1, 0.5, 0.5, 0.65)),
        ((None, 0.7, None), None, (0.3, 0.7, 0.7, 0.7)),
    ],
)
def test_a_setting_takes_precedence_over_the_card(given, of_card, expected):
    assert track_scores(*given, Confidence(None, of_card)) == expected


@pytest.mark.parametrize(
    ("given", "confidence", "words"),
    [
        ((0.6, 0.5, None), None, r"low_score: expected at most high_score \(0.5\), found 0.6"),
        ((None, 0.5, 0.4), None, r"high_score: expected at most new_track_score \(0.4\), found"),
        ((None, 0.7, None), 0.5, r"high_score: expected at most confidence \(0.5\), found 0.7"),
        ((0.7, None, None), 0.5, r"low_score: expected at most confidence \(0.5\), found 0.7"),
        ((None, None, 0.3), 0.5, r"confidence: expected at most new_track_score \(0.3\), found"),
    ],
)
def test_two_given_scores_that_contradict_each_other_are_refused(given, confidence, words):
    with pytest.raises(SetupError, match=words):
        track_scores(*given, Confidence(confidence, 0.4))


@given(MAYBE, MAYBE, MAYBE, MAYBE, MAYBE)
def test_scores_ascend_and_keep_the_given_ones(low, high, new, confidence, of_card):
    try:
        scores = track_scores(low, high, new, Confidence(confidence, of_card))
    except SetupError:
        return
    assert scores.low <= scores.high <= scores.confirm <= scores.new
    for wanted, found in ((low, scores.low), (high, scores.high), (new, scores.new)):
        assert wanted is None or wanted == found
    if confidence is not None:
        assert scores.confirm == confidence


def test_a_min_score_is_refused_above_the_confidence_but_not_the_card():
    with pytest.raises(SetupError, match=r"min_score: expected at most confidence \(0.2\)"):
        candidate_score(0.3, Confidence(0.2, 0.4))
    assert candidate_score(0.5, Confidence(None, 0.4)) == 0.5
    assert candidate_score(None, Confidence(None, 0.05)) == 0.05
    assert hand_on_score(0.3, Confidence(None, 0.4)) == 0.3
    assert hand_on_score(0.3, Confidence(0.6, 0.4)) == 0.6


def test_max_iou_is_that_of_the_card_unless_given():
    assert max_iou(None, Context(offers=(card(iou=0.7),))) == 0.7
    assert max_iou(0.3, Context(offers=(card(iou=0.7),))) == 0.3


# --- the objects that reach a sink ---


def detections(seq, scores, step_px=0.0):
    """Make a frame with one box per score, all disjoint."""
    lefts = 200.0 * np.arange(len(scores)) + step_px * seq
    boxes = np.stack([lefts, lefts * 0, lefts + 40, lefts * 0 + 80], axis=1)
    return Frame.of(
        "demo",
        seq,
        seq / 10,
        boxes=boxes.astype(np.float32),
        scores=np.array(scores, np.float32),
        classes=np.arange(len(scores), dtype=np.int32),
    )


class Path:
    """Non-maximum suppression, followed by a tracker or not."""

    def __init__(self, confidence=None, kind="bytetrack", of_card=None, nms=(), **tracker):
        chosen = NonMaxSuppressionSettings(**dict(nms))
        context = Context(
            confidence=confidence,
            offers=(card(of_card), *NonMaxSuppression.resolve(chosen).offers),
        )
        self.stages = [NonMaxSuppression(chosen, context)]
        if kind is not None:
            self.stages.append(TrackerStage(tracker_settings(kind, **tracker), context))

    def __call__(self, frame):
        """Process a frame; return (class, id, score) of each object that a sink gets."""
        for stage in self.stages:
            stage.process(frame)
        ids = frame["ids"] if "ids" in frame else [-1] * len(frame["boxes"])
        columns = zip(frame["classes"], ids, frame["scores"], strict=True)
        return {(int(c), int(i), float(s)) for c, i, s in columns}


SCENES = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=1, max_size=12)
)


@settings(deadline=None, max_examples=50)
@given(SCENES, SCORES, SCORES, st.sampled_from(["bytetrack", "none", None]))
def test_raising_the_confidence_never_adds_objects(scene, one, other, kind):
    low, high = Path(min(one, other), kind), Path(max(one, other), kind)
    for seq, scores in enumerate(scene):
        seen = [{(c, s) for c, _, s in path(detections(seq, scores, 2.0))} for path in (low, high)]
        assert seen[1] <= seen[0]


@settings(deadline=None, max_examples=50)
@given(SCENES, SCORES)
def test_every_track_was_started_and_confirmed_with_the_confidence(scene, confidence):
    path, begun, before = Path(confidence), set(), {}
    for seq, scores in enumerate(scene):
        for number, track, score in path(detections(seq, scores)):
            if track not in begun:
                begun.add(track)
                assert score >= np.float32(confidence)
                assert seq == 0 or before[number] >= np.float32(confidence)
        before = dict(enumerate(scores))


@settings(deadline=None, max_examples=50)
@given(SCENES, SCORES, st.sampled_from(["none", None]))
def test_no_object_below_the_confidence_is_shown_without_a_tracker(scene, confidence, kind):
    path = Path(confidence, kind)
    for seq, scores in enumerate(scene):
        shown = {number for number, _, _ in path(detections(seq, scores))}
        assert shown == {n for n, s in enumerate(scores) if np.float32(s) >= np.float32(confidence)}


def test_a_confirmed_track_continues_with_a_weaker_box():
    path = Path(0.6)
    assert path(detections(0, [0.75])) == {(0, 1, 0.75)}
    assert path(detections(1, [0.375])) == {(0, 1, 0.375)}
    assert path(detections(2, [0.2])) == set()


def test_boxes_below_the_confidence_are_not_in_the_arrays_of_a_sink():
    frame = detections(0, [0.9, 0.3, 0.45, 0.05])
    Path(0.4, kind=None)(frame)
    assert frame["scores"].tolist() == pytest.approx([0.9, 0.45])
    assert frame["weak_scores"].tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("kind", ["none", None])
def test_the_score_of_the_card_is_used_where_no_score_is_given(kind):
    def shown(**more):
        return {number for number, _, _ in Path(kind=kind, **more)(detections(0, scores))}

    scores = [0.55, 0.45, 0.25]
    assert shown() == {0, 1, 2}
    assert shown(of_card=0.5) == {0}
    assert shown(of_card=0.5, confidence=0.4) == {0, 1}
    assert shown(of_card=0.5, nms={"min_score": 0.2}) == {0, 1, 2}


def test_a_stream_may_have_its_own_confidence():
    offer = StreamConfidences((("yard", 0.7),))
    context = context_of(confidence=0.4, streams_offer=offer, contract=card(score=0.5))
    assert own_confidences(context) == {"yard": 0.7}
    assert Confidence.of(of_stream(context, "yard")) == Confidence(0.7, 0.5)
    assert Confidence.of(of_stream(context, "door")) == Confidence(0.4, 0.5)
    assert of_stream(context_of(), "yard") == context_of()
