"""Kills and hangs at random moments, with the real model, on clips of different kinds."""

import json
import os
import random
import signal

import pytest

from tests.kinds_of_clips import make_clips
from tests.processes.runs import Run

pytestmark = [pytest.mark.processes, pytest.mark.soak]

STRIKES = int(os.environ.get("EYELINE_STRIKES", "20"))
"""Kills and hangs of one run."""
FRAMES = 100

GRAPH = """\
streams: {source}
stages:
  capture:    {{use: capture}}
  preprocess: {{use: preprocess}}
  detector:   {{use: detector}}
  nms:        {{use: nms}}
  tracker:    {{use: tracker}}
  events:     {{use: events, path: "{out}/events.jsonl"}}
  mot:        {{use: mot, after: tracker, path: "{out}/{{stream}}.txt"}}
supervisor: {{restarts: 1000, hang_s: 3}}
"""


class Storm(Run):
    """A run of several streams."""

    def __init__(self, folder, clips, placement, batch):
        streams = json.dumps({name: {"source": str(path)} for name, path in clips.items()})
        settings = [f"placement={placement}", f"detector.batch={batch}"]
        options = [option for setting in settings for option in ("--set", setting)]
        super().__init__(folder, *options, source=streams, graph=GRAPH)
        self.clips = clips

    def results(self):
        """What was written of each stream, and its ledger."""
        lines = {name: [] for name in self.clips}
        for line in (self.folder / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            del event["captured_at"]
            lines[event["stream"]].append(event)
        texts = {name: (self.folder / f"{name}.txt").read_text() for name in self.clips}
        keys = ("captured", "delivered", "dropped", "failed", "in_flight")
        streams = self.summary["streams"]
        return lines, texts, {name: {k: streams[name][k] for k in keys} for name in self.clips}

    def strike_a_worker(self, chance):
        """Kill a process, stop it for good, or stop one while another dies."""
        titles = sorted(self.workers())
        if not titles:
            return
        how = chance.choices(("kill", "both", "hang", "stopped"), (12, 3, 1, 4))[0]
        one, other = (chance.choice(titles) for _ in range(2))
        numbers = {
            "kill": [(one, signal.SIGKILL)],
            "both": [(one, signal.SIGKILL), (other, signal.SIGKILL)],
            "hang": [(one, signal.SIGSTOP)],
            "stopped": [
                (one, signal.SIGSTOP),
                (other, signal.SIGKILL),
                (one, signal.SIGCONT),
            ],
        }[how]
        for title, number in numbers:
            pid = self.workers().get(title)
            if pid is not None:
                os.kill(pid, number)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    made = make_clips(tmp_path_factory.mktemp("clips"), FRAMES)
    return {**made, "again": made["crowded"]}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("placement", ["auto", "separate"])
def test_struck_at_random_moments_five_streams_end_as_if_undisturbed(
    placement, batch, clips, tmp_path
):
    with Storm(tmp_path / "calm", clips, placement, batch) as calm:
        assert calm.wait(300) == 0, calm.stderr
    lines, texts, ledgers = calm.results()
    whole = {"captured": FRAMES, "delivered": FRAMES, "dropped": {}, "failed": {}, "in_flight": 0}
    assert ledgers == dict.fromkeys(clips, whole)
    assert any(event["objects"] for event in lines["crowded"])
    assert any(not event["objects"] for event in lines["empty"])
    chance = random.Random(f"{placement}{batch}{STRIKES}")
    moments = sorted(chance.sample(range(1, len(clips) * FRAMES - 20, 6), min(STRIKES, 70)))
    with Storm(tmp_path / "struck", clips, placement, batch) as run:
        for moment in moments:
            run.wait_for_events(moment)
            run.strike_a_worker(chance)
        assert run.wait(600) == 0, run.stderr
    found, found_texts, found_ledgers = run.results()
    assert found_ledgers == ledgers
    for name in clips:
        assert found[name] == lines[name], name
    assert found_texts == texts
