"""A run ends when asked, says how, and leaves nothing behind."""

import json
import os
import signal

import pytest

from tests.processes.runs import CLIP, GRAPH, Run, all_sockets, is_alive, sockets

pytestmark = pytest.mark.processes

ENDLESS = ("--set", "streams.demo.loop=true")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_drains(number, status, tmp_path):
    shared = set(os.listdir("/dev/shm"))
    with Run(tmp_path, *ENDLESS) as run:
        run.wait_for_events(30)
        workers = run.workers()
        bound = sockets(workers.values())
        assert len(bound) == 4
        run.process.send_signal(number)
        assert run.wait() == status, run.stderr
    ledger = run.ledger
    assert ledger["in_flight"] == 0
    assert ledger["captured"] == ledger["delivered"] == len(run.lines)
    assert not any(map(is_alive, workers.values()))
    assert not bound & all_sockets()
    assert set(os.listdir("/dev/shm")) <= shared


def test_a_second_interrupt_ends_a_run_at_once(tmp_path):
    slow = ("--set", "post.delay_ms=3000", "--set", "supervisor.hang_s=60")
    with Run(tmp_path, *ENDLESS, *slow) as run:
        run.wait_until(lambda: len(run.workers()) == 4)
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        assert run.wait(10) == 130
    ledger = run.ledger
    assert ledger["captured"] == ledger["delivered"] + ledger["in_flight"]


def test_a_full_disk_ends_the_run_with_one_line(tmp_path):
    graph = GRAPH.replace("{out}/events.jsonl", "/dev/full")
    with Run(tmp_path, graph=graph) as run:
        assert run.wait() == 1
    assert "/dev/full" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_images_may_change_their_size(tmp_path):
    import cv2
    import numpy as np

    sizes = [(1, 1), (64, 48), (4097, 3), (37, 1200), (640, 481), (5, 5)]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (width, height) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((height, width, 3), 40 * i, np.uint8))
    (folder / "3b.png").write_bytes(b"no picture")
    with Run(tmp_path / "run", source=folder) as run:
        assert run.wait() == 0, run.stderr
    assert run.ledger == {
        "captured": 7,
        "delivered": 6,
        "dropped": {},
        "failed": {"decode": 1},
        "in_flight": 0,
    }
    boxes = {line["frame"]: line["objects"][0]["box"] for line in run.lines if line["objects"]}
    assert boxes == {
        i: [40.0 * i] * 3 + [float(width)] for i, (width, _) in enumerate(sizes) if i % 5
    }


def test_frames_of_a_source_faster_than_the_stages_are_dropped_and_counted(tmp_path):
    args = ("--live", "--frames", "25", "--set", "boxes.work_ms=450")
    with Run(tmp_path, *args) as run:
        assert run.wait() == 0, run.stderr
    ledger = run.ledger
    assert ledger["captured"] == 25
    assert ledger["dropped"]["busy"] > 5
    assert ledger["captured"] == ledger["delivered"] + ledger["dropped"]["busy"]
    frames = [line["frame"] for line in run.lines]
    assert frames == list(range(ledger["delivered"]))
    times = [line["time_s"] for line in run.lines]
    assert times == sorted(times)
    assert times[-1] > 2.0


def test_several_streams_have_a_ledger_each(tmp_path):
    graph = GRAPH.replace("\nstages:", "\n  other: {{source: {source}, frames: 40}}\nstages:")
    with Run(tmp_path, graph=graph, source=CLIP) as run:
        run.wait_for_events(100)
        run.strike("boxes", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    delivered = {name: s["delivered"] for name, s in run.summary["streams"].items()}
    assert delivered == {"demo": 300, "other": 40}
    for stream, count in delivered.items():
        lines = [line for line in run.lines if line["stream"] == stream]
        assert [line["frame"] for line in lines] == list(range(count))
        ids = [o["id"] for line in lines for o in line["objects"]]
        assert ids == list(range(len(ids)))


def test_the_trace_holds_every_frame(tmp_path):
    trace = tmp_path / "trace.json"
    with Run(tmp_path, "--frames", "30", "--trace", str(trace)) as run:
        assert run.wait() == 0, run.stderr
    events = json.loads(trace.read_text())["traceEvents"]
    stages = {e["name"] for e in events if e["ph"] == "X"}
    assert stages == {"capture", "pre", "boxes", "post", "ids", "events", "end"}
    for stage in stages:
        frames = [e["args"]["frame"] for e in events if e["ph"] == "X" and e["name"] == stage]
        assert sorted(frames) == sorted(f"demo {i}" for i in range(30))
