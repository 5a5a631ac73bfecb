"""Start the workers, watch them, start them again within a budget, stop them; one loop.

The supervisor has one thread and opens no socket, camera or model, so forking a worker from it is
safe at any time, and quick, since what the workers import is there already. It learns of deaths
from pidfds, of hangs from the beats in the worker table, of facts and errors from one pipe, and of
signals from a queue that the loop empties.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import select
import signal
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import msgspec

from pipeline.config import NAME
from pipeline.errors import EyelineError, SetupError
from pipeline.graph.build import add_stream
from pipeline.graph.diff import changed_stages, changed_streams, needs_new_run, with_offers_of
from pipeline.graph.graph import Graph, Node, StreamSpec
from pipeline.memory.run_info import (
    REPLIES_KEPT,
    Bulletin,
    Notice,
    StageNotice,
    View,
)
from pipeline.memory.stream_table import MAX_STREAMS, StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.supervisor import sd_notify
from pipeline.supervisor.streams import SPARE_WORKERS, Child, Feed, Feeds
from pipeline.telemetry.counters import StageRow, Telemetry, busy
from pipeline.worker.reports import EXIT_FATAL, EXIT_RENEW, Report, send_report
from pipeline.worker.startup import work
from pipeline.worker.worker import Shared

TITLE = "eyeline:supervisor"
"""Title of the supervisor's process; the name of the settings file follows it."""

TICK_MS = 100
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 2.0
"""A worker that keeps dying early is started again later and later."""
HEALTHY_S = 0.5
"""One that has been ready for so long did not die early."""
OPEN_S = 300.0
"""How long stages may take to open: an engine for a GPU may be built meanwhile."""
CLOSE_S = 5.0
"""How long stages may take to close their files before they are killed."""

MAX_DESCRIPTORS = 65536
OWN_DESCRIPTORS = 48
"""Of the supervisor and of one worker, beside those that grow with streams and workers."""
NOTICE_S = 0.5
"""How often the bulletin is renewed when nothing happens."""

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
        """Make what all workers share; start nothing.

        Args:
            graph: what to run.
            trace: where to write the trace, if at all.
            log_level: of the workers.
            rebuild: reads the settings anew, for SIGHUP; None: SIGHUP ends the run.
            config: name of the settings file, to be shown.
        """
        _allow_descriptors(graph)
        self.graph = graph
        self.config = config
        self.successor: Graph | None = None
        """What to run next: settings that could not be taken up without a new run."""
        self.start_ns = time.monotonic_ns()
        self.worker_table = WorkerTable(len(graph.workers), SPARE_WORKERS)
        self.telemetry = Telemetry(len(graph.nodes), self.worker_table.max_rows, MAX_STREAMS)
        self.bulletin = Bulletin()
        self.feeds = Feeds(graph, self.worker_table, self.telemetry, trace)
        self.children = {worker.index: Child(worker) for worker in graph.workers}
        self.phase = Phase.RUNNING
        self.exit = EXIT_OK
        self.error = ""
        """Why the run failed, in one line."""
        self._trace = trace
        self._rebuild = rebuild
        self._reloads, self._reload_error = 0, ""
        self._replies: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        """Cause of failed frames -> why the first one failed."""
        self._notice_due = 0.0
        self._ready = False
        self._watchdog_s = sd_notify.watchdog_s()
        self._watchdog_due = 0.0
        self._deadline = 0.0
        self._interrupts = 0
        self._signals: deque[int] = deque()
        self._last_loop = time.monotonic()
        self._grace_from_ns = 0
        self._report_in, self._report_out = os.pipe()
        os.set_blocking(self._report_in, False)
        os.set_blocking(self._report_out, False)
        self._partial = b""
        self._to_come: dict[str, StreamSpec] = {}
        """By name, streams that begin once the last frames of another of that name are through."""
        self._shared = Shared(
            run=uuid.uuid4().hex,
            graph=graph,
            worker_table=self.worker_table,
            stream_table=self.feeds.stream_table,
            arenas=self.feeds.arenas,
            final_states=self.feeds.final_states,
            telemetry=self.telemetry,
            bulletin=self.bulletin,
            report_fd=self._report_out,
            trace_fds=self.feeds.trace_fds,
            supervisor_pid=os.getpid(),
            log_level=log_level,
        )
        for worker in graph.workers:
            if worker.stream is not None:
                self.feeds.begin(graph.streams[worker.stream], self.children[worker.index])

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
            for child in self.children.values():
                if self.phase < Phase.CLOSING:
                    self._start(child)
            while self.phase < Phase.CLOSING or any(c.alive for c in self.children.values()):
                self._step(wake_in)
                if on_tick is not None:
                    on_tick(self)
            self._fail_without_results()
        finally:
            if self.successor is None:
                sd_notify.stopping()
            self._kill_all()
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_wake)
            for fd in (wake_in, wake_out, self._report_in, self._report_out):
                os.close(fd)
            gc.unfreeze()
            self._write_trace()
        return self.exit

    def _fail_without_results(self) -> None:
        """Have a run fail of whose streams one had frames, and every one of them failed."""
        if self.exit != EXIT_OK or self.successor is not None:
            return
        for feed in self.feeds:
            problem = feed.without_results(self._failures)
            if problem and feed.stream.added:
                logging.error("%s", problem)
            elif problem:
                self.error, self.exit = problem, EXIT_FAILED
                return

    def stop(self) -> None:
        """End the sources, let the frames in flight drain, then close."""
        if self.phase < Phase.DRAINING:
            self.phase = Phase.DRAINING
            self.worker_table.stop()
            self._deadline = time.monotonic() + self.graph.config.supervisor.stop_timeout_s
            if self.successor is None:
                sd_notify.stopping()
            for feed in self.feeds:
                self._dismiss_if_opening(feed)

    def _dismiss_if_opening(self, feed: Feed) -> None:
        """Do not wait for a source that has not opened yet and has no frame in flight."""
        child = feed.child
        if not child.alive or self.worker_table.is_ready(child.spec.index):
            return
        if not feed.arena.ledger().in_flight:
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
        for child in list(self.children.values()):
            if child.alive and child.pidfd in ready:
                self._reap(child)
        if self.phase < Phase.CLOSING:
            self._find_hung()
            for child in self.children.values():
                if not child.alive and not child.done and now >= child.due:
                    self._start(child)
            self.feeds.release_memory(now)
            for child in self.feeds.retire(now):
                del self.children[child.spec.index]
            self._add_those_to_come()
            if self._all_ended():
                self._close()
        self._tell_outside(now)
        if self.phase > Phase.RUNNING and time.monotonic() > self._deadline:
            if self.phase == Phase.DRAINING:
                logging.warning(
                    "frames in flight did not drain within %g s",
                    self.graph.config.supervisor.stop_timeout_s,
                )
                self._close()
            elif self.phase == Phase.CLOSING:
                names = ", ".join(c.spec.name for c in self.children.values() if c.alive)
                logging.warning("%s: did not close within %g s: killed", names, CLOSE_S)
                self._kill_all()

    def _all_ended(self) -> bool:
        """Whether no stream is left; where all were removed on request, others may be added."""
        if self.feeds or self.phase > Phase.RUNNING:
            return all(feed.child.done for feed in self.feeds)
        return False

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
        if number == signal.SIGHUP and self._rebuild is not None:
            self._reopen_files()
            self.reload()
            return
        self.stop()

    def _reopen_files(self) -> None:
        """Have stages open their files again, whose names may belong to others after a rotation."""
        for child in self.children.values():
            if child.alive:
                os.kill(child.pid, signal.SIGHUP)

    def _start(self, child: Child) -> None:
        """Start a worker; later, or not at all, where the system has no room for a process."""
        try:
            self._fork(child)
            return
        except OSError as error:
            text = (
                f"{child.spec.name}: its process cannot be started ({error.strerror}); "
                "allow more processes, memory and open files (ulimit -u, -v, -n)"
            )
        now = time.monotonic()
        child.deaths.append(now)
        is_first = self.worker_table.incarnation(child.spec.index) == 0
        if not is_first and len(child.deaths) <= self.graph.config.supervisor.restarts:
            child.due = now + LONGEST_DELAY_S
            logging.warning("%s; retrying in %g s", text, LONGEST_DELAY_S)
        elif child.feed is not None and child.feed.stream.added:
            logging.error("%s", text)
            child.feed.arena.remove()
            child.done = True
        else:
            self._fail(text, EXIT_FAILED)

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
            os.close(self._report_in)
            stream = child.feed.stream if child.feed else None
            if stream is not None:
                self.feeds.keep_only(stream.index)
            code = work(self._shared, child.spec, stream)
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
        finished = child.feed is not None and code == 0 and child.feed.arena.finished
        if finished or child.dismissed:
            child.done = True
            return
        if self.phase >= Phase.CLOSING:
            return
        if code == EXIT_FATAL:
            self._fail(f"{child.spec.name} failed", EXIT_FAILED)
            return
        if child.renewed_at or code == EXIT_RENEW:
            self._renew(child)
            return
        self._repair(child, code)

    def _renew(self, child: Child) -> None:
        """Start again a worker that ended because it was asked to, or asked for it itself."""
        self.worker_table.mark_dead(child.spec.index)
        self.worker_table.raise_epoch()
        child.due = 0.0 if child.renewed_at else time.monotonic() + LONGEST_DELAY_S
        child.ready_since = child.renewed_at = 0.0

    def _repair(self, child: Child, code: int) -> None:
        """Free what the dead worker held, have its frames sent again, start it again."""
        for hold in self.worker_table.mark_dead(child.spec.index):
            arena = self.feeds.arenas.get(hold.stream)  # None: of a stream that is gone
            if arena is not None and not child.hung:
                arena.blame(hold.slot, hold.generation)
        self.worker_table.raise_epoch()
        budget = self.graph.config.supervisor
        now = time.monotonic()
        while child.deaths and child.deaths[0] < now - budget.window_s:
            child.deaths.popleft()
        child.deaths.append(now)
        how = (
            f"gave no sign of life for {budget.hang_s:g} s"
            if child.hung
            else f"failed: {child.failure}"
            if child.failure
            else f"was killed by {_signal_name(-code)}"
            if code < 0
            else f"ended with status {code}"
        )
        child.hung, child.failure = False, ""
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
        for node in child.spec.nodes:
            info = child.info.get(node.name, {})
            node.context = msgspec.structs.replace(node.context, restarted=True, previous_info=info)
        logging.warning("%s %s: started again", child.spec.name, how)

    def _find_hung(self) -> None:
        limit_ns = self.graph.config.supervisor.hang_s * 1e9
        now_ns = time.monotonic_ns()
        for child in self.children.values():
            if not child.alive or child.hung:
                continue
            if child.renewed_at and time.monotonic() > child.renewed_at + CLOSE_S:
                os.kill(child.pid, signal.SIGKILL)
                continue
            beat_ns = self.worker_table.last_beat_ns(child.spec.index)
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
        child = self.children.get(report.worker)
        if child is None:
            return  # the last words of a stream that is gone
        self._notice_due = 0.0
        if report.kind in ("ready", "counts"):
            child.info, child.counts = report.info, report.counts
            if report.kind == "ready":
                child.ready_since = time.monotonic()
        elif report.kind == "condition":
            child.info = {**child.info, **report.info}
            if child.feed is not None and report.condition is not None:
                child.feed.note(report.condition)
        elif report.kind == "request":
            self._reply(report.request, self._answer(report.text))
        elif report.kind == "failure":
            child.failure = report.text
        elif report.kind == "frame_failed":
            stage, _, why = report.text.partition(": ")
            self._failures.setdefault(f"failed:{stage}", why)
        elif report.kind == "renew":
            logging.warning("%s: %s: started again", child.spec.name, report.text)
        elif child.feed is not None and child.feed.stream.added and report.kind in _OF_ONE_STREAM:
            logging.error("%s", report.text)
            child.feed.arena.remove()
            child.dismissed = True
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
        for child in self.children.values():
            if child.alive:
                os.kill(child.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        self.phase = Phase.KILLING
        for child in self.children.values():
            if child.alive:
                os.kill(child.pid, signal.SIGKILL)
        for child in self.children.values():
            if child.alive:
                os.waitpid(child.pid, 0)
                self._poll.unregister(child.pidfd)
                os.close(child.pidfd)
                child.pid, child.pidfd = 0, -1

    # --- streams that come and go ---

    def reload(self) -> str:
        """Read the settings anew and take up what changed; "" or why not.

        Streams are added, removed or opened anew, and stages with other settings are started
        anew; frames in flight wait meanwhile. Stages that were added, removed or put elsewhere
        need a new run. Settings with a mistake change nothing.
        """
        if self._rebuild is None:
            return "this run was not started from a settings file that can be read again"
        if self.phase > Phase.RUNNING:
            return "the run is ending"
        sd_notify.reloading()
        try:
            fresh = self._rebuild()
        except EyelineError as error:
            self._reload_error = str(error)
            logging.error("the new settings are refused, the old ones stay: %s", error)
            sd_notify.ready()
            return self._reload_error
        self._reload_error = ""
        self._reloads += 1
        if needs_new_run(self.graph, fresh):
            logging.info(
                "settings read: the graph has changed, the run starts anew, and so do its files"
            )
            self.successor = fresh
            self.stop()
            return ""
        changed = [*self._change_stages(fresh), *self._change_streams(fresh)]
        self.graph = replace(self.graph, config=fresh.config)
        logging.info("settings read: %s", ", ".join(changed) or "nothing has changed")
        sd_notify.ready()
        return ""

    def _change_stages(self, fresh: Graph) -> Iterator[str]:
        changed = set()
        for node, new in changed_stages(self.graph, fresh):
            # In place: workers that are started from now on find it so.
            node.settings = new.settings
            node.context = with_offers_of(node.context, new.context)
            changed.add(node)
            yield f"stage {node.name} changed"
        for child in self.children.values():
            if changed.intersection(child.spec.nodes):
                self._ask_to_renew(child)

    def _change_streams(self, fresh: Graph) -> Iterator[str]:
        feeds = self.feeds.named()
        self._to_come.clear()
        changes = changed_streams({n: feed.stream for n, feed in feeds.items()}, fresh.streams)
        for name in changes.other_slots:
            logging.warning("%s: slots: counts from the next start of the run on", name)
        for name in changes.removed:
            self._remove(feeds[name])
            yield f"stream {name} removed"
        for stream in changes.replaced:
            self._remove(feeds[stream.name])
            self._to_come[stream.name] = stream
            yield f"stream {stream.name} changed"
        draining = {feed.name for feed in self.feeds}
        for stream in changes.added:
            if stream.name in draining:
                self._to_come[stream.name] = stream
                yield f"stream {stream.name} added"
                continue
            problem = self._add(stream)
            yield f"stream {stream.name} {'not added: ' + problem if problem else 'added'}"
        for stream in changes.changed:
            feed = feeds[stream.name]
            reopen = stream.capture != feed.stream.capture
            feed.stream = stream
            self.feeds.enter(feed)
            if reopen:
                self._ask_to_renew(feed.child)
            yield f"stream {stream.name} changed"

    def _ask_to_renew(self, child: Child) -> None:
        """Have a worker end, so that its successor takes up new settings."""
        if child.alive and not child.renewed_at:
            child.renewed_at = time.monotonic()
            os.kill(child.pid, signal.SIGTERM)

    def _add(self, stream: StreamSpec) -> str:
        """Begin one more stream; "" or why not."""
        child = self.feeds.add(stream)
        if isinstance(child, str):
            return child
        self.children[child.spec.index] = child
        self._start(child)
        return ""

    def _add_those_to_come(self) -> None:
        if self.phase > Phase.RUNNING:
            self._to_come.clear()
        there = {feed.name for feed in self.feeds} if self._to_come else set()
        for name in self._to_come.keys() - there:
            problem = self._add(self._to_come.pop(name))
            if problem:
                logging.error("%s: not added: %s", name, problem)

    def _remove(self, feed: Feed) -> None:
        """Have a stream end; its frames in flight drain."""
        feed.arena.remove()
        self._dismiss_if_opening(feed)

    def _answer(self, body: str) -> str:
        """Do what a stage asks for on behalf of a person; "" or why not."""
        try:
            asked = msgspec.json.decode(body, type=_Request)
        except msgspec.DecodeError as error:
            return f"not a request: {error}"
        if asked.do == "reload":
            return self.reload()
        if self.phase > Phase.RUNNING:
            return "the run is ending"
        feeds = self.feeds.named()
        if asked.do == "add":
            return self._add_on_request(asked, feeds)
        feed = feeds.get(asked.stream)
        if feed is None:
            return f"no stream is named {asked.stream!r}"
        if asked.do == "remove":
            self._remove(feed)
        else:
            feed.arena.paused = asked.do == "pause"
        return ""

    def _add_on_request(self, asked: _Request, feeds: Mapping[str, Feed]) -> str:
        if not re.fullmatch(NAME.strip("^$"), asked.stream) or len(asked.stream) > 64:
            return "a name has letters, digits, - and _, begins with a letter, and is short"
        if asked.stream in {feed.name for feed in self.feeds}:
            still = "" if asked.stream in feeds else " until its last frames are through"
            return f"there is a stream named {asked.stream!r} already{still}"
        try:
            stream = add_stream(self.graph, -1, asked.stream, asked.settings, asked.stream)
        except EyelineError as error:
            return str(error)
        return self._add(replace(stream, requested=True))

    def _reply(self, request: str, answer: str) -> None:
        self._replies[request] = answer
        while len(self._replies) > REPLIES_KEPT:
            del self._replies[next(iter(self._replies))]

    # --- what others are told ---

    @property
    def ready(self) -> bool:
        """Every stage is open, and every stream has given a picture or is known to wait."""
        return all(
            self.worker_table.is_ready(child.spec.index)
            for child in self.children.values()
            if not child.done
        ) and all(
            feed.condition.state in ("waiting", "paused", "ended") or feed.arena.next_seq
            for feed in self.feeds
        )

    def view(self) -> View:
        """The run as its stages may see it, from here."""
        names = tuple(node.name for node in self.graph.nodes)
        streams = StreamTableReader(
            self.feeds.stream_table,
            self.feeds.arenas,
            names,
            self.graph.ordered,
            self.graph.slot_bytes,
            os.getpid(),
        )
        return View(
            self.bulletin,
            self.worker_table,
            self.telemetry,
            streams,
            lambda name, body: self._reply(name, self._answer(body)),
            os.getpid(),
        )

    def _tell_outside(self, now: float) -> None:
        """Renew the bulletin, and tell the service manager that we are well."""
        if self._watchdog_s is not None and now >= self._watchdog_due and sd_notify.watchdog():
            self._watchdog_due = now + self._watchdog_s / 3
        if now < self._notice_due:
            return
        self._notice_due = now + NOTICE_S
        ready = self.ready
        if self.phase == Phase.RUNNING:
            if ready and not self._ready:
                self._ready = sd_notify.ready()
            sd_notify.status(self.feeds.states())
        self.bulletin.post(self._notice(ready))

    def _notice(self, ready: bool) -> Notice:
        phase: Literal["running", "draining", "closing"] = "running"
        if self.phase != Phase.RUNNING:
            phase = "draining" if self.phase == Phase.DRAINING else "closing"
        return Notice(
            config=self.config,
            start_ns=self.start_ns,
            phase=phase,
            ready=ready and self.phase == Phase.RUNNING,
            reloads=self._reloads,
            reload_error=self._reload_error,
            streams=[feed.notice() for feed in self.feeds],
            workers=[child.notice() for child in self.children.values()],
            stages=[
                StageNotice(
                    node.name,
                    node.use,
                    node.after.name if node.after else None,
                    self.restarts_of(node.name),
                    self.info_of(node.name),
                    self.counts_of(node.name),
                )
                for node in self.graph.nodes
            ],
            replies=dict(self._replies),
        )

    # --- what it all came to ---

    def info_of(self, stage: str) -> dict[str, str]:
        """What a stage reports."""
        for child in self.children.values():
            if stage in child.info:
                return child.info[stage]
        return {}

    def counts_of(self, stage: str) -> dict[str, int]:
        """What a stage counts, in all of its workers."""
        total: Counter[str] = Counter()
        for child in self.children.values():
            total.update(child.counts.get(stage, {}))
        return dict(total)

    def restarts_of(self, stage: str) -> int:
        """How often a worker of the stage was started again."""
        return sum(
            child.restarts
            for child in self.children.values()
            if any(node.name == stage for node in child.spec.nodes)
        )

    def rows_of(self, node: Node) -> list[StageRow]:
        """The counters of a stage in all of its workers."""
        workers = [c.spec.index for c in self.children.values() if node in c.spec.nodes]
        return self.telemetry.rows(node.index, workers)

    def summary(self) -> dict[str, Any]:
        """The run in figures, as written by `--summary`."""
        stages = {}
        for node in self.graph.nodes:
            rows = self.rows_of(node)
            took = busy(rows)
            stages[node.name] = {
                "processed": sum(row.processed for row in rows),
                "restarts": self.restarts_of(node.name),
                "busy_ms": {"p50": took.p50, "p95": took.p95, "p99": took.p99},
                "cpu_s": round(sum(row.cpu_s for row in rows), 3),
                "provider": self.info_of(node.name).get("provider"),
            }
            counts = self.counts_of(node.name)
            if counts:
                stages[node.name]["counts"] = counts
        return {
            "streams": self.feeds.summary(),
            "stages": stages,
            "wall_s": round((time.monotonic_ns() - self.start_ns) / 1e9, 3),
            "exit": self.exit,
        }

    def _write_trace(self) -> None:
        try:
            names = {index: child.spec.name for index, child in self.children.items()}
            self.feeds.write_trace(names, self.start_ns)
        except OSError as error:
            if not self.error:
                self.error = f"{self._trace}: the trace cannot be written: {error.strerror}"
            self.exit = self.exit or EXIT_FAILED


class _Request(msgspec.Struct):
    """What `Run.ask` sends."""

    do: Literal["pause", "resume", "remove", "add", "reload"]
    stream: str = ""
    settings: dict[str, Any] = {}


_OF_ONE_STREAM = ("setup", "broken", "fatal")
"""Reports that end the run, unless they are of a stream that was added while it runs."""


def find_runs() -> dict[int, str]:
    """Process ids of the runs here that read their settings anew on SIGHUP, and their files."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            title = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if title.startswith(f"{TITLE} "):
            found[int(entry.name)] = title.removeprefix(TITLE).strip()
    return found


def _allow_descriptors(graph: Graph) -> None:
    """Raise our own limit: a stream takes some, and the usual limit is for a few hundred.

    Raises:
        SetupError: it stays below what the run needs; frames would get lost between workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    open_now = len(os.listdir("/proc/self/fd"))
    # Each memory has two; a worker may have a connection to and from every other one.
    need = open_now + OWN_DESCRIPTORS + 2 * len(graph.streams) + 3 * len(graph.workers)
    if max(soft, most) < need:
        raise SetupError(
            f"the limit of open files is too low (found {max(soft, most)}, this run needs {need}); "
            f"raise it with ulimit -n {need}, or LimitNOFILE= of a service"
        )


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
