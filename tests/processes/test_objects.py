"""A classifier of objects in a process of its own: a kill changes no vote."""

import signal

import pytest

from tests.models.seeing import classifier
from tests.processes.runs import Run

pytestmark = pytest.mark.processes

FRAMES = 24
OBJECTS = """\
streams:
  demo: {{source: {source}}}
stages:
  capture:    {{use: capture}}
  scene:      {{use: classify, device: cpu, model: "{out}/../colours.onnx", min_score: 0}}
  preprocess: {{use: preprocess}}
  detector:   {{use: detector, device: cpu, replicas: 1}}
  nms:        {{use: nms}}
  tracker:    {{use: tracker}}
  kinds:
    use: classify_objects
    device: cpu
    model: "{out}/../colours.onnx"
    min_score: 0.5
    max_per_frame: 2
    again_s: 0.5
  events:     {{use: events, path: {out}/events.jsonl}}
supervisor: {{restarts: 1000}}
"""


def test_a_killed_classifier_of_objects_gives_the_same_events(tmp_path):
    classifier(tmp_path / "colours.onnx", strength=0.5)
    with Run(tmp_path / "calm", "--frames", str(FRAMES), graph=OBJECTS) as calm:
        assert calm.wait() == 0, calm.stderr
    kinds = [
        found["attributes"]["kinds"]
        for line in calm.lines
        for found in line["objects"]
        if found.get("attributes")
    ]
    assert len(kinds) > FRAMES
    assert max(kind["votes"] for kind in kinds) > 3
    assert all(line["labels"] for line in calm.lines)
    with Run(tmp_path / "struck", "--frames", str(FRAMES), graph=OBJECTS) as run:
        for moment, stage in ((1, "kinds"), (6, "scene"), (12, "kinds")):
            run.wait_for_events(moment)
            run.strike(stage, signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == calm.lines
    whole = {"captured": FRAMES, "delivered": FRAMES, "dropped": {}, "failed": {}, "in_flight": 0}
    assert calm.ledger == run.ledger == whole
    assert run.summary["stages"]["kinds"]["restarts"] >= 2
