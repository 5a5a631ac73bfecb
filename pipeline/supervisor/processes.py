"""The workers' processes: fork, reap, restart within a budget, and kill when they hang.

The supervisor has one thread and opens no socket, camera or model, so forking a worker from it is
safe at any time, and quick, since the modules that workers need are imported already.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from pipeline.config import SupervisorSettings
from pipeline.errors import SetupError
from pipeline.graph.graph import Graph, WorkerSpec
from pipeline.memory.arena import Arena
from pipeline.memory.run_info import WorkerInfo
from pipeline.memory.worker_table import WorkerTable
from pipeline.worker.reports import EXIT_FATAL, Report, send_report

INITIAL_DELAY_S, MAX_DELAY_S = 0.05, 2.0
"""Delay before the restart of a worker that keeps dying early; doubles each time."""
HEALTHY_S = 0.5
"""A worker that has been ready for so long did not die early."""
OPEN_S = 300.0
"""Timeout for stages to open: an engine for a GPU may be built meanwhile."""
CLOSE_S = 5.0
"""Timeout for stages to close their files, after which they are killed."""
MAX_DESCRIPTORS = 65536
"""Limit of open files that a run asks for."""
OWN_DESCRIPTORS = 48
"""Open files of the supervisor or a worker, without those that grow with streams and workers."""


class Child:
    """One worker's process, and those it had before."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.pid = 0
        self.pidfd = -1
        self.restarts = 0
        self.deaths: deque[float] = deque()
        """Monotonic times within the window of the restart budget."""
        self.early_deaths = 0
        """Deaths in a row so soon after the start that the next start may do no better."""
        self.started_ns = 0
        """Monotonic time at which it was forked."""
        self.ready_since = 0.0
        """Monotonic time at which its stages were open; 0: not yet."""
        self.due = 0.0
        """Monotonic time of the next start; meaningful while `pid` is 0."""
        self.failure = ""
        """Reason for the end of its process, as it reported itself; empty: it reported none."""
        self.hung_s = 0.0
        """Seconds without a heartbeat for which it was killed; frames in hand are not blamed. 0: it
        was not."""
        self.opening_timeouts = 0
        """Number of times in a row that its stages did not open within `OPEN_S`."""
        self.is_slow_logged = False
        """Whether it was logged that its stages take long to open."""
        self.abandoned = False
        """Must end without a successor: the run or the stream ends, and no frame is in flight."""
        self.restart_requested_at = 0.0
        """Monotonic time at which it was asked to restart with new settings; 0: it was not."""
        self.done = False
        """Whether its stream has ended."""
        self.info: dict[str, dict[str, str]] = {}
        self.counts: dict[str, dict[str, int]] = {}

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.pid != 0

    def worker_info(self) -> WorkerInfo:
        """Return the part of its status that only the supervisor knows."""
        stages = [node.index for node in self.spec.nodes]
        return WorkerInfo(self.spec.index, self.spec.name, self.pid, stages)


class Processes:
    """The processes of all workers of a run."""

    def __init__(
        self,
        graph: Graph,
        worker_table: WorkerTable,
        arenas: Mapping[int, Arena],
        poll: select.poll,
        report_fd: int,
        main: Callable[[WorkerSpec], int],
    ) -> None:
        """Start none.

        Args:
            graph: graph of the run.
            worker_table: worker table of the run.
            arenas: stream -> its arena; changes as streams come and go.
            poll: where to register each process, to learn of its death.
            report_fd: pipe for the report of a worker that fails before it can report itself.
            main: runs a worker in its process and returns the exit status.
        """
        self.children = {worker.index: Child(worker) for worker in graph.workers}
        """By their rows in the worker table."""
        self._worker_table, self._arenas, self._poll = worker_table, arenas, poll
        self._report_fd, self._main = report_fd, main
        self._grace_from_ns = 0

    @property
    def any_alive(self) -> bool:
        """Whether there is any process."""
        return any(child.alive for child in self.children.values())

    def due(self, now_s: float) -> list[Child]:
        """Return the workers to be started now."""
        return [
            child
            for child in self.children.values()
            if not child.alive and not child.done and now_s >= child.due
        ]

    def exited(self, ready: set[int]) -> list[Child]:
        """Return the workers whose process has ended, among the descriptors that are ready."""
        return [child for child in self.children.values() if child.alive and child.pidfd in ready]

    # --- start ---

    def start(self, child: Child, budget: SupervisorSettings) -> str:
        """Start a worker; later, where the system has no room for a process now.

        Returns:
            Why it is not started, and no retry follows; "" otherwise.
        """
        try:
            self._fork(child)
            return ""
        except OSError as error:
            text = (
                f"{child.spec.name}: its process cannot be started ({error.strerror}); "
                "allow more processes, memory and open files (ulimit -u, -v, -n)"
            )
        now = time.monotonic()
        child.deaths.append(now)
        is_first = self._worker_table.incarnation(child.spec.index) == 0
        if is_first or len(child.deaths) > budget.restarts:
            return text
        child.due = now + MAX_DELAY_S
        logging.warning("%s; retrying in %g s", text, MAX_DELAY_S)
        return ""

    def _fork(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(child, blocked)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        try:
            child.pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        child.pid = pid
        child.started_ns = time.monotonic_ns()
        self._poll.register(child.pidfd, select.POLLIN)

    def _be_worker(self, child: Child, blocked: set[signal.Signals]) -> None:
        code = EXIT_FATAL
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            for other in self.children.values():
                if other.pidfd >= 0:
                    os.close(other.pidfd)
            code = self._main(child.spec)
        except BaseException as error:
            text = f"{child.spec.name}: {type(error).__name__}: {error}"
            send_report(self._report_fd, Report(child.spec.index, "fatal", text))
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    # --- end and restart ---

    def reap(self, child: Child) -> int:
        """Collect a process that has ended; return its exit status, -N after signal N."""
        _, status = os.waitpid(child.pid, 0)
        self._poll.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pid, child.pidfd = 0, -1
        return os.waitstatus_to_exitcode(status)

    def request_restart(self, child: Child) -> None:
        """Make a worker end, so that its successor has the new settings."""
        if child.alive and not child.restart_requested_at:
            child.restart_requested_at = time.monotonic()
            os.kill(child.pid, signal.SIGTERM)

    def restart_as_requested(self, child: Child) -> None:
        """Restart a worker that ended because it was asked to, or asked for it itself."""
        self._worker_table.mark_dead(child.spec.index)
        self._worker_table.raise_epoch()
        child.due = 0.0 if child.restart_requested_at else time.monotonic() + MAX_DELAY_S
        child.ready_since = child.restart_requested_at = 0.0

    def restart(self, child: Child, code: int, budget: SupervisorSettings) -> str:
        """Release the frames of a dead worker, have them resent, and restart it.

        Args:
            child: a worker whose process has died.
            code: exit status.
            budget: how many restarts are allowed in which time.

        Returns:
            Why it is not restarted: the budget is used up; "" if it is.
        """
        for hold in self._worker_table.mark_dead(child.spec.index):
            arena = self._arenas.get(hold.stream)  # None: of a stream that is gone
            if arena is not None and not child.hung_s:
                arena.blame(hold.slot, hold.generation)
        self._worker_table.raise_epoch()
        now = time.monotonic()
        while child.deaths and child.deaths[0] < now - budget.window_s:
            child.deaths.popleft()
        child.deaths.append(now)
        is_timeout = child.hung_s and not child.ready_since
        child.opening_timeouts = child.opening_timeouts + 1 if is_timeout else 0
        how = _describe_death(child, code)
        child.hung_s, child.failure, child.is_slow_logged = 0.0, "", False
        if child.opening_timeouts > budget.restarts:  # each takes longer than the window
            return (
                f"{child.spec.name} {how} while opening ({child.opening_timeouts} times, "
                f"supervisor.restarts is {budget.restarts})"
            )
        if len(child.deaths) > budget.restarts:
            return (
                f"{child.spec.name} {how} ({len(child.deaths)} times within {budget.window_s:g} s, "
                f"supervisor.restarts is {budget.restarts})"
            )
        healthy = child.ready_since and now - child.ready_since > HEALTHY_S
        child.early_deaths = 0 if healthy else child.early_deaths + 1
        again = child.early_deaths - 2
        child.due = now + (min(INITIAL_DELAY_S * 2**again, MAX_DELAY_S) if again >= 0 else 0.0)
        child.ready_since = 0.0
        child.restarts += 1
        for node in child.spec.nodes:
            info = child.info.get(node.name, {})
            node.context = msgspec.structs.replace(node.context, restarted=True, previous_info=info)
        logging.warning("%s %s; restarting", child.spec.name, how)
        return ""

    def note_pause(self) -> None:
        """Start all heartbeat timeouts again: the supervisor or the whole machine was stopped."""
        self._grace_from_ns = time.monotonic_ns()

    def kill_hung(self, budget: SupervisorSettings) -> None:
        """Kill workers without a heartbeat, and those that do not end when asked to restart."""
        limit_ns = budget.hang_s * 1e9
        now_ns = time.monotonic_ns()
        for child in self.children.values():
            if not child.alive or child.hung_s:
                continue
            requested_at = child.restart_requested_at
            if requested_at and time.monotonic() > requested_at + CLOSE_S:
                os.kill(child.pid, signal.SIGKILL)
                continue
            beat_ns = self._worker_table.last_beat_ns(child.spec.index)
            silent_ns = now_ns - max(beat_ns or child.started_ns, self._grace_from_ns)
            if silent_ns <= limit_ns:
                continue
            # To open a stage may take long, and sends no heartbeat; but not while it is stopped.
            if beat_ns or silent_ns > OPEN_S * 1e9 or _is_stopped(child.pid):
                child.hung_s = silent_ns / 1e9
                os.kill(child.pid, signal.SIGKILL)
            elif not child.is_slow_logged:
                child.is_slow_logged = True
                logging.warning(
                    "%s: stages have not opened within %g s (%s); it is restarted after %g s",
                    child.spec.name,
                    budget.hang_s,
                    ", ".join(node.name for node in child.spec.nodes),
                    OPEN_S,
                )

    def abandon_if_opening(self, child: Child, arena: Arena) -> None:
        """Kill the worker of a source that has not opened yet and has no frame in flight."""
        if not child.alive or self._worker_table.is_ready(child.spec.index):
            return
        if not arena.ledger().in_flight:
            child.abandoned = True
            os.kill(child.pid, signal.SIGKILL)

    def signal_all(self, number: int) -> None:
        """Send a signal to every worker."""
        for child in self.children.values():
            if child.alive:
                os.kill(child.pid, number)

    def kill_all(self) -> None:
        """Kill every worker and wait for its end."""
        self.signal_all(signal.SIGKILL)
        for child in self.children.values():
            if child.alive:
                self.reap(child)


def allow_descriptors(graph: Graph) -> None:
    """Raise our own limit: a stream takes some, and the usual limit is for a few hundred.

    Raises:
        SetupError: it stays below the need of the run; frames would get lost between workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    open_now = len(os.listdir("/proc/self/fd"))
    # Each memory has two; a worker may have a connection to and from every other one.
    need = open_now + OWN_DESCRIPTORS + 2 * len(graph.streams) + 3 * len(graph.workers)
    if max(soft, limit) < need:
        raise SetupError(
            f"the limit of open files is too low (found {max(soft, limit)}, this run needs "
            f"{need}); raise it with ulimit -n {need}, or LimitNOFILE= of a service"
        )


def _describe_death(child: Child, code: int) -> str:
    if child.hung_s:
        return f"sent no heartbeat for {child.hung_s:.0f} s"
    if child.failure:
        return f"failed: {child.failure}"
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal and does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
