"""Log rotation and a second run, with real processes."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes.runs import Run
from tests.processes.test_streams import LIVE, Attended

pytestmark = pytest.mark.processes


def holders(path, pids):
    """Those of the processes that have a file open."""
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(descriptor) == str(path):
                    found.add(pid)
    return found


def frames_in(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_renamed_amid_kills_has_every_line_once(killed, tmp_path):
    path = tmp_path / "events.jsonl"
    with Run(tmp_path) as run:
        for moment, number in ((60, 3), (40, 2), (50, 1)):
            run.wait_for_events(moment)
            path.rename(f"{path}.{number}")
            if killed:
                run.strike("events", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    parts = [Path(f"{path}.{number}") for number in (3, 2, 1)]
    assert [frame for part in (*parts, path) for frame in frames_in(part)] == list(range(300))


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_emptied_amid_kills_goes_on_without_a_gap(killed, tmp_path):
    path = tmp_path / "events.jsonl"
    with Run(tmp_path) as run:
        run.wait_for_events(100)
        os.truncate(path, 0)
        if killed:
            run.strike("events", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    frames = frames_in(path)
    assert frames == list(range(frames[0], 300))
    assert frames[0] >= 100


def test_on_sighup_the_moved_file_is_released_though_no_frame_comes(tmp_path):
    path = tmp_path / "events.jsonl"
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        assert run.do("pause", "demo") == ""
        run.wait_until(lambda: run.stream("demo")["in_flight"] == 0)
        path.rename(f"{path}.1")
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(path.exists)
        workers = run.workers().values()
        assert holders(path, workers)
        assert not holders(f"{path}.1", workers)
        assert run.do("resume", "demo") == ""
        run.wait_for("demo", 5)
        run.end()
    frames = [*frames_in(Path(f"{path}.1")), *frames_in(path)]
    assert frames == list(range(len(frames)))


def test_no_other_process_holds_the_file_that_a_successor_must_lock(tmp_path):
    path = tmp_path / "events.jsonl"
    endless = ("--set", "streams.demo.loop=true", "--set", "placement=separate")
    with Run(tmp_path, *endless) as run:
        for _ in range(3):
            run.wait_for_events(5)
            run.strike("events", signal.SIGKILL)
            os.truncate(path, 0)
        run.wait_for_events(5)
        run.strike("boxes", signal.SIGKILL)
        run.wait_for_events(50)
        assert len(holders(path, [run.process.pid, *run.workers().values()])) == 1
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0, run.stderr


@pytest.mark.soak
def test_a_second_run_into_the_same_file_is_refused(tmp_path):
    path = tmp_path / "first" / "events.jsonl"
    with Run(tmp_path / "first", "--set", "streams.demo.loop=true") as first:
        first.wait_for_events(5)
        with Run(tmp_path / "second", "--set", f"events.path={path}") as second:
            assert second.wait() == 2
        first.process.send_signal(signal.SIGTERM)
        assert first.wait() == 0, first.stderr
    assert second.stderr.splitlines()[-1].startswith(
        f"run.py: stages.events: {str(path)!r} is being written by another run"
    )
    assert first.ledger["delivered"] == len(first.lines)
