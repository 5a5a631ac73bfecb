"""Start the workers, watch them, start them again within a budget, stop them; one loop.

The supervisor has one thread and opens no socket, camera or model, so forking a worker from it is
safe at any time, and quick, since what the workers import is there already. It learns of deaths
from pidfds, of hangs from the beats on the board, of facts and errors from one pipe, and of
signals from a queue that the loop empties.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from pipeline.arena import Arena, Board
from pipeline.graph import Graph, Worker
from pipeline.telemetry import Telemetry, percentiles, read_trace, write_chrome_trace
from pipeline.worker import EXIT_FATAL, Report, Shared, send_report, work

TICK_MS = 100
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 2.0
"""A worker that keeps dying early is started again later and later."""
HEALTHY_S = 0.5
"""One that has been ready for so long did not die early."""
OPEN_S = 300.0
"""How long stages may take to open: an engine for a GPU may be built meanwhile."""
CLOSE_S = 5.0
"""How long stages may take to close their files before they are killed."""

EXIT_OK, EXIT_FAILED, EXIT_SETUP, EXIT_INTERRUPTED = 0, 1, 2, 130


class Phase(IntEnum):
    """Where the run is on its way to its end."""

    RUNNING = 0
    DRAINING = 1
    """Sources were told to end; frames in flight go on."""
    CLOSING = 2
    """Workers got SIGTERM and close their stages."""
    KILLING = 3
    """Workers got SIGKILL."""


class Child:
    """One worker's process, and those it had before."""

    def __init__(self, spec: Worker) -> None:
        self.spec = spec
        self.pid = 0
        self.pidfd = -1
        self.restarts = 0
        self.deaths: deque[float] = deque()
        """Monotonic times within the window of the restart budget."""
        self.early_deaths = 0
        """In a row, so soon after the start that the next start may not do better."""
        self.started_ns = 0
        """Monotonic time at which it was forked."""
        self.ready_since = 0.0
        """Monotonic time at which its stages were open; 0: not yet."""
        self.due = 0.0
        """When to start it; meaningful while `pid` is 0."""
        self.hung = False
        """Killed by us, so nobody's fault but its own."""
        self.dismissed = False
        """Killed by us, since the run ends and it has nothing to give."""
        self.done = False
        """Its stream has ended."""
        self.facts: dict[str, dict[str, str]] = {}

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.pid != 0


class Supervisor:
    """One run of a graph."""

    def __init__(
        self, graph: Graph, trace: Path | None = None, log_level: int = logging.INFO
    ) -> None:
        """Make what all workers share; start nothing.

        Args:
            graph: what to run.
            trace: where to write the trace, if at all.
            log_level: of the workers.
        """
        self.graph = graph
        self.start_ns = time.monotonic_ns()
        self.board = Board(len(graph.workers))
        stages = [node.name for node in graph.nodes]
        self.arenas = tuple(
            Arena(stream.name, stream.slots, stages, graph.ordered, graph.slot_bytes)
            for stream in graph.streams
        )
        self.telemetry = Telemetry(
            len(graph.streams), [[n.index for n in w.nodes] for w in graph.workers]
        )
        self.children = [Child(worker) for worker in graph.workers]
        self.phase = Phase.RUNNING
        self.exit = EXIT_OK
        self.error = ""
        """Why the run failed, in one line."""
        self._trace = trace
        # Without a name, so that nothing is left behind if we are killed.
        self._trace_parts = (
            [tempfile.TemporaryFile(dir=trace.parent) for _ in graph.streams] if trace else []  # noqa: SIM115
        )
        self._deadline = 0.0
        self._interrupts = 0
        self._signals: deque[int] = deque()
        self._last_loop = time.monotonic()
        self._grace_from_ns = 0
        self._report_in, self._report_out = os.pipe()
        os.set_blocking(self._report_in, False)
        os.set_blocking(self._report_out, False)
        self._partial = b""
        self._shared = Shared(
            run=uuid.uuid4().hex,
            graph=graph,
            board=self.board,
            arenas=self.arenas,
            telemetry=self.telemetry,
            report_fd=self._report_out,
            trace_fds=tuple(part.fileno() for part in self._trace_parts),
            supervisor_pid=os.getpid(),
            log_level=log_level,
        )

    def run(self, on_tick: Callable[[Supervisor], None] | None = None) -> int:
        """Run to the end; the exit status. Every process started is gone when it returns.

        Args:
            on_tick: called some ten times a second, to show the state.
        """
        self._poll = select.poll()
        self._poll.register(self._report_in, select.POLLIN)
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        self._poll.register(wake_in, select.POLLIN)
        old_wake = signal.set_wakeup_fd(wake_out)
        heeded = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
            heeded.append(signal.SIGHUP)
        old = {number: signal.signal(number, self._on_signal) for number in heeded}
        # The children share these pages until somebody writes to them; the collector would.
        gc.freeze()
        try:
            for child in self.children:
                self._start(child)
            while any(child.alive for child in self.children) or self.phase < Phase.CLOSING:
                self._step(wake_in)
                if on_tick is not None:
                    on_tick(self)
        finally:
            self._kill_all()
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_wake)
            for fd in (wake_in, wake_out, self._report_in, self._report_out):
                os.close(fd)
            gc.unfreeze()
            self._finish_trace()
        return self.exit

    def stop(self) -> None:
        """End the sources, let the frames in flight drain, then close."""
        if self.phase < Phase.DRAINING:
            self.phase = Phase.DRAINING
            self.board.stop()
            self._deadline = time.monotonic() + self.graph.config.supervisor.stop_timeout_s
            for child in self.children:
                self._dismiss_if_opening(child)

    def _dismiss_if_opening(self, child: Child) -> None:
        """Do not wait for a source that has not opened yet and has no frame in flight."""
        stream = child.spec.stream
        if stream is None or not child.alive or self.board.is_ready(child.spec.index):
            return
        if not self.arenas[stream].ledger().in_flight:
            child.dismissed = True
            os.kill(child.pid, signal.SIGKILL)

    # --- the loop ---

    def _step(self, wake_in: int) -> None:
        ready = {fd for fd, _ in self._poll.poll(TICK_MS)}
        now = time.monotonic()
        if now - self._last_loop > 1.0:
            # We were not running, or the whole machine was not: blame nobody for silence.
            self._grace_from_ns = time.monotonic_ns()
        self._last_loop = now
        if wake_in in ready:
            os.read(wake_in, 4096)
        while self._signals:
            self._handle_signal(self._signals.popleft())
        self._read_reports()
        for child in self.children:
            if child.alive and child.pidfd in ready:
                self._reap(child)
        if self.phase < Phase.CLOSING:
            self._find_hung()
            for child in self.children:
                if not child.alive and not child.done and now >= child.due:
                    self._start(child)
            if all(child.done for child in self.children if child.spec.stream is not None):
                self._close()
        if self.phase > Phase.RUNNING and time.monotonic() > self._deadline:
            if self.phase == Phase.DRAINING:
                logging.warning(
                    "frames in flight did not drain within %g s",
                    self.graph.config.supervisor.stop_timeout_s,
                )
                self._close()
            elif self.phase == Phase.CLOSING:
                names = ", ".join(c.spec.name for c in self.children if c.alive)
                logging.warning("%s: did not close within %g s: killed", names, CLOSE_S)
                self._kill_all()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self.exit == EXIT_OK:
                self.exit = EXIT_INTERRUPTED
            if self._interrupts > 1:
                self._kill_all()
                return
        self.stop()

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        pid = os.fork()
        if pid == 0:
            self._be_worker(child, blocked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        child.pid = pid
        child.pidfd = os.pidfd_open(pid)
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
            for other in self.children:
                if other.pidfd >= 0:
                    os.close(other.pidfd)
            os.close(self._report_in)
            code = work(self._shared, child.spec.index)
        except BaseException as error:
            text = f"{child.spec.name}: {type(error).__name__}: {error}"
            send_report(self._report_out, Report(child.spec.index, "fatal", text))
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _reap(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._poll.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pid, child.pidfd = 0, -1
        # What it said before it died must be known before its death is judged.
        self._read_reports()
        code = os.waitstatus_to_exitcode(status)
        stream = child.spec.stream
        finished = stream is not None and code == 0 and self.arenas[stream].finished
        if finished or child.dismissed:
            child.done = True
            return
        if self.phase >= Phase.CLOSING:
            return
        if code == EXIT_FATAL:
            self._fail(f"{child.spec.name} failed", EXIT_FAILED)
            return
        self._repair(child, code)

    def _repair(self, child: Child, code: int) -> None:
        """Free what the dead worker held, have its frames sent again, start it again."""
        for hold in self.board.bury(child.spec.index):
            if not child.hung:
                self.arenas[hold.stream].blame(hold.slot, hold.generation)
        self.board.raise_epoch()
        budget = self.graph.config.supervisor
        now = time.monotonic()
        while child.deaths and child.deaths[0] < now - budget.window_s:
            child.deaths.popleft()
        child.deaths.append(now)
        how = (
            f"gave no sign of life for {budget.hang_s:g} s"
            if child.hung
            else f"was killed by {_signal_name(-code)}"
            if code < 0
            else f"ended with status {code}"
        )
        child.hung = False
        if len(child.deaths) > budget.restarts:
            self._fail(
                f"{child.spec.name} {how}, for the {len(child.deaths)}. time within "
                f"{budget.window_s:g} s (supervisor.restarts is {budget.restarts})",
                EXIT_FAILED,
            )
            return
        healthy = child.ready_since and now - child.ready_since > HEALTHY_S
        child.early_deaths = 0 if healthy else child.early_deaths + 1
        again = child.early_deaths - 2
        child.due = now + (min(FIRST_DELAY_S * 2**again, LONGEST_DELAY_S) if again >= 0 else 0.0)
        child.ready_since = 0.0
        child.restarts += 1
        logging.warning("%s %s: started again", child.spec.name, how)

    def _find_hung(self) -> None:
        limit_ns = self.graph.config.supervisor.hang_s * 1e9
        now_ns = time.monotonic_ns()
        for child in self.children:
            if not child.alive or child.hung:
                continue
            beat_ns = self.board.last_beat_ns(child.spec.index)
            silent_ns = now_ns - max(beat_ns or child.started_ns, self._grace_from_ns)
            if silent_ns <= limit_ns:
                continue
            # To open a stage may take long, and gives no beat; but not while it is stopped.
            if beat_ns or silent_ns > OPEN_S * 1e9 or _is_stopped(child.pid):
                child.hung = True
                os.kill(child.pid, signal.SIGKILL)

    def _read_reports(self) -> None:
        while True:
            try:
                data = os.read(self._report_in, 1 << 16)
            except BlockingIOError:
                break
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            try:
                self._heed(msgspec.json.decode(line, type=Report))
            except msgspec.DecodeError:
                logging.warning("a worker's report was cut off: %s", line.decode(errors="replace"))

    def _heed(self, report: Report) -> None:
        child = self.children[report.worker]
        if report.kind == "ready":
            child.facts = report.facts
            child.ready_since = time.monotonic()
        elif report.kind == "log":
            logging.log(report.level, "%s", report.text)
        elif report.kind == "broken":
            if not self.error:
                self.error, self.exit = report.text, EXIT_FAILED
        elif report.kind == "end":
            if report.text and self.phase == Phase.RUNNING:
                logging.info("%s", report.text)
            self.stop()
        else:
            setup = report.kind == "setup" and not child.restarts
            self._fail(report.text, EXIT_SETUP if setup else EXIT_FAILED)

    def _fail(self, text: str, code: int) -> None:
        if not self.error:
            self.error, self.exit = text, code
        self._close()

    def _close(self) -> None:
        if self.phase >= Phase.CLOSING:
            return
        self.phase = Phase.CLOSING
        self._deadline = time.monotonic() + CLOSE_S
        for child in self.children:
            if child.alive:
                os.kill(child.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        self.phase = Phase.KILLING
        for child in self.children:
            if child.alive:
                os.kill(child.pid, signal.SIGKILL)
        for child in self.children:
            if child.alive:
                os.waitpid(child.pid, 0)
                self._poll.unregister(child.pidfd)
                os.close(child.pidfd)
                child.pid, child.pidfd = 0, -1

    # --- what it all came to ---

    def facts_of(self, stage: str) -> dict[str, str]:
        """What a stage reported once open."""
        for child in self.children:
            if stage in child.facts:
                return child.facts[stage]
        return {}

    def restarts_of(self, stage: str) -> int:
        """How often a worker of the stage was started again."""
        return sum(
            child.restarts
            for child in self.children
            if any(node.name == stage for node in child.spec.nodes)
        )

    def summary(self) -> dict[str, Any]:
        """The run in figures, as written by `--summary`."""
        streams = {}
        for stream, arena, row in zip(
            self.graph.streams, self.arenas, self.telemetry.streams, strict=True
        ):
            ledger = arena.ledger()
            latency = percentiles(row.latency.buckets(), row.latency.max_ms())
            streams[stream.name] = {
                **msgspec.to_builtins(ledger),
                "fps": round(row.fps, 2),
                "latency_ms": msgspec.to_builtins(latency),
            }
        stages = {}
        for node in self.graph.nodes:
            rows = self.telemetry.rows(node.index)
            busy = self.telemetry.busy(node.index)
            stages[node.name] = {
                "processed": sum(row.processed for row in rows),
                "restarts": self.restarts_of(node.name),
                "busy_ms": {"p50": busy.p50, "p95": busy.p95, "p99": busy.p99},
                "cpu_s": round(sum(row.cpu_s for row in rows), 3),
                "provider": self.facts_of(node.name).get("provider"),
            }
        return {
            "streams": streams,
            "stages": stages,
            "wall_s": round((time.monotonic_ns() - self.start_ns) / 1e9, 3),
            "exit": self.exit,
        }

    def _finish_trace(self) -> None:
        if self._trace is None:
            return
        try:
            for part in self._trace_parts:
                part.seek(0)
            with self._trace.open("wb") as file:
                write_chrome_trace(
                    file,
                    (record for part in self._trace_parts for record in read_trace(part)),
                    [stream.name for stream in self.graph.streams],
                    [node.name for node in self.graph.nodes],
                    [worker.name for worker in self.graph.workers],
                    self.start_ns,
                )
        except OSError as error:
            if not self.error:
                self.error = f"{self._trace}: the trace cannot be written: {error.strerror}"
            self.exit = self.exit or EXIT_FAILED
        for part in self._trace_parts:
            part.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal and does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
