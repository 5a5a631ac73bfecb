"""A tracker of one's own is one file and one line in a table."""

import json

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.frame import Frame
from pipeline.graph.schema import schema
from pipeline.stage import ContractError
from pipeline.testing import run_stages
from stages import LOCATIONS
from stages.tracking import tracker as tracker_file
from stages.tracking.tracker import Tracker, TrackerStage, Tracks
from tests.builders import context_of, graph, tracker_settings
from tests.stages.tracking.nearest import LINE, NearestCentre


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(tracker_file.TRACKERS, *LINE)


def stage(**settings):
    return TrackerStage(tracker_settings("nearest", **settings), context_of())


def frames(count, start=0):
    """Two objects that walk towards each other and past."""
    for seq in range(start, start + count):
        x = 10.0 * seq
        boxes = [(x, 0, x + 20, 40), (190 - x, 100, 210 - x, 140)]
        yield Frame.of(
            "demo",
            seq,
            seq / 10,
            image=np.zeros((150, 220, 3), np.uint8),
            boxes=np.array(boxes, np.float32),
            scores=np.array([0.9, 0.8], np.float32),
            classes=np.zeros(2, np.int32),
        )


def test_a_tracker_of_its_own_gives_ids():
    done = run_stages([stage()], frames(20))
    assert [frame["ids"].tolist() for frame in done] == [[1, 2]] * 20


def test_its_state_survives_a_crash():
    first = stage()
    for frame in frames(10):
        first.process(frame)
    second = stage()
    second.restore("demo", first.state("demo"))
    done = run_stages([second], frames(10, start=10))
    assert [frame["ids"].tolist() for frame in done] == [[1, 2]] * 10


@pytest.mark.parametrize(
    ("tracks", "words"),
    [
        (Tracks(np.arange(2), np.array([1])), "expected an id for each row"),
        (Tracks(np.arange(2), np.array([1.0, 2.0])), "expected whole numbers as rows and ids"),
        (Tracks(np.array([True, False]), np.array([1, 2])), "expected whole numbers as rows"),
        (Tracks(np.array([0, 2]), np.array([1, 2])), r"rows from 0 to 1 .found 0 to 2"),
        (Tracks(np.array([-1, 0]), np.array([1, 2])), r"rows from 0 to 1 .found -1 to 0"),
    ],
)
def test_a_wrong_answer_of_a_tracker_is_refused(monkeypatch, tracks, words):
    monkeypatch.setattr(NearestCentre, "update", lambda *_: tracks)
    with pytest.raises(ContractError, match=f"tracker nearest: .*{words}"):
        run_stages([stage()], frames(1))


def test_a_tracker_may_answer_with_empty_lists_of_any_type(monkeypatch):
    monkeypatch.setattr(NearestCentre, "update", lambda *_: Tracks(np.array([]), np.array([])))
    [done] = run_stages([stage()], frames(1))
    assert (done["ids"].dtype, done["boxes"].shape) == (np.int64, (0, 4))


def made(table):
    stages = {"boxes": {"use": "boxes"}, "tracker": {"use": "tracker", **table}}
    return graph(stages, registry={**LOCATIONS, "boxes": "tests.processes.stages:Boxes"})


def test_its_settings_are_checked():
    [*_, node] = made({"kind": "nearest", "reach_px": 30}).nodes
    assert (node.settings.kind, node.settings.reach_px) == ("nearest", 30.0)
    with pytest.raises(ConfigError, match=r"stages\.tracker: low_score: unknown key"):
        made({"kind": "nearest", "low_score": 0.3})
    with pytest.raises(ConfigError, match=r"stages\.tracker: reach_px: expected `float` > 0"):
        made({"kind": "nearest", "reach_px": 0})


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    words = r"stages\.tracker: kind: expected one of bytetrack, none, nearest, found 'magic'"
    with pytest.raises(ConfigError, match=words):
        made({"kind": "magic"})


def test_the_first_kind_is_the_default_and_none_takes_its_settings():
    assert made({"low_score": 0.2}).nodes[-1].settings.kind == "bytetrack"
    assert made({"kind": "none", "low_score": 0.2}).nodes[-1].settings.kind == "none"


def test_settings_of_all_kinds_are_in_the_schema():
    table = json.loads(json.dumps(schema(LOCATIONS)))
    stages = table["$defs"]["Config"]["properties"]["stages"]["additionalProperties"]
    [tracker] = [
        part["then"]["properties"]
        for part in stages["allOf"]
        if part["if"]["properties"]["use"]["const"] == "tracker"
    ]
    assert tracker["kind"]["enum"] == ["bytetrack", "none", "nearest"]
    assert {"low_score", "lost_s", "reach_px"} <= tracker.keys()


class Recorder(Tracker):
    """Records the arguments of its calls."""

    calls = []

    def update(self, detections, time_s, image=None):
        self.calls.append((len(detections.boxes), time_s, image))
        rows = np.arange(len(detections.boxes))
        return Tracks(rows, rows + 1)


class ImageRecorder(Recorder):
    needs_image = True
    takes_weak = True


@pytest.mark.parametrize(("kind", "boxes"), [("Recorder", 1), ("ImageRecorder", 2)])
def test_image_and_weak_boxes_are_given_only_where_declared(kind, boxes, monkeypatch):
    location = f"tests.stages.tracking.test_tracker_seam:{kind}"
    monkeypatch.setitem(tracker_file.TRACKERS, "recorder", location)
    Recorder.calls.clear()
    [frame] = frames(1)
    for name in ("boxes", "scores", "classes"):
        frame.put(f"weak_{name}", frame[name][1:])
        frame.put(name, frame[name][:1])
    TrackerStage(tracker_settings("recorder"), context_of()).process(frame)
    [(count, time_s, image)] = Recorder.calls
    assert (count, time_s) == (boxes, 0.0)
    assert (image is not None) == (kind == "ImageRecorder")
