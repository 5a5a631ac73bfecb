"""The one loop every worker runs: take, check age, process, hand on, count, beat.

A worker is a fork of the supervisor. It runs a stage, or several that share the process. What it
has in hand it publishes in the worker table before it touches it, and withdraws after handing on,
so that a frame is never sent again while somebody still works on it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import msgspec
import numpy as np
import setproctitle

from pipeline.edge import (
    Edge,
    Kind,
    Message,
    Reorder,
    Return,
    Sockets,
    decode_header,
    decode_return,
)
from pipeline.errors import (
    DeviceFailed,
    EndRun,
    EyelineError,
    RunError,
    SetupError,
    StuckSource,
)
from pipeline.frame import Frame, Header, SlotFullError, Span, Status
from pipeline.graph.graph import Graph, Node, StreamSpec, WorkerSpec
from pipeline.graph.placement import batch_of
from pipeline.memory.arena import Arena
from pipeline.memory.run_info import SharedRunInfo
from pipeline.memory.stream_table import StreamTable, StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.messages import lines
from pipeline.stage import BatchSettings, Context, Settings, Source, Stage
from pipeline.status import SourceState
from pipeline.telemetry.counters import Counters, StageRow
from pipeline.telemetry.run_view import RunView
from pipeline.telemetry.trace import TraceRecord, TraceWriter
from pipeline.worker.in_flight import Custody
from pipeline.worker.pacing import Pacer

S = TypeVar("S", bound=Stage)

BEAT_MS = 100
"""Longest pause between two signs of life of an idle worker."""
IDLE_MS = 20
"""The same for a worker with a stage that wants to be called between frames."""
HELD_MS = 2
"""How often capture asks whether a dead worker's frame may be sent again."""

NEWS_NS = 1_000_000_000
"""How often stages are asked for what they report and count."""

RESTART_TOO_OLD_NS = 1_000_000_000
"""A live frame older than this is not sent again after a death, unless `max_age_ms` is longer."""

EXIT_FATAL = 3
"""Exit status of a worker that has reported why the run must end."""
EXIT_RENEW = 4
"""Exit status of a worker that asks to be started again."""
EXIT_DEVICE = 5
"""Exit status of a worker that has reported a failed device: to the supervisor, a crash."""


class _Leave(BaseException):
    """The worker is to end amid a frame; its successor gets that anew. Passes through stages."""


class Report(msgspec.Struct, omit_defaults=True):
    """What a worker tells the supervisor, as a line of JSON on a pipe."""

    worker: int
    kind: str
    """"ready", "news" (what the stages report and count has changed), "log", "fatal" (a
    RunError), "setup" (a SetupError), "broken" (a source that ended too early: the run drains and
    fails), "end" (a person's wish), "condition" (of a source), "renew" (a process that cannot go
    on, through no fault of its own), "failure" (why it is about to end as after a crash),
    "frame_failed" (why a stage failed on a frame, the first time that it did for this reason),
    "request"."""
    text: str = ""
    level: int = logging.INFO
    info: dict[str, dict[str, str]] = {}
    """Stage -> `Stage.info`."""
    counts: dict[str, dict[str, int]] = {}
    """Stage -> `Stage.counters`."""
    condition: SourceState | None = None
    """How a source is doing."""
    request: str = ""
    """A request's own name, under which the answer is found in the run info."""


@dataclass(frozen=True, eq=False)
class Shared:
    """What the supervisor made before it forked the workers."""

    run: str
    """Random name of the run, part of the addresses."""
    graph: Graph
    worker_table: WorkerTable
    stream_table: StreamTable
    arenas: dict[int, Arena]
    """By stream, as they are at the moment of a fork."""
    left: Mapping[str, Mapping[str, bytes]]
    """Stage -> stream that is gone -> state of the stage after its last frame."""
    counters: Counters
    run_info: SharedRunInfo
    report_fd: int
    trace_fds: dict[int, int]
    """By stream; none if there is to be no trace."""
    supervisor_pid: int
    log_level: int


def work(shared: Shared, spec: WorkerSpec, stream: StreamSpec | None) -> int:
    """Run a worker to its end, in a process of its own; its exit status.

    Args:
        shared: what all workers share.
        spec: which worker.
        stream: that of a capture worker.
    """
    _prologue(shared, spec)
    worker = Worker(shared, spec) if stream is None else CaptureWorker(shared, spec, stream)
    try:
        worker.open()
        worker.loop()
    except StuckSource as error:
        worker.tell("renew", str(error))
        os._exit(EXIT_RENEW)  # a thread that is stuck in a library would keep us from ending
    except DeviceFailed as error:
        worker.tell("failure", str(error))
        os._exit(EXIT_DEVICE)  # to close what a broken device holds may take for ever
    except _Leave:
        return 0
    except EyelineError as error:
        worker.tell("setup" if isinstance(error, SetupError) else "fatal", str(error))
        return EXIT_FATAL
    except Exception as error:
        logging.debug("%s", traceback.format_exc())
        worker.tell("fatal", f"{spec.name}: {_one_line(error)}")
        return EXIT_FATAL
    finally:
        worker.close()
    return 0


def _prologue(shared: Shared, spec: WorkerSpec) -> None:
    die_with_parent = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
    if os.getppid() != shared.supervisor_pid:
        os._exit(EXIT_FATAL)  # it died before we could ask
    setproctitle.setproctitle(spec.title)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)  # Ctrl-C is the supervisor's to act on
    faulthandler.enable(os.dup(2))  # a source may catch what libraries write to 2
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    logging.basicConfig(
        level=shared.log_level, handlers=[_PipeLog(shared.report_fd, spec.index)], force=True
    )
    if "cv2" in sys.modules:
        # Stages are the unit of parallelism; threads inside one would fight over the cores.
        sys.modules["cv2"].setNumThreads(1)


class _PipeLog(logging.Handler):
    """Sends log records to the supervisor, which owns the terminal."""

    def __init__(self, fd: int, worker: int) -> None:
        super().__init__()
        self._fd, self._worker = fd, worker

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        send_report(self._fd, Report(self._worker, "log", text, level=record.levelno))


def send_report(fd: int, report: Report) -> None:
    """Write a line to the supervisor's pipe; shortened, since only short writes are atomic."""
    if report.kind != "request":
        report.text = lines(report.text)  # also as control characters grow when they are encoded
    text = report.text.encode(errors="replace")
    report.text = (
        text.decode() if len(text) <= 1500 else text[:1500].decode(errors="ignore") + " ..."
    )
    try:
        os.write(fd, msgspec.json.encode(report) + b"\n")
    except (BlockingIOError, BrokenPipeError):
        pass  # the supervisor is stopped or dead: better no log line than a stage that waits


def _made(kind: type[S], settings: Settings, context: Context) -> S:
    """Make a stage, which has its context even if its class does not call that of its base."""
    stage = kind(settings, context)
    stage.context = context
    return stage


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Progress(msgspec.Struct):
    """How far an ordered stage has come with a stream; saved after every frame."""

    next: int = 0
    """`seq` of the frame it expects."""
    state: bytes = b""
    answers: dict[int, _Answer] = {}
    """Slot -> what it answered for the frame that the slot held last: the frame may come again
    for as long as it is in flight, however far the others have come meanwhile."""


def state_of(saved: bytes) -> bytes:
    """The stage's own part of what was saved of an ordered stage."""
    return msgspec.msgpack.decode(saved, type=_Progress).state


class _Answer(msgspec.Struct, array_like=True):
    generation: int
    status: Status
    cause: str
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]


class Worker:
    """A process that takes frames from other workers."""

    def __init__(self, shared: Shared, spec: WorkerSpec) -> None:
        self._shared, self._spec, self._index = shared, spec, spec.index
        self._graph, self._worker_table = shared.graph, shared.worker_table
        self._streams = self._known_streams()
        self._rows: dict[Node, StageRow] = {
            node: shared.counters.row(spec.index, node.index) for node in spec.nodes
        }
        self._stages: dict[Node, Stage] = {}
        self._reorders: dict[tuple[int, int], Reorder | None] = {}
        self._progress: dict[tuple[int, int], _Progress] = {}
        self._returns: dict[tuple[int, int], tuple[Header, int]] = {}
        self._failures: dict[str, int] = {}
        self._terminated = False
        self._any_ordered = any(node.kind.ordered for node in self._spec.nodes)
        self._taken_ns = 0
        self._told: tuple[dict[str, dict[str, str]], dict[str, dict[str, int]]] | None = None
        self._news_due_ns = 0
        self._reopen_due = False
        self._sockets = Sockets(shared.run, spec.index, shared.worker_table)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_terminate(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:
        self._reopen_due = True

    def _known_streams(self) -> StreamTableReader:
        return StreamTableReader(
            self._shared.stream_table,
            self._shared.arenas,
            tuple(node.name for node in self._graph.nodes),
            self._graph.ordered,
            self._graph.slot_bytes,
            self._shared.supervisor_pid,
        )

    def _view(self) -> RunView:
        """What a stage may see of the run; with streams of its own, as other threads use it."""
        return RunView(
            self._shared.run_info,
            self._worker_table,
            self._shared.counters,
            self._known_streams(),
            lambda name, body: self.tell("request", body, request=name),
            self._shared.supervisor_pid,
        )

    def tell(self, kind: str, text: str = "", **fields: Any) -> None:
        """Tell the supervisor."""
        send_report(self._shared.report_fd, Report(self._index, kind, text, **fields))

    # --- life ---

    def open(self) -> None:
        """Make and open the stages, take up saved states, and ask for work."""
        for node in self._spec.nodes:
            stage = self._stages[node] = self._make(node)
            stage.beat = self._beat_for_stage  # type: ignore[method-assign]
            stage.abandon = self._abandon  # type: ignore[method-assign]
            stage.run = self._view()
            self._open_stage(node)
        self._idle = [s for s in self._stages.values() if type(s).idle is not Stage.idle]
        self._poll_ms = IDLE_MS if self._idle else BEAT_MS
        self._batch = 1 if self._any_ordered else _batch_of(self._spec.nodes)
        self._batch_wait_ms = max(
            node.settings.batch_wait_ms if isinstance(node.settings, BatchSettings) else 0
            for node in self._spec.nodes
        )
        self._edges = {node: list(self._edges_of(node)) for node in self._spec.nodes}
        self._all_edges = [edge for edges in self._edges.values() for edge in edges]
        self._beat()
        self._worker_table.ready(self._index)
        self._tell_news()

    def _make(self, node: Node) -> Stage:
        return _made(node.kind, node.settings, node.context)

    def _tell_news(self, *, closed: bool = False) -> None:
        """Tell what the stages report and count, if it is not what was told last."""
        told, stages = self._told, self._stages
        info = told[0] if told else {}
        if not closed:
            info = {node.name: dict(stage.info()) for node, stage in stages.items()}
        self._told = info, {node.name: dict(stage.counters()) for node, stage in stages.items()}
        self._news_due_ns = time.monotonic_ns() + NEWS_NS
        if self._told != told:
            self.tell("news" if told else "ready", info=self._told[0], counts=self._told[1])

    def _open_stage(self, node: Node) -> None:
        stage = self._stages[node]
        try:
            stage.open()
        except EyelineError as error:
            raise error.at(stage.context.where) from None
        if not node.kind.ordered:
            return
        left = dict(self._shared.left.get(node.name, {}))
        for stream, entry in self._streams.known().items():
            arena = self._streams.arena(stream)
            saved = arena.states.saved(node.name) if arena is not None else None
            if saved is None:
                continue
            progress = msgspec.msgpack.decode(saved, type=_Progress)
            self._progress[node.index, stream] = progress
            stage.restore(entry.name, progress.state)
            left.pop(entry.name, None)
        for name, state in left.items():
            stage.restore(name, state)  # lest a file be cut back to before what it wrote of them

    def _edges_of(self, node: Node) -> Iterator[Edge]:
        away = [child for child in node.next if child not in self._spec.nodes]
        for receivers in sorted({tuple(self._graph.workers_of(child)) for child in away}):
            credit = _batch_of(self._graph.workers[receivers[0]].nodes)
            if not any(entry.live for entry in self._streams.known().values()):
                # One more waits there, so that no replica idles while it asks for the next. A
                # live frame rather waits here, for whichever replica is free first.
                credit += 1
            yield Edge(
                self._sockets, self._worker_table, self._index, node.index, receivers, credit
            )

    def close(self) -> None:
        """Close the stages, last first, whatever state they are in."""
        for stage in reversed(self._stages.values()):
            try:
                stage.close()
            except EyelineError as error:
                self.tell("fatal", str(error.at(stage.context.where)))
            except Exception as error:
                stage.context.log.warning("closing failed: %s", _one_line(error))
        if self._told is not None:
            self._tell_news(closed=True)
        self._sockets.close()

    def loop(self) -> None:
        """Work until told to stop."""
        while not self._terminated:
            self._beat()
            self._forget_streams()
            self._call_idle()
            if time.monotonic_ns() >= self._news_due_ns:
                self._tell_news()
            message = self._sockets.receive(self._poll_ms)
            if message is None or message.kind != Kind.FRAME:
                self._flush()
                continue
            messages = [message]
            if self._batch > 1:
                self._gather(messages)
            self._work_on(messages)

    def _forget_streams(self) -> None:
        """Drop what was kept of streams that are gone."""
        for stream in self._streams.refresh():
            for kept in (self._progress, self._reorders):
                for key in [key for key in kept if key[1] == stream]:
                    del kept[key]

    def _beat(self) -> None:
        self._worker_table.beat(self._index, time.monotonic_ns())

    def _abandon(self, reason: str) -> None:
        self.tell("setup", reason)
        os._exit(EXIT_FATAL)

    def _beat_for_stage(self) -> None:
        self._beat()
        if self._worker_table.stopping:
            raise EndRun
        if self._terminated:
            raise _Leave

    def _call_idle(self) -> None:
        if self._reopen_due:
            self._reopen_due = False
            for stage in self._stages.values():
                stage.reopen()
        for stage in self._idle:
            try:
                stage.idle()
            except EndRun as wish:
                self.tell("end", str(wish))

    def _flush(self) -> None:
        for edge in self._all_edges:
            if edge.waiting:
                edge.flush()

    def _gather(self, messages: list[Message]) -> None:
        """Fill up a batch with what is there, or comes within `batch_wait_ms`."""
        until = time.monotonic() + self._batch_wait_ms / 1000
        while len(messages) < self._batch:
            left_ms = max(0, round((until - time.monotonic()) * 1000))
            message = self._sockets.receive(left_ms)
            if message is None:
                return
            if message.kind == Kind.FRAME:
                messages.append(message)

    def _work_on(self, messages: Sequence[Message]) -> None:
        self._taken_ns = time.monotonic_ns()
        by_stage: dict[int, list[Header]] = {}
        for message in messages:
            by_stage.setdefault(message.stage, []).append(decode_header(message.body))
        for stage, headers in by_stage.items():
            if self._any_ordered:
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
        self._flush()

    def _take_in_order(self, stage: int, header: Header) -> None:
        if (stage, header.stream) not in self._reorders:
            self._reorders[stage, header.stream] = self._reorder(stage, header.stream)
        reorder = self._reorders[stage, header.stream]
        if reorder is None:
            self._take(stage, [header])
            return
        if header.seq < reorder.expected:
            self._take(stage, [header])
            return
        reorder.add(header)
        for due in reorder.due():
            if self._take(stage, [due]):
                reorder.expected = due.seq + 1

    def _reorder(self, stage: int, stream: int) -> Reorder | None:
        """Order from the first frame on that an ordered stage behind `stage` has not had."""
        behind = [n for n in self._graph.nodes[stage].behind() if n in self._stages]
        nexts = [self._progress_of(n, stream).next for n in behind if n.kind.ordered]
        return Reorder(min(nexts)) if nexts else None

    def _take(self, stage: int, headers: list[Header]) -> bool:
        """Work on frames that came from a stage, unless they are void; whether any was."""
        worker_table, index = self._worker_table, self._index
        for i, header in enumerate(headers):
            worker_table.hold(index, i, header)
        current = [header for header in headers if self._is_current(header)]
        if current:
            self._enter(self._graph.nodes[stage], current)
            self._send_returns()
        for i in range(len(headers)):
            worker_table.release(index, i)
        return bool(current)

    def _is_current(self, header: Header) -> bool:
        arena = self._streams.arena(header.stream)
        return arena is not None and arena.is_current(header)

    def _arena_of(self, header: Header) -> Arena:
        """The arena of a frame in hand, whose stream can therefore not be gone."""
        arena = self._streams.arena(header.stream)
        assert arena is not None
        return arena

    def _name_of(self, header: Header) -> str:
        entry = self._streams.find(header.stream)
        assert entry is not None
        return entry.name

    def _progress_of(self, node: Node, stream: int) -> _Progress:
        return self._progress.setdefault((node.index, stream), _Progress())

    # --- the chain of stages in this worker ---

    def _enter(self, parent: Node, headers: list[Header]) -> None:
        """Work on frames that `parent` has handed on, with all stages here that follow it."""
        here = [child for child in parent.next if child in self._stages]
        for i, child in enumerate(here):
            last = i == len(here) - 1
            branch = headers if last else [_copy(header) for header in headers]
            for header in branch:
                _share_room(parent, child, header)
            self._visit(child, branch)

    def _visit(self, node: Node, headers: list[Header]) -> None:
        if node.kind.ordered:
            for header in headers:
                self._work_in_order(node, header)
        else:
            self._work(node, headers)
        if node.leaf:
            for header in headers:
                key = header.stream, header.slot
                _, leaves = self._returns.get(key, (header, 0))
                kept = self._returns[key][0] if key in self._returns else header
                if kept is not header:
                    kept.spans.extend(s for s in header.spans if s not in kept.spans)
                    kept.cause = kept.cause or header.cause
                self._returns[key] = kept, leaves | 1 << node.index
            return
        for edge in self._edges[node]:
            for header in headers:
                edge.send(header)
        self._enter(node, headers)

    def _work_in_order(self, node: Node, header: Header) -> None:
        progress = self._progress_of(node, header.stream)
        if header.seq < progress.next:
            self._answer_again(node, progress, header)
            return
        before = dict(header.arrays)
        self._work(node, [header])
        arena = self._arena_of(header)
        frame = self._frame(header)
        added = {
            name: (dtype, shape, frame[name].tobytes())
            for name, (offset, dtype, shape) in header.arrays.items()
            if before.get(name) != (offset, dtype, shape)
        }
        answer = _Answer(header.generation, header.status, header.cause, added)
        progress.answers[header.slot] = answer
        progress.next = header.seq + 1
        progress.state = self._stages[node].state(frame.stream)
        arena.states.save(node.name, msgspec.msgpack.encode(progress))

    def _answer_again(self, node: Node, progress: _Progress, header: Header) -> None:
        """Give the answer of before, without calling the stage."""
        answer = progress.answers.get(header.slot)
        if answer is None or answer.generation != header.generation:
            raise RunError(f"{node.name}: frame {header.seq} came again, but was never answered")
        if answer.status in (Status.DROPPED, Status.FAILED):
            header.without_arrays(answer.status, answer.cause)
            return
        frame = self._frame(header)
        for name, (dtype, shape, data) in answer.arrays.items():
            frame.put(name, np.ndarray(shape, dtype, data))

    def _work(self, node: Node, headers: list[Header]) -> None:
        stage = self._stages[node]
        frames = []
        for header in headers:
            if header.status == Status.END:
                stage.end(self._name_of(header))
            elif header.status == Status.LIVE and not self._too_old(header):
                frames.append(self._frame(header))
        if not frames:
            return
        start_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._call(node, stage, frames)
        end_ns = time.monotonic_ns()
        self._rows[node].count(end_ns - start_ns, time.process_time_ns() - cpu_ns, len(frames))
        for frame in frames:
            frame.header.spans.append(
                Span(node.index, self._index, self._taken_ns, start_ns, end_ns)
            )

    def _call(self, node: Node, stage: Stage, frames: list[Frame]) -> None:
        try:
            if len(frames) == 1:
                stage.process(frames[0])
            else:
                stage.process_batch(frames)
        except EndRun as wish:
            self.tell("end", str(wish))
        except EyelineError as error:
            raise error.at(stage.context.where) from None
        except Exception as error:
            if len(frames) > 1:
                # One of them is at fault: find out which.
                for frame in frames:
                    self._call(node, stage, [frame])
                return
            frames[0].header.without_arrays(Status.FAILED, f"failed:{node.name}")
            self._rows[node].count_failed()
            self._log_failure(node, frames[0], error)

    def _log_failure(self, node: Node, frame: Frame, error: Exception) -> None:
        """Log each kind of failure at its 1st, 10th, 100th ... time."""
        kind = f"{node.name}: {_one_line(error)}"
        times = self._failures[kind] = self._failures.get(kind, 0) + 1
        if times == 1:
            self.tell("frame_failed", kind)
        if str(times).rstrip("0") == "1":
            self._stages[node].context.log.warning(
                "%s (frame %d of %s; x%d)", _one_line(error), frame.seq, frame.stream, times
            )
            logging.debug("%s", traceback.format_exc())

    def _too_old(self, header: Header) -> bool:
        entry = self._streams.find(header.stream)
        if entry is None or entry.max_age_ms is None or not entry.live:
            return False
        if time.monotonic_ns() - header.captured_ns <= entry.max_age_ms * 1e6:
            return False
        header.without_arrays(Status.DROPPED, "stale")
        return True

    def _frame(self, header: Header) -> Frame:
        arena, name = self._arena_of(header), self._name_of(header)
        if header.slot == arena.end_slot:
            return Frame(header, name, memoryview(b""))
        return Frame(header, name, arena.memory(header.slot))

    def _send_returns(self) -> None:
        now_ns = time.monotonic_ns()
        for header, leaves in self._returns.values():
            self._give_back(
                header.stream,
                Return(
                    header.slot,
                    header.generation,
                    header.attempt,
                    leaves,
                    header.cause,
                    now_ns,
                    header.spans,
                ),
            )
        self._returns.clear()

    def _give_back(self, stream: int, done: Return) -> None:
        entry = self._streams.find(stream)
        if entry is not None:
            self._sockets.send_return(entry.worker, done)


def _batch_of(nodes: Sequence[Node]) -> int:
    """How many frames a worker of these stages takes at once."""
    return max(batch_of(node.settings) for node in nodes)


def _copy(header: Header) -> Header:
    twin = msgspec.structs.replace(header)
    twin.arrays, twin.spans = dict(header.arrays), list(header.spans)
    return twin


def _share_room(parent: Node, child: Node, header: Header) -> None:
    """Where a graph forks, give each branch that adds arrays a part of the slot of its own."""
    adds = [c for c in parent.next if c.kind.gives or any(n.kind.gives for n in c.behind())]
    if len(parent.next) < 2 or (len(adds) == 1 and child in adds):
        return
    if child not in adds:
        header.limit = header.used
        return
    part = (header.limit - header.used) // len(adds)
    header.used += adds.index(child) * part
    header.limit = header.used + part


class CaptureWorker(Worker):
    """The worker of one stream's source: lends the slots and takes the frames back."""

    def __init__(self, shared: Shared, spec: WorkerSpec, stream: StreamSpec) -> None:
        super().__init__(shared, spec)
        self._stream = stream
        self._arena = shared.arenas[stream.index]
        self._row = shared.counters.stream(stream.index)
        trace_fd = shared.trace_fds.get(stream.index)
        self._trace = None if trace_fd is None else TraceWriter(trace_fd)
        self._condition: SourceState | None = None
        self._seen_ns = time.monotonic_ns()

    def open(self) -> None:
        """Open the source and go on where the predecessor was killed."""
        super().open()
        max_age_ms = self._stream.settings.max_age_ms or 0
        too_old_ns = max(RESTART_TOO_OLD_NS, round(max_age_ms * 1e6))
        self._custody = Custody(
            self._arena,
            self._worker_table,
            self._stream.index,
            self._graph.leaves,
            too_old_ns if self._stream.live else None,
            time.monotonic_ns(),
        )
        self._shares = self._stream.live and self._stream.settings.slots == "auto"
        self._note_in_flight()
        self._offered: Header | None = None
        self._offer_ns = 0.0
        """When the next picture is due."""
        self._missed = 0
        """Pictures since the newest that became a frame."""
        self._pacer = self._make_pacer()
        self._paused = False
        self._sizes: dict[int, int] = {}

    def _make_pacer(self) -> Pacer | None:
        """None where frames are to wait: nothing of a file is left out, and batches must fill."""
        if not self._stream.live or _batch_of(self._graph.nodes) > 1:
            return None
        nodes = self._graph.nodes
        return Pacer({node.index: node.after.index for node in nodes if node.after is not None})

    def _make(self, node: Node) -> Stage:
        if issubclass(node.kind, Source):
            restarted = self._worker_table.incarnation(self._index) > 0 or self._stream.added
            context = msgspec.structs.replace(
                node.context, stream=self._stream.name, restarted=restarted
            )
            self._source: Source = _made(node.kind, self._stream.capture, context)
            return self._source
        return super()._make(node)

    def _open_stage(self, node: Node) -> None:
        if issubclass(node.kind, Source) and (self._arena.ended or self._told_to_end()):
            # The source is not needed any more, and may not be there any more either.
            self._arena.ended = True
            return
        super()._open_stage(node)
        if issubclass(node.kind, Source) and self._arena.position:
            self._source.skip(self._arena.position, self._arena.last_source_ns)

    def loop(self) -> None:
        """Lend and take back until the stream has ended and its end has been everywhere."""
        if not self._arena.ended:
            self._source.start(self._sockets.own_wake())
        while not self._terminated and not self._arena.finished:
            now_ns = time.monotonic_ns()
            self._worker_table.beat(self._index, now_ns)
            self._forget_streams()
            self._call_idle()
            if now_ns >= self._news_due_ns:
                self._tell_news()
            self._watch_source(now_ns)
            self._repair(now_ns)
            self._flush()
            wait_ms = 0 if self._read() else self._until_due_ms()
            if self._custody.waits_for_holders:
                wait_ms = min(wait_ms, HELD_MS)
            self._receive(wait_ms)

    def _told_to_end(self) -> bool:
        return self._worker_table.stopping or self._arena.removed

    def _watch_source(self, now_ns: int) -> None:
        """Pause and go on as ordered; tell when the source goes away or comes back."""
        if self._arena.ended:
            condition = SourceState("ended")
        else:
            if self._arena.paused != self._paused:
                self._paused = self._arena.paused
                (self._source.pause if self._paused else self._source.resume)()
            condition = SourceState("paused") if self._paused else self._source.condition
        if condition.state == "waiting":
            self._arena.count_away(now_ns - self._seen_ns)
        self._seen_ns = now_ns
        if condition == self._condition:
            return
        was, self._condition = self._condition, condition
        if was is not None and was.state == "waiting" and condition.state == "live":
            self._arena.count_reconnect()
        info = {self._spec.nodes[0].name: dict(self._source.info())}
        self.tell("condition", condition=condition, info=info)

    def _receive(self, wait_ms: int) -> None:
        """Take back what has been returned; wait for the first message only."""
        message = self._sockets.receive(wait_ms)
        while message is not None:
            if message.kind == Kind.RETURN:
                self._take_back(decode_return(message.body))
            message = self._sockets.receive(0)

    def _repair(self, now_ns: int) -> None:
        """After a death, send again what was in flight."""
        what = self._custody.watch(now_ns)
        if what is not None:
            for edge in self._all_edges:
                edge.forget()
        if what == "unreturned":
            logging.warning(
                "%s: %d frames not returned; resending",
                self._stream.name,
                self._custody.in_flight,
            )
        for header in self._custody.due(now_ns, in_order=self._any_ordered):
            self._launch(header)

    def _read(self) -> bool:
        """Lend the next picture if there is one; whether to come back at once."""
        if self._arena.ended or self._told_to_end():
            self._arena.ended = True
            if not self._custody.in_flight and not self._arena.generation(self._arena.end_slot):
                self._launch(self._custody.lend_end(time.monotonic_ns(), time.time_ns()))
            return False
        if self._paused and not self._stream.live:
            return False
        if self._any_ordered and self._custody.waits_for_holders:
            return False  # stages here that want frames in order get the older ones first
        if self._offered is None and not (self._may_lend() and self._is_due()):
            self._count_missed()
            return False
        try:
            if self._offered is None:
                self._offer(self._custody.blank())
            assert self._offered is not None
            filled = self._source.collect()
        except SlotFullError:
            raise RunError(
                f"{self._stream.name}: a picture is larger than max_frame "
                f"({self._graph.config.max_frame}): set max_frame in the settings"
            ) from None
        self._count_missed()
        if filled is None:
            return False
        if not filled:
            self._arena.ended = True
            problem = self._source.problem()
            if problem:
                self.tell("broken", f"{self._stream.name}: {problem}")
            return True
        header, self._offered = self._offered, None
        self._lend(header)
        return True

    def _may_lend(self) -> bool:
        """Whether one more frame may be in flight.

        What live streams have in flight beyond one each they share: more than keeps the stages
        busy would only wait before them, and each frame for all the others.
        """
        if not self._custody.has_free_slot:
            return False
        if not (self._shares and self._custody.in_flight):
            return True
        return self._worker_table.live_in_flight < self._stream.slots

    def _note_in_flight(self) -> None:
        if self._stream.live:
            self._worker_table.set_in_flight(self._index, self._custody.in_flight)

    def _is_due(self) -> bool:
        """Whether it is time for the next picture."""
        if self._pacer is None:
            return True
        self._offer_ns = self._pacer.due_ns(self._custody.next_seq)
        return time.monotonic_ns() >= self._offer_ns

    def _until_due_ms(self) -> int:
        """How long to wait for messages."""
        left_ms = (self._offer_ns - time.monotonic_ns()) / 1e6
        return min(self._poll_ms, math.ceil(left_ms)) if left_ms > 0 else self._poll_ms

    def _offer(self, header: Header) -> None:
        self._offered = header
        self._offered_ns, self._offered_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._source.offer(Frame(header, self._stream.name, self._arena.memory(header.slot)))

    def _count_captured(self, header: Header) -> None:
        """Count the work of the source; a live one's waiting for a picture is none."""
        end_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns() - self._offered_cpu_ns
        start_ns = header.captured_ns if self._stream.live else self._offered_ns
        source = self._spec.nodes[0]
        self._rows[source].count(end_ns - start_ns, cpu_ns)
        header.spans.append(Span(source.index, self._index, start_ns, start_ns, end_ns))

    def _lend(self, header: Header) -> None:
        self._count_captured(header)
        offset, dtype, (height, width, channels) = header.arrays["image"]
        assert (offset, dtype, channels) == (0, "|u1", 3), "image must come first, as BGR uint8"
        header.width, header.height = width, height
        self._fit_memory(header)
        if self._pacer is not None:
            alone = not self._custody.in_flight
            self._pacer.lent(header.seq, header.captured_ns, self._missed, alone)
        self._custody.lend(header)
        self._note_in_flight()
        self._missed = 0
        self._launch(header)

    def _fit_memory(self, header: Header) -> None:
        """Touch memory before it is needed when pictures grow, give it back when they shrink."""
        size = header.width * header.height * 3
        known = self._sizes.get(header.slot)
        if known == size:
            return
        if not self._sizes or size > max(self._sizes.values()):
            self._arena.make_room(size, header.slot)
        elif known is not None and size < known:
            self._arena.shrink(header.slot, header.used)
        self._sizes[header.slot] = size

    def _launch(self, header: Header) -> None:
        """Start a lent frame on its way: through the stages here, then to the next workers."""
        self._taken_ns = time.monotonic_ns()
        self._worker_table.hold(self._index, 0, header)
        source = self._spec.nodes[0]
        for edge in self._edges[source]:
            edge.send(header)
        self._enter(source, [header])
        self._worker_table.release(self._index, 0)
        self._send_returns()

    def _give_back(self, stream: int, done: Return) -> None:
        if stream == self._stream.index:
            self._take_back(done)
        else:
            super()._give_back(stream, done)

    def _take_back(self, done: Return) -> None:
        # Read before the slot can be lent again.
        captured_ns, seq = self._arena.captured_ns(done.slot), self._arena.seq(done.slot)
        again = self._arena.header_again(done.slot, self._stream.index) if self._trace else None
        taken = self._custody.take_back(done, time.monotonic_ns())
        if taken is None or done.slot == self._arena.end_slot:
            return
        self._note_in_flight()
        outcome, spans = taken
        if not outcome:
            self._row.count(captured_ns, done.returned_ns, spans)
            if self._pacer is not None:
                self._pacer.returned(seq, captured_ns, spans)
            self._count_waits(spans)
        if self._trace is not None and again is not None:
            self._trace.write(
                TraceRecord(
                    self._stream.index,
                    again.seq,
                    again.attempt,
                    captured_ns,
                    again.wall_ns,
                    again.source_ns,
                    done.returned_ns,
                    outcome,
                    spans,
                    again.ntp_ns,
                )
            )

    def _count_waits(self, spans: list[Span]) -> None:
        """Count how long the frame waited between the stages."""
        through_ns = {span.stage: span.end_ns for span in spans}
        for span in spans:
            after = self._graph.nodes[span.stage].after
            if after is not None and after.index in through_ns:
                self._row.count_wait(span.stage, span.start_ns - through_ns[after.index])

    def _count_missed(self) -> None:
        busy, decode = self._source.missed()
        self._missed += busy + decode
        if busy:
            self._arena.count_busy(busy)
        if decode:
            self._arena.count_decode(decode)
