"""Mistakes in a stage of one's own: one line that names the stage, the method and the line."""

import re
import signal

import pytest

from tests.processes.runs import Run

pytestmark = pytest.mark.processes

GRAPH = """\
streams:
  demo: {{source: {source}, frames: 30}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  bad:     {{use: "tests.processes.own_stages:%s"%s}}
  events:  {{use: events, after: boxes, path: {out}/events.jsonl}}
"""


def started(folder, kind, settings="", *args, graph=GRAPH):
    return Run(folder, *args, graph=graph % (kind, settings))


def last_line(run):
    return run.stderr.splitlines()[-1]


@pytest.mark.parametrize("method", ["__init__", "resolve", "resources", "effective"])
def test_an_error_before_the_start_names_stage_and_line(tmp_path, method):
    with started(tmp_path, "Wrong", f", method: {method}") as run:
        assert run.wait() == 2
    words = (
        rf"run\.py: .*config\.yaml: stages\.bad: {method}: ValueError: {method} went wrong "
        r"\(tests/processes/own_stages\.py:\d+\); correct the stage"
    )
    assert re.fullmatch(words, run.stderr.strip())


@pytest.mark.parametrize("method", ["open", "idle", "end", "info", "counters", "state"])
def test_an_error_during_the_run_names_stage_and_line(tmp_path, method):
    with started(tmp_path, "Wrong", f", method: {method}") as run:
        assert run.wait() == 1
    words = (
        rf"run\.py: stages\.bad: {method}: ValueError: {method} went wrong "
        r"\(tests/processes/own_stages\.py:\d+\); correct the stage"
    )
    assert re.fullmatch(words, last_line(run))


def test_a_state_that_is_no_bytes_is_found_with_the_first_frame(tmp_path):
    with started(tmp_path, "Wrong", ", method: text") as run:
        assert run.wait() == 1
    assert "stages.bad: state: TypeError: expected bytes (found str)" in last_line(run)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("float64", "gave array 'scores' as float64 (2,), but declares float32 (None,)"),
        ("shape", "gave array 'scores' as float32 (2, 2), but declares float32 (None,)"),
        ("object", "array 'scores': expected numbers (found dtype object)"),
    ],
)
def test_an_array_that_is_not_as_declared_fails_its_frames(tmp_path, kind, words):
    with started(tmp_path, "WrongArray", f", kind: {kind}") as run:
        run.wait()
    assert run.ledger["failed"] == {"failed:bad": 30}
    assert words in run.stderr
    assert "frame 0 of demo" in run.stderr


def test_failures_whose_text_varies_are_logged_at_the_1st_and_10th_time(tmp_path):
    with started(tmp_path, "Varying") as run:
        run.wait()
    assert run.ledger["failed"] == {"failed:bad": 30}
    logged = [line for line in run.stderr.splitlines() if " WARNING " in line]
    assert [re.search(r"\(frame \d+ of demo; x(\d+)\)", line)[1] for line in logged] == ["1", "10"]


@pytest.mark.parametrize("method", ["__init__", "resources"])
def test_a_reload_with_a_wrong_stage_changes_nothing(tmp_path, method):
    live = GRAPH.replace("frames: 30", "loop: true, mode: live")
    with started(tmp_path, "Wrong", "", graph=live) as run:
        run.wait_for_events(3)
        config = tmp_path / "config.yaml"
        config.write_text(
            config.read_text().replace('own_stages:Wrong"', f'own_stages:Wrong", method: {method}')
        )
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "settings not reloaded" in run.stderr)
        count = (tmp_path / "events.jsonl").read_bytes().count(b"\n")
        run.wait_for_events(count + 3)
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0
    assert f"stages.bad: {method}: ValueError: {method} went wrong" in run.stderr
