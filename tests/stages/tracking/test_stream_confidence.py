"""A stream with its own confidence has tracks of its own scores; the others keep the run's."""

import msgspec
import numpy as np
import pytest

from models import zoo
from models.card import Thresholds
from pipeline.errors import SetupError
from pipeline.stage import Context
from pipeline.testing import ListSource
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings, StreamRules
from stages.tracking.tracker import TrackerStage
from tests.builders import tracker_settings

CONTRACT = msgspec.structs.replace(
    zoo.resolve("ssdlite_mobilenet_v2"), thresholds=Thresholds(score=0.5)
)


def chain(kind="bytetrack", **given):
    """NMS and a tracker for the streams door and yard, of which yard has a confidence of 0.7."""
    settings = NonMaxSuppressionSettings(streams={"yard": StreamRules(confidence=0.7)})
    offers = (*NonMaxSuppression.resolve(settings).offers, CONTRACT)
    context = Context(offers=offers, streams=("door", "yard"))
    return (
        NonMaxSuppression(settings, context),
        TrackerStage(tracker_settings(kind, **given), context),
    )


def scores_left(stages, stream, still=False):
    left = []
    for frame in ListSource([np.zeros((90, 90, 3), np.uint8)] * 3, stream=stream):
        frame.header.still = still
        frame.put("boxes", np.array([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60]], np.float32))
        frame.put("scores", np.array([0.4, 0.6, 0.8], np.float32))
        frame.put("classes", np.zeros(3, np.int32))
        for stage in stages:
            stage.process(frame)
        left.append([round(score, 1) for score in frame["scores"].tolist()])
    return left


@pytest.mark.parametrize("kind", ["bytetrack", "none"])
@pytest.mark.parametrize("still", [False, True])
def test_a_track_needs_the_confidence_of_its_stream(kind, still):
    stages = chain(kind)
    assert scores_left(stages, "door", still) == [[0.8, 0.6]] * 3
    assert scores_left(stages, "yard", still) == [[0.8]] * 3


def test_a_contradiction_with_the_confidence_of_a_stream_is_refused():
    with pytest.raises(SetupError, match=r"^stream yard: high_score: expected at most confidence"):
        chain(high_score=0.75)
