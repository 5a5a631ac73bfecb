"""A crash costs time, not frames: any process may be killed or frozen at any moment."""

import random
import signal

import pytest

from tests.processes.runs import GRAPH, Run, all_sockets, is_alive, sockets, wait_until

pytestmark = pytest.mark.processes

WHOLE = {"captured": 300, "delivered": 300, "dropped": {}, "failed": {}, "in_flight": 0}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the events of a run without a crash."""
    with Run(tmp_path_factory.mktemp("undisturbed")) as run:
        assert run.wait() == 0, run.stderr
    assert run.ledger == WHOLE
    assert [line["frame"] for line in run.lines] == list(range(300))
    assert run.summary["stages"]["ids"]["counts"] == {"boxes": sum(seq % 5 for seq in range(300))}
    return run.lines


MORE = pytest.mark.soak
"""Further cases of a promise, of which one is tested always."""


@pytest.mark.parametrize(
    "stage", ["boxes", pytest.param("capture", marks=MORE), pytest.param("ids", marks=MORE)]
)
def test_a_stage_killed_several_times_gives_the_same_events(stage, undisturbed, tmp_path):
    with Run(tmp_path) as run:
        for moment in (1, 60, 130, 200):
            run.wait_for_events(moment)
            run.strike(stage, signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE
    assert run.summary["stages"][stage]["restarts"] >= 3


def test_all_workers_killed_at_once_give_the_same_events(undisturbed, tmp_path):
    with Run(tmp_path) as run:
        run.wait_for_events(100)
        for title in list(run.workers()):
            run.strike(title.partition("+")[0].partition(".")[0], signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE


@pytest.mark.parametrize(
    "stage", ["capture", pytest.param("boxes", marks=MORE), pytest.param("ids", marks=MORE)]
)
def test_a_frozen_worker_is_restarted_and_the_events_are_the_same(stage, undisturbed, tmp_path):
    with Run(tmp_path, "--set", "boxes.work_ms=10") as run:
        run.wait_for_events(80)
        run.strike(stage, signal.SIGSTOP)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE
    assert "sent no heartbeat" in run.stderr
    assert "not returned" not in run.stderr


@pytest.mark.soak
def test_a_worker_frozen_before_its_first_heartbeat_is_restarted(undisturbed, tmp_path):
    with Run(tmp_path) as run:
        run.strike("ids", signal.SIGSTOP)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE
    assert run.summary["stages"]["ids"]["restarts"] == 1


def test_workers_killed_by_any_signal_give_the_same_events(undisturbed, tmp_path):
    with Run(tmp_path) as run:
        run.wait_for_events(30)
        run.strike("ids", signal.SIGRTMIN + 1)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed


@pytest.mark.parametrize("args", [["--set", "placement=separate"], ["--set", "boxes.replicas=1"]])
def test_other_placements_give_the_same_events(args, undisturbed, tmp_path):
    with Run(tmp_path, *args) as run:
        run.wait_for_events(50)
        run.strike("post", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE


def in_one_process(graph):
    for stage in ("capture", "fault", "events", '"null"'):
        graph = graph.replace(f"use: {stage}", f"process: one, use: {stage}")
    return graph.replace('use: "tests', 'process: one, use: "tests')


@pytest.mark.soak
def test_all_stages_in_one_process_give_the_same_events(undisturbed, tmp_path):
    with Run(tmp_path, "--set", "boxes.replicas=1", graph=in_one_process(GRAPH)) as run:
        run.wait_for_events(50)
        run.strike("ids", signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert run.lines == undisturbed
    assert run.ledger == WHOLE


@pytest.mark.parametrize("frame", [20, pytest.param(0, marks=MORE)])
def test_a_frame_amid_its_stages_at_a_death_goes_through_before_the_next(
    undisturbed, tmp_path, frame
):
    dies = f'"tests.processes.stages:Dies", at: {frame}, path: {{out}}/died'
    graph = in_one_process(GRAPH.replace("post:    {{use: fault", f"post:    {{{{use: {dies}"))
    with Run(tmp_path, "--set", "boxes.replicas=1", graph=graph) as run:
        assert run.wait() == 0, run.stderr
    assert (tmp_path / "died").exists()
    assert run.lines == undisturbed
    assert run.ledger == WHOLE


def test_a_frame_that_kills_its_workers_fails_and_is_counted(undisturbed, tmp_path):
    with Run(tmp_path, "--set", "post.exit_at=[7]") as run:
        assert run.wait() == 0, run.stderr
    ledger = run.ledger
    assert ledger["failed"]["poison"] >= 1
    assert ledger["captured"] == 300 == ledger["delivered"] + sum(ledger["failed"].values())
    assert 7 not in [line["frame"] for line in run.lines]


def test_a_frame_that_a_stage_fails_on_is_counted_and_the_run_goes_on(undisturbed, tmp_path):
    with Run(tmp_path, "--set", "post.raise_at=[7, 8, 200]") as run:
        assert run.wait() == 0, run.stderr
    assert run.ledger == WHOLE | {"delivered": 297, "failed": {"failed:post": 3}}
    assert "injected fault at frame 7 (frame 7 of demo; x1)" in run.stderr


def test_a_run_in_which_every_frame_failed_fails_with_the_reason(tmp_path):
    args = ("--frames", "3", "--set", "post.raise_at=[0, 1, 2]")
    with Run(tmp_path, *args) as run:
        assert run.wait() == 1
    assert run.ledger == WHOLE | {"captured": 3, "delivered": 0, "failed": {"failed:post": 3}}
    last = run.stderr.splitlines()[-1]
    assert last.startswith("run.py: demo: no frame was delivered (found 3 failed:post of 3): ")
    assert "injected fault at frame" in last


def test_a_stage_that_keeps_dying_ends_the_run(tmp_path):
    args = ("--set", "post.exit_at=[5]", "--set", "supervisor.restarts=1")
    with Run(tmp_path, *args) as run:
        assert run.wait() == 1
    assert run.stderr.splitlines()[-1].startswith("run.py: boxes+post.")
    assert "supervisor.restarts is 1" in run.stderr
    assert "Traceback" not in run.stderr
    ledger = run.ledger
    assert ledger["captured"] == ledger["delivered"] + ledger["in_flight"]


def test_when_the_supervisor_is_killed_no_process_is_left(tmp_path):
    with Run(tmp_path, "--set", "streams.demo.loop=true") as run:
        run.wait_for_events(20)
        workers = run.workers()
        files = {path.name for path in tmp_path.iterdir()}
        assert len(workers) == 4
        bound = sockets(workers.values())
        assert len(bound) == 4
        run.process.kill()
        wait_until(lambda: not any(map(is_alive, workers.values())) and not bound & all_sockets())
    assert files == {"config.yaml", "events.jsonl", "stderr.txt", "summary.json"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_struck_at_random_moments_give_the_same_events(seed, number, tmp_path):
    args = ("--frames", "1500", "--set", "streams.demo.loop=true")
    with Run(tmp_path / "calm", *args) as calm:
        assert calm.wait() == 0
    chance = random.Random(seed)
    strikes = 10 if number == signal.SIGKILL else 3
    with Run(tmp_path / "struck", *args) as run:
        for moment in sorted(chance.sample(range(1, 1400), strikes)):
            run.wait_for_events(moment)
            run.strike(chance.choice(["capture", "boxes", "ids"]), number)
        assert run.wait() == 0, run.stderr
    assert run.lines == calm.lines
    assert run.ledger == calm.ledger
