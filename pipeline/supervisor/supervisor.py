"""The one loop of the supervisor: start the workers, watch them, stop them.

The supervisor has one thread. It learns of deaths from pidfds, of hangs from the heartbeats in the
worker table, of errors and requests from one pipe of reports, and of signals from a queue that the
loop empties.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import SupervisorSettings
from pipeline.graph.graph import Graph, WorkerSpec
from pipeline.memory.run_info import SharedRunInfo
from pipeline.memory.stream_table import MAX_STREAMS
from pipeline.memory.worker_table import WorkerTable
from pipeline.supervisor import sd_notify
from pipeline.supervisor.control import Control
from pipeline.supervisor.lifecycle import EXIT_FAILED, EXIT_OK, EXIT_SETUP, Lifecycle, Phase
from pipeline.supervisor.processes import Child, Processes, allow_descriptors
from pipeline.supervisor.run_status import StatusPublisher
from pipeline.supervisor.signals import SignalQueue
from pipeline.supervisor.streams import SPARE_WORKERS, RunningStreams
from pipeline.telemetry.counters import Counters
from pipeline.worker.reports import EXIT_FATAL, EXIT_RENEW, Report, ReportPipe
from pipeline.worker.startup import work
from pipeline.worker.worker import Shared

TITLE = "eyeline:supervisor"
"""Title of the supervisor's process; the name of the settings file follows it."""
TICK_MS = 100
"""Longest wait of the loop for a report, a death or a signal."""
MAX_PAUSE_S = 1.0
"""Longest turn of the loop; after a longer one the supervisor itself was stopped."""

_OF_ONE_STREAM = ("setup", "broken", "fatal")
"""Reports that end the run, or only the stream if it was added while the run continues."""


class Supervisor:
    """One run of a graph."""

    def __init__(
        self,
        graph: Graph,
        trace: Path | None = None,
        log_level: int = logging.INFO,
        rebuild: Callable[[], Graph] | None = None,
        config: str = "",
    ) -> None:
        """Make the memory that all workers share; start nothing.

        Args:
            graph: graph to run.
            trace: file for the trace; None: none is written.
            log_level: log level of the workers.
            rebuild: reads the settings again, for SIGHUP; None: SIGHUP ends the run.
            config: name of the settings file, to be shown.
        """
        allow_descriptors(graph)
        self._worker_table = WorkerTable(len(graph.workers), SPARE_WORKERS)
        counters = Counters(len(graph.nodes), self._worker_table.max_rows, MAX_STREAMS)
        run_info = SharedRunInfo()
        self._reports = ReportPipe()
        self._poll = select.poll()
        self.streams = RunningStreams(graph, self._worker_table, counters, trace)
        self.processes = Processes(
            graph,
            self._worker_table,
            self.streams.arenas,
            self._poll,
            self._reports.write_fd,
            self._be_worker,
        )
        self.lifecycle = Lifecycle(self._worker_table, self.streams, self.processes)
        self._control = Control(graph, self.streams, self.processes, self._start, rebuild)
        self.status = StatusPublisher(
            config,
            self._worker_table,
            counters,
            self.streams,
            self.processes,
            self._control,
            run_info,
        )
        self._trace = trace
        self._failures: dict[str, str] = {}
        """Cause of failed frames -> why the first one failed."""
        self._interrupts = 0
        self._signals = SignalQueue()
        self._last_loop = time.monotonic()
        self._shared = Shared(
            run=uuid.uuid4().hex,
            graph=graph,
            worker_table=self._worker_table,
            stream_table=self.streams.stream_table,
            arenas=self.streams.arenas,
            final_states=self.streams.final_states,
            counters=counters,
            run_info=run_info,
            report_fd=self._reports.write_fd,
            trace_fds=self.streams.trace_fds,
            supervisor_pid=os.getpid(),
            log_level=log_level,
        )
        for worker in graph.workers:
            if worker.stream is not None:
                child = self.processes.children[worker.index]
                self.streams.begin(graph.streams[worker.stream], child)

    @property
    def graph(self) -> Graph:
        """The graph that runs, with the settings in effect."""
        return self._control.graph

    @property
    def successor(self) -> Graph | None:
        """The graph to run next: settings that cannot take effect without a new run."""
        return self._control.successor

    @property
    def _budget(self) -> SupervisorSettings:
        return self.graph.config.supervisor

    def summary(self) -> dict[str, Any]:
        """Return the run in figures, as written by `--summary`."""
        return self.status.summary(self.lifecycle.exit)

    def run(self, on_tick: Callable[[Supervisor], None] | None = None) -> int:
        """Run to the end and return the exit status. No process is left when it returns.

        Args:
            on_tick: called some ten times a second, to show the state.
        """
        self._poll.register(self._reports.read_fd, select.POLLIN)
        # The children share these pages until a process writes to them; the collector would.
        gc.freeze()
        try:
            with self._signals:
                self._poll.register(self._signals.wake_fd, select.POLLIN)
                try:
                    self._run(on_tick)
                finally:
                    if self.successor is None:
                        sd_notify.stopping()
                    self.lifecycle.kill_all()
        finally:
            self._reports.close()
            gc.unfreeze()
            self._write_trace()
        return self.lifecycle.exit

    # --- the loop ---

    def _run(self, on_tick: Callable[[Supervisor], None] | None) -> None:
        for child in self.processes.children.values():
            if self.lifecycle.phase < Phase.CLOSING:
                self._start(child)
        while self.lifecycle.phase < Phase.CLOSING or self.processes.any_alive:
            self._step()
            if on_tick is not None:
                on_tick(self)
        self._fail_without_results()

    def _step(self) -> None:
        ready = {fd for fd, _ in self._poll.poll(TICK_MS)}
        now = time.monotonic()
        if now - self._last_loop > MAX_PAUSE_S:
            self.processes.note_pause()
        self._last_loop = now
        for number in self._signals.take():
            self._handle_signal(number)
        self._read_reports()
        for child in self.processes.exited(ready):
            self._reap(child)
        if self.lifecycle.phase < Phase.CLOSING:
            self.processes.kill_hung(self._budget)
            for child in self.processes.due(now):
                self._start(child)
            self._update_streams(now)
        self.status.publish(now, self.lifecycle.public_phase)
        self.lifecycle.check_deadline()

    def _update_streams(self, now_s: float) -> None:
        """Forget streams that are over, begin those that waited for them, end with the last."""
        self.streams.release_memory(now_s)
        for child in self.streams.retire(now_s):
            del self.processes.children[child.spec.index]
        self._control.add_pending(ending=self.lifecycle.ending)
        self.lifecycle.close_when_ended()

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            self.lifecycle.interrupt()
            if self._interrupts > 1:
                self.lifecycle.kill_all()
                return
        if number == signal.SIGHUP and self._control.can_reload:
            # Stages open their files again, whose names may belong to others after a rotation.
            self.processes.signal_all(signal.SIGHUP)
            self._control.reload(ending=self.lifecycle.ending)
            self._stop_for_successor()
            return
        self._stop()

    # --- workers ---

    def _start(self, child: Child) -> None:
        """Start a worker; if that is not possible, end its stream or the run."""
        problem = self.processes.start(child, self._budget)
        if not problem:
            return
        stream = self.streams.of(child)
        if stream is not None and stream.spec.added:
            logging.error("%s", problem)
            stream.arena.remove()
            child.done = True
        else:
            self.lifecycle.fail(problem, EXIT_FAILED)

    def _be_worker(self, spec: WorkerSpec) -> int:
        """Run a worker, in the process that was forked for it; return its exit status."""
        os.close(self._reports.read_fd)
        stream = None if spec.stream is None else self.streams[spec.stream].spec
        if stream is not None:
            self.streams.keep_only(stream.index)
        return work(self._shared, spec, stream)

    def _reap(self, child: Child) -> None:
        code = self.processes.reap(child)
        # The reports it sent before it died must be known before its death is judged.
        self._read_reports()
        stream = self.streams.of(child)
        finished = stream is not None and code == 0 and stream.arena.finished
        if finished or child.abandoned:
            child.done = True
            return
        if self.lifecycle.phase >= Phase.CLOSING:
            return
        if code == EXIT_FATAL:
            self.lifecycle.fail(f"{child.spec.name} failed", EXIT_FAILED)
            return
        if child.restart_requested_at or code == EXIT_RENEW:
            self.processes.restart_as_requested(child)
            return
        problem = self.processes.restart(child, code, self._budget)
        if problem:
            self.lifecycle.fail(problem, EXIT_FAILED)

    # --- reports ---

    def _read_reports(self) -> None:
        for report in self._reports.read():
            self._handle_report(report)

    def _handle_report(self, report: Report) -> None:
        child = self.processes.children.get(report.worker)
        if child is None:
            return  # a late report of a stream that is gone
        self.status.publish_soon()
        stream = self.streams.of(child)
        if report.kind in ("ready", "counts"):
            child.info, child.counts = report.info, report.counts
            if report.kind == "ready":
                child.ready_since = time.monotonic()
        elif report.kind == "condition":
            child.info = {**child.info, **report.info}
            if stream is not None and report.condition is not None:
                stream.set_condition(report.condition)
        elif report.kind == "request":
            ending = self.lifecycle.ending
            self._control.handle_request(report.request, report.text, ending=ending)
            self._stop_for_successor()
        elif report.kind == "failure":
            child.failure = report.text
        elif report.kind == "frame_failed":
            stage, _, why = report.text.partition(": ")
            self._failures.setdefault(f"failed:{stage}", why)
        elif report.kind == "renew":
            logging.warning("%s: %s; restarting", child.spec.name, report.text)
        elif stream is not None and stream.spec.added and report.kind in _OF_ONE_STREAM:
            logging.error("%s", report.text)
            stream.arena.remove()
            child.abandoned = True
        elif report.kind == "log":
            logging.log(report.level, "%s", report.text)
        elif report.kind == "broken":
            self.lifecycle.set_error(report.text, EXIT_FAILED)
        elif report.kind == "end":
            if report.text and self.lifecycle.phase == Phase.RUNNING:
                logging.info("%s", report.text)
            self._stop()
        else:
            setup = report.kind == "setup" and not child.restarts
            self.lifecycle.fail(report.text, EXIT_SETUP if setup else EXIT_FAILED)

    # --- the end ---

    def _stop(self) -> None:
        restarting = self.successor is not None
        self.lifecycle.stop(self._budget.stop_timeout_s, restarting=restarting)

    def _stop_for_successor(self) -> None:
        """End this run if the settings need another one."""
        if self.successor is not None:
            self._stop()

    def _fail_without_results(self) -> None:
        """Fail the run if all frames of one of its streams failed."""
        if self.lifecycle.exit != EXIT_OK or self.successor is not None:
            return
        for stream in self.streams:
            problem = stream.without_results(self._failures)
            if problem and stream.spec.added:
                logging.error("%s", problem)
            elif problem:
                self.lifecycle.set_error(problem, EXIT_FAILED)
                return

    def _write_trace(self) -> None:
        try:
            children = self.processes.children.items()
            names = {index: child.spec.name for index, child in children}
            self.streams.write_trace(names, self.status.start_ns)
        except OSError as error:
            problem = f"{self._trace}: the trace cannot be written: {error.strerror}"
            self.lifecycle.set_error(problem, self.lifecycle.exit or EXIT_FAILED)
