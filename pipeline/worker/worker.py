"""The loop of every worker: take, check age, hand over, count, beat.

A worker is a fork of the supervisor. It runs one stage, or several that share the process. It
publishes the frames that it has in hand in the worker table before it works on them, and releases
them after handing them on, so that no frame is resent while a worker still uses its slot.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from pipeline.edge import Edge, Kind, Message, Return, Sockets, decode_header
from pipeline.errors import EndRun, EyelineError
from pipeline.frame import Header
from pipeline.graph.graph import Graph, Node, WorkerSpec
from pipeline.graph.placement import batch_of
from pipeline.memory.arena import Arena
from pipeline.memory.run_info import SharedRunInfo
from pipeline.memory.stream_table import StreamTable, StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.stage import BatchSettings, Context, Settings, Stage
from pipeline.stage_errors import error_line, stage_error
from pipeline.telemetry.counters import Counters
from pipeline.telemetry.run_view import RunView
from pipeline.worker.chain import Chain
from pipeline.worker.ordered import OrderedStages
from pipeline.worker.reports import EXIT_FATAL, Reporter

S = TypeVar("S", bound=Stage)

BEAT_MS = 100
"""Longest pause between two heartbeats of an idle worker."""
IDLE_MS = 20
"""Longest pause between two calls of `Stage.idle`, in a worker with a stage that has one."""
PUBLISH_NS = 1_000_000_000
"""Interval at which stages are asked for their info and counters."""


class Terminated(BaseException):
    """The worker must end amid a frame, which its successor gets again. Passes through stages."""


@dataclass(frozen=True, eq=False)
class Shared:
    """State that the supervisor made before it forked the workers."""

    run: str
    """Random name of the run, part of the addresses."""
    graph: Graph
    worker_table: WorkerTable
    stream_table: StreamTable
    arenas: dict[int, Arena]
    """By stream, as they are at the moment of a fork."""
    final_states: Mapping[str, Mapping[str, bytes]]
    """Stage -> stream that is gone -> state of the stage after its last frame."""
    counters: Counters
    run_info: SharedRunInfo
    report_fd: int
    trace_fds: dict[int, int]
    """By stream; none if there is to be no trace."""
    supervisor_pid: int
    log_level: int


class Worker:
    """A process that takes frames from other workers."""

    def __init__(self, shared: Shared, spec: WorkerSpec) -> None:
        self._shared, self._spec, self._index = shared, spec, spec.index
        self._worker_table = shared.worker_table
        self._reporter = Reporter(shared.report_fd, spec.index)
        self._streams = self._read_streams()
        self._rows = {node: shared.counters.row(spec.index, node.index) for node in spec.nodes}
        self._ordered = OrderedStages(shared.graph.nodes, spec.nodes)
        self._chain = Chain(spec, self._streams, self._rows, self._ordered, self._reporter)
        self._batch = 1 if self._ordered else max_batch(spec.nodes)
        self._poll_ms = BEAT_MS
        self._idle: list[Stage] = []
        """Stages to be called between frames."""
        self._terminated = False
        self._reopen_due = False
        self._published: tuple[dict[str, dict[str, str]], dict[str, dict[str, int]]] | None = None
        """Info and counters of the stages as last reported."""
        self._publish_due_ns = 0
        self._sockets = Sockets(shared.run, spec.index, shared.worker_table)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_terminate(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:
        self._reopen_due = True

    def _read_streams(self) -> StreamTableReader:
        graph = self._shared.graph
        return StreamTableReader(
            self._shared.stream_table,
            self._shared.arenas,
            tuple(node.name for node in graph.nodes),
            graph.ordered,
            graph.slot_bytes,
            self._shared.supervisor_pid,
        )

    def _view(self) -> RunView:
        """Make a stage's view of the run; with its own reader, as other threads may use it."""
        return RunView(
            self._shared.run_info,
            self._worker_table,
            self._shared.counters,
            self._read_streams(),
            lambda name, body: self._reporter.send("request", body, request=name),
            self._shared.supervisor_pid,
        )

    # --- open and close ---

    def open(self) -> None:
        """Make and open the stages, restore saved states, and accept work."""
        for node in self._spec.nodes:
            stage = self._chain.stages[node] = self._make(node)
            stage.beat = self._beat_for_stage  # type: ignore[method-assign]
            stage.abandon = self._abandon  # type: ignore[method-assign]
            stage.run = self._view()
            self._open_stage(node, stage)
        self._idle = [s for s in self._chain.stages.values() if type(s).idle is not Stage.idle]
        self._poll_ms = IDLE_MS if self._idle else BEAT_MS
        for node in self._spec.nodes:
            self._chain.edges[node] = list(self._edges_of(node))
        self._beat()
        self._worker_table.ready(self._index)
        self._publish_counts()

    def _make(self, node: Node) -> Stage:
        return make_stage(node.kind, node.settings, node.context)

    def _open_stage(self, node: Node, stage: Stage) -> None:
        where = stage.context.where
        try:
            stage.open()
        except Exception as error:
            raise stage_error(error, where, "open") from None
        if node.kind.ordered:
            final_states = self._shared.final_states.get(node.name, {})
            try:
                self._ordered.restore(node, stage, self._streams, final_states)
            except Exception as error:
                raise stage_error(error, where, "restore") from None

    def _edges_of(self, node: Node) -> Iterator[Edge]:
        graph = self._shared.graph
        elsewhere = [child for child in node.next if child not in self._spec.nodes]
        for receivers in sorted({tuple(graph.workers_of(child)) for child in elsewhere}):
            credit = max_batch(graph.workers[receivers[0]].nodes)
            if not any(entry.live for entry in self._streams.known().values()):
                # One more waits there, so that no replica idles while it asks for the next. A
                # live frame waits here instead, for the replica that is free first.
                credit += 1
            yield Edge(
                self._sockets, self._worker_table, self._index, node.index, receivers, credit
            )

    def close(self) -> None:
        """Close the stages, last first, whatever state they are in."""
        for stage in reversed(self._chain.stages.values()):
            try:
                stage.close()
            except EyelineError as error:
                self._reporter.send("fatal", str(error.at(stage.context.where)))
            except Exception as error:
                stage.context.log.warning("closing failed: %s", error_line(error))
        if self._published is not None:
            self._publish_counts(closed=True)
        self._sockets.close()

    # --- the loop ---

    def loop(self) -> None:
        """Work until SIGTERM."""
        while not self._terminated:
            self._serve_stages()
            message = self._sockets.receive(self._poll_ms)
            if message is None or message.kind != Kind.FRAME:
                self._chain.flush()
                continue
            messages = [message]
            if self._batch > 1:
                self._gather(messages)
            self._work_on(messages)

    def _serve_stages(self) -> None:
        """Do once per turn of the loop whatever does not depend on frames."""
        self._beat()
        for stream in self._streams.refresh():
            self._ordered.forget(stream)
        self._call_idle()
        if time.monotonic_ns() >= self._publish_due_ns:
            self._publish_counts()

    def _beat(self) -> None:
        """Send a heartbeat."""
        self._worker_table.beat(self._index, time.monotonic_ns())

    def _beat_for_stage(self) -> None:
        """Send a heartbeat from within a stage; see `Stage.beat`."""
        self._beat()
        if self._worker_table.stopping:
            raise EndRun
        if self._terminated:
            raise Terminated

    def _abandon(self, reason: str) -> None:
        """End the process at once; see `Stage.abandon`."""
        self._reporter.send("setup", reason)
        os._exit(EXIT_FATAL)

    def _call_idle(self) -> None:
        if self._reopen_due:
            self._reopen_due = False
            for stage in self._chain.stages.values():
                try:
                    stage.reopen()
                except Exception as error:
                    raise stage_error(error, stage.context.where, "reopen") from None
        for stage in self._idle:
            try:
                stage.idle()
            except EndRun as request:
                self._reporter.send("end", str(request))
            except Exception as error:
                raise stage_error(error, stage.context.where, "idle") from None

    def _publish_counts(self, *, closed: bool = False) -> None:
        """Report info and counters of the stages, if they have changed since the last report."""
        before, stages = self._published, self._chain.stages
        info = before[0] if before else {}
        if not closed:
            info = {node.name: _info(stage) for node, stage in stages.items()}
        counts = {node.name: _counters(stage) for node, stage in stages.items()}
        self._published = info, counts
        self._publish_due_ns = time.monotonic_ns() + PUBLISH_NS
        if self._published != before:
            self._reporter.send("counts" if before else "ready", info=info, counts=counts)

    # --- frames ---

    def _gather(self, messages: list[Message]) -> None:
        """Fill up a batch with frames that are there, or come within `batch_wait_ms`."""
        wait_ms = max(
            node.settings.batch_wait_ms if isinstance(node.settings, BatchSettings) else 0
            for node in self._spec.nodes
        )
        until = time.monotonic() + wait_ms / 1000
        while len(messages) < self._batch:
            left_ms = max(0, round((until - time.monotonic()) * 1000))
            message = self._sockets.receive(left_ms)
            if message is None:
                return
            if message.kind == Kind.FRAME:
                messages.append(message)

    def _work_on(self, messages: Sequence[Message]) -> None:
        self._chain.taken_ns = time.monotonic_ns()
        by_stage: dict[int, list[Header]] = {}
        for message in messages:
            by_stage.setdefault(message.stage, []).append(decode_header(message.body))
        for stage, headers in by_stage.items():
            if self._ordered:
                for header in headers:
                    self._take_in_order(stage, header)
            else:
                self._take(stage, headers)
        for message in messages:
            if message.incarnation != self._worker_table.incarnation(message.sender):
                continue  # a dead sender's frame earns its successor no credit
            self._worker_table.count_done(self._index, message.sender)
            if self._worker_table.is_sender_waiting(message.sender):
                self._sockets.wake(message.sender)
        self._chain.flush()

    def _take_in_order(self, stage: int, header: Header) -> None:
        reorder = self._ordered.reorder_of(stage, header.stream)
        if reorder is None or header.seq < reorder.expected:
            self._take(stage, [header])
            return
        reorder.add(header)
        for due in reorder.due():
            if self._take(stage, [due]):
                reorder.expected = due.seq + 1

    def _take(self, stage: int, headers: list[Header]) -> bool:
        """Work on frames that came from a stage, unless they are void; return whether any was."""
        worker_table, index = self._worker_table, self._index
        for i, header in enumerate(headers):
            worker_table.hold(index, i, header)
        current = [header for header in headers if self._chain.is_current(header)]
        if current:
            self._chain.enter(self._shared.graph.nodes[stage], current)
            self._send_returns()
        for i in range(len(headers)):
            worker_table.release(index, i)
        return bool(current)

    def _send_returns(self) -> None:
        for stream, done in self._chain.take_returns():
            self._send_return(stream, done)

    def _send_return(self, stream: int, done: Return) -> None:
        entry = self._streams.find(stream)
        if entry is not None:
            self._sockets.send_return(entry.worker, done)


def max_batch(nodes: Sequence[Node]) -> int:
    """Return the number of frames that a worker of these stages takes at once."""
    return max(batch_of(node.settings) for node in nodes)


def _info(stage: Stage) -> dict[str, str]:
    """Return the info of a stage as texts."""
    try:
        return {str(name): str(value) for name, value in stage.info().items()}
    except Exception as error:
        raise stage_error(error, stage.context.where, "info") from None


def _counters(stage: Stage) -> dict[str, int]:
    """Return the counters of a stage as whole numbers."""
    try:
        return {str(name): int(value) for name, value in stage.counters().items()}
    except Exception as error:
        raise stage_error(error, stage.context.where, "counters") from None


def make_stage(kind: type[S], settings: Settings, context: Context) -> S:
    """Make a stage, which has its context even if its class does not call that of its base."""
    try:
        stage = kind(settings, context)
    except Exception as error:
        raise stage_error(error, context.where, "__init__") from None
    stage.context = context
    return stage
