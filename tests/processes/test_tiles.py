"""Tiles in processes of their own: a kill changes no result; rules of streams survive a reload."""

import signal

import pytest

from tests.processes.runs import Run

pytestmark = pytest.mark.processes

FRAMES = 40
TILES = """\
streams:
  demo: {{source: {source}}}
stages:
  capture:  {{use: capture}}
  detector: {{use: tiles, device: cpu, grid: [2, 1], replicas: 2}}
  nms:      {{use: nms, streams: {{demo: {{classes: [person], confidence: 0.6}}}}}}
  tracker:  {{use: tracker}}
  events:   {{use: events, path: {out}/events.jsonl}}
supervisor: {{restarts: 1000}}
"""


@pytest.mark.soak
def test_a_killed_detector_of_tiles_gives_the_same_events(tmp_path):
    with Run(tmp_path / "calm", "--frames", str(FRAMES), graph=TILES) as calm:
        assert calm.wait() == 0, calm.stderr
    assert sum(len(line["objects"]) for line in calm.lines) > FRAMES
    with Run(tmp_path / "struck", "--frames", str(FRAMES), graph=TILES) as run:
        for moment in (1, 10, 20, 30):
            run.wait_for_events(moment)
            run.strike("detector", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == calm.lines
    whole = {"captured": FRAMES, "delivered": FRAMES, "dropped": {}, "failed": {}, "in_flight": 0}
    assert calm.ledger == run.ledger == whole
    assert run.summary["stages"]["detector"]["restarts"] >= 3


LOOPED = TILES.replace("use: tiles, device: cpu, grid: [2, 1]", "use: tiles, grid: [1, 1]").replace(
    "source: {source}}}", "source: {source}, loop: true}}"
)


def test_a_reload_adds_a_stream_and_its_rules_together(tmp_path):
    with Run(tmp_path, graph=LOOPED) as run:
        run.wait_for_events(5)
        config = tmp_path / "config.yaml"
        text = config.read_text()
        source = text.splitlines()[1].replace("demo:", "door:")
        text = text.replace("\nstages:", f"\n{source}\nstages:")
        # Feet are never in the upper corner, so no event of this stream has an object.
        rules = "door: {region: [[0, 0], [0.01, 0], [0, 0.01]]}"
        config.write_text(text.replace("streams: {demo:", f"streams: {{{rules}, demo:"))
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "settings reloaded: " in run.stderr)
        assert "settings reloaded: stage nms changed" in run.stderr
        run.wait_until(lambda: (tmp_path / "events.jsonl").read_text().count('"door"') >= 10)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0, run.stderr
    of_door = [line for line in run.lines if line["stream"] == "door"]
    assert len(of_door) >= 10
    assert not any(line["objects"] for line in of_door)
    assert any(line["objects"] for line in run.lines if line["stream"] == "demo")
