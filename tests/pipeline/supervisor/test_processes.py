"""Deaths of workers: restart budget, delays, blame; without real workers."""

import os
import select
import signal

import pytest

from pipeline.config import SupervisorSettings
from pipeline.supervisor.processes import INITIAL_DELAY_S, MAX_DELAY_S, Processes
from tests.builders import arena, graph, lend, worker_table

KILLED = -signal.SIGKILL
REGISTRY = {"sink": "tests.builders:Sink"}


class Bed:
    """The processes of a small run, of which one worker has a frame in hand."""

    def __init__(self, main=lambda spec: 0):
        self.graph = graph({"a": {"use": "sink"}}, registry=REGISTRY, placement="separate")
        self.worker_table = worker_table(len(self.graph.workers))
        self.arena = arena(stages=("capture", "a"), ordered=())
        self.poll = select.poll()
        self.processes = Processes(
            self.graph, self.worker_table, {0: self.arena}, self.poll, -1, main
        )
        node = next(node for node in self.graph.nodes if node.name == "a")
        self.child = self.processes.children[self.graph.workers_of(node)[0]]
        self.frame = lend(self.arena)
        self.hold()

    def hold(self):
        self.worker_table.hold(self.child.spec.index, 0, self.frame)

    def restart(self, code=KILLED, **budget):
        return self.processes.restart(self.child, code, SupervisorSettings(**budget))


def test_the_frames_in_hand_of_a_dead_worker_are_released_and_blamed():
    bed = Bed()
    epoch = bed.worker_table.epoch
    assert bed.restart() == ""
    assert not bed.worker_table.is_held(0, bed.frame.slot)
    assert bed.arena.blames(bed.frame.slot) == 1
    assert bed.worker_table.epoch == epoch + 1
    assert bed.child.restarts == 1
    assert all(node.context.restarted for node in bed.child.spec.nodes)


def test_the_frames_in_hand_of_a_hung_worker_are_not_blamed(caplog):
    bed = Bed()
    bed.child.hung_s = 3.1
    assert bed.restart() == ""
    assert bed.arena.blames(bed.frame.slot) == 0
    assert f"{bed.child.spec.name} sent no heartbeat for 3 s; restarting" in caplog.text


def test_a_worker_that_never_opens_ends_the_run_however_long_it_takes(monkeypatch):
    # Each timeout is longer than the window of the budget, which was therefore never used up.
    bed = Bed()
    for now_s in (300.0, 600.0):
        monkeypatch.setattr("time.monotonic", lambda now_s=now_s: now_s)
        bed.child.hung_s = 300.0
        found = bed.restart(restarts=1, window_s=60)
    assert found == (
        f"{bed.child.spec.name} sent no heartbeat for 300 s while opening (2 times, "
        "supervisor.restarts is 1)"
    )


def test_stages_that_take_long_to_open_are_logged_once(caplog, monkeypatch):
    bed = Bed(main=lambda spec: signal.pause() or 0)
    assert bed.processes.start(bed.child, SupervisorSettings()) == ""
    try:
        start_ns = bed.child.started_ns
        for seconds in (9, 11, 13):
            now_ns = start_ns + seconds * 10**9
            monkeypatch.setattr("time.monotonic_ns", lambda now_ns=now_ns: now_ns)
            bed.processes.kill_hung(SupervisorSettings(hang_s=10))
        [line] = caplog.messages
        assert f"{bed.child.spec.name}: stages have not opened within 10 s (a); it is" in line
        assert bed.child.alive
    finally:
        bed.processes.kill_all()


def test_a_requested_restart_blames_no_frame_and_uses_no_budget():
    bed = Bed()
    bed.child.restart_requested_at = 1.0
    bed.processes.restart_as_requested(bed.child)
    assert bed.arena.blames(bed.frame.slot) == 0
    assert (bed.child.restarts, list(bed.child.deaths), bed.child.due) == (0, [], 0.0)


def test_early_deaths_delay_the_restart_up_to_a_limit(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    bed = Bed()
    delays = []
    for _ in range(10):
        assert bed.restart() == ""
        delays.append(round(bed.child.due - 100.0, 3))
    assert delays[:4] == [0, INITIAL_DELAY_S, 2 * INITIAL_DELAY_S, 4 * INITIAL_DELAY_S]
    assert delays[-1] == MAX_DELAY_S


@pytest.mark.parametrize(
    ("code", "failure", "how"),
    [
        (KILLED, "", "was killed by SIGKILL"),
        (-99, "", "was killed by signal 99"),
        (7, "", "ended with status 7"),
        (5, "CUDA failure 719", "failed: CUDA failure 719"),
    ],
)
def test_the_death_beyond_the_budget_is_returned_with_its_cause(code, failure, how):
    bed = Bed()
    assert bed.restart(restarts=1) == ""
    bed.child.failure = failure
    assert bed.restart(code, restarts=1, window_s=60) == (
        f"{bed.child.spec.name} {how} (2 times within 60 s, supervisor.restarts is 1)"
    )


def test_deaths_outside_the_window_do_not_count(monkeypatch):
    bed = Bed()
    for now_s in (100.0, 161.0, 222.0):
        monkeypatch.setattr("time.monotonic", lambda now_s=now_s: now_s)
        assert bed.restart(restarts=1, window_s=60) == ""


def test_a_worker_is_forked_and_its_exit_status_collected():
    bed = Bed(main=lambda spec: 7)
    assert bed.processes.start(bed.child, SupervisorSettings()) == ""
    assert bed.processes.any_alive
    ready = {fd for fd, _ in bed.poll.poll(10_000)}
    assert bed.processes.exited(ready) == [bed.child]
    assert bed.processes.reap(bed.child) == 7
    assert not bed.processes.any_alive


def test_a_first_start_without_room_for_a_process_is_refused(monkeypatch):
    def fork():
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr("os.fork", fork)
    bed = Bed()
    problem = bed.processes.start(bed.child, SupervisorSettings())
    assert problem.startswith(f"{bed.child.spec.name}: its process cannot be started (Resource")


def test_a_restart_without_room_for_a_process_is_retried(monkeypatch, caplog):
    def fork():
        raise OSError(11, os.strerror(11))

    bed = Bed()
    bed.restart()
    monkeypatch.setattr("os.fork", fork)
    assert bed.processes.start(bed.child, SupervisorSettings()) == ""
    assert f"retrying in {MAX_DELAY_S:g} s" in caplog.text
