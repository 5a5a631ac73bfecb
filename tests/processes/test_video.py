"""The annotated video of a run whose processes are killed."""

import os
import signal

import cv2
import pytest

from tests.processes.runs import GRAPH, Run, is_alive, wait_until

pytestmark = pytest.mark.processes

SINK = '  video: {{use: video, after: ids, path: "{out}/out.mp4"}}\n'
RECORDED = GRAPH.replace("  end: ", SINK + "  end: ")
LOST = 4
"""Frames that may be lost with each crash: those that wait for the encoder, and those it has."""


def pictures(path):
    """Return how many images of a video can be played."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while capture.grab():
        count += 1
    return count


@pytest.mark.soak
def test_after_kills_of_its_stage_all_but_a_few_frames_can_be_played(tmp_path):
    moments = (1, 60, 130, 200)
    with Run(tmp_path, "--set", "placement=separate", graph=RECORDED) as run:
        for moment in moments:
            run.wait_for_events(moment)
            run.strike("video", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    parts = sorted(tmp_path.glob("out*.mp4"))
    assert len(parts) >= 4
    played = sum(pictures(part) for part in parts)
    assert 300 - LOST * len(moments) <= played <= 300 + 2 * len(moments)
    assert run.ledger["delivered"] == 300


def test_a_video_plays_up_to_the_death_of_all_processes(tmp_path):
    with Run(tmp_path, graph=RECORDED) as run:
        run.wait_for_events(100)
        workers = run.workers()
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in workers.values()))
    assert pictures(tmp_path / "out.mp4") >= len(run.lines) - 60  # the sinks are not in step
