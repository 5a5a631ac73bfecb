"""A device that fails while a run is under way costs time or ends the run; it is never replaced."""

import pytest

from tests.processes.runs import Run

pytestmark = pytest.mark.processes

GRAPH = """\
streams:
  demo: {{source: {source}, frames: 20}}
stages:
  capture: {{use: capture}}
  pre:     {{use: preprocess}}
  model:   {{use: "tests.processes.stages:Unsound", replicas: 1, once: {out}/failed}}
  nms:     {{use: nms}}
  events:  {{use: events, path: {out}/events.jsonl}}
supervisor: {{restarts: 2}}
"""
LASTING = GRAPH.replace("once: {out}/failed", 'error: "RuntimeException"')


def test_a_device_that_fails_once_costs_no_frame(tmp_path):
    with Run(tmp_path, graph=GRAPH) as run:
        assert run.wait() == 0, run.stderr
    assert run.ledger == {
        "captured": 20,
        "delivered": 20,
        "dropped": {},
        "failed": {},
        "in_flight": 0,
    }
    assert run.summary["stages"]["model"]["restarts"] == 1
    assert run.summary["stages"]["model"]["provider"] == "CUDAExecutionProvider"
    (line,) = [line for line in run.stderr.splitlines() if "719" in line]
    assert "failed: stages.model: CUDAExecutionProvider failed while running ssdlite" in line


def test_a_device_that_keeps_failing_ends_the_run_with_its_message(tmp_path):
    with Run(tmp_path, graph=LASTING) as run:
        assert run.wait() == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("run.py: ")
    assert "CUDA failure 719: unspecified launch failure" in last
    assert "supervisor.restarts is 2" in last
    assert len(last) <= 308
    assert not run.ledger["failed"]
    assert "Traceback" not in run.stderr
