"""A crash does not uncover what is hidden: the images that leave are the same to the byte."""

import signal

import pytest

from tests.processes.runs import Run

pytestmark = pytest.mark.processes

GRAPH = """\
streams:
  demo: {{source: {source}, frames: 80}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  ids:     {{use: "tests.processes.stages:Ids"}}
  blur:
    use: blur
    hold_s: 0.15
    streams: {{demo: {{regions: [[[0, 0], [0.2, 0], [0, 0.3]]]}}}}
  copies:  {{use: pictures, after: blur, folder: {out}/copies, annotate: false}}
  video:   {{use: video, after: blur, path: "{out}/out.mp4"}}
  events:  {{use: events, after: ids, path: "{out}/events.jsonl"}}
placement: separate
supervisor: {{restarts: 1000}}
"""


def written(folder):
    """All images and videos that a run has left."""
    paths = [*folder.glob("copies/*.jpg"), *folder.glob("*.mp4")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_after_kills_the_same_pixels_leave_every_sink(tmp_path):
    with Run(tmp_path / "calm", graph=GRAPH) as calm:
        assert calm.wait() == 0, calm.stderr
    with Run(tmp_path / "struck", graph=GRAPH) as run:
        for moment, stage in ((1, "blur"), (20, "copies"), (35, "blur"), (50, "boxes")):
            run.wait_for_events(moment)
            run.strike(stage, signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.ledger == calm.ledger
    assert run.ledger["delivered"] == 80
    assert run.summary["stages"]["blur"]["restarts"] >= 1
    assert run.lines == calm.lines
    assert len(written(tmp_path / "calm")) == 81
    assert written(tmp_path / "struck") == written(tmp_path / "calm")
