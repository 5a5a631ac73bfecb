"""The way of a frame through the stages of one worker: branches, batches, failures, edges.

What a stage hands on goes to the stages of the same process that follow it, and through edges to
the next workers. Where the graph branches, each branch gets its own copy of the header. A frame
that has been through a last stage is returned to its capture worker.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, Sequence

import msgspec

from pipeline.arrays import check_given
from pipeline.edge import Edge, Return
from pipeline.errors import EndRun, EyelineError
from pipeline.frame import Frame, Header, Span, Status
from pipeline.graph.graph import Node, WorkerSpec
from pipeline.memory.arena import Arena
from pipeline.memory.stream_table import StreamTableReader
from pipeline.messages import passes_power_of_ten
from pipeline.stage import Stage
from pipeline.stage_errors import error_line, place_of, stage_error
from pipeline.telemetry.counters import StageRow
from pipeline.worker.ordered import OrderedStages
from pipeline.worker.reports import Reporter


class Chain:
    """The stages of one worker, in the order in which frames go through them."""

    def __init__(
        self,
        spec: WorkerSpec,
        streams: StreamTableReader,
        rows: Mapping[Node, StageRow],
        ordered: OrderedStages,
        reporter: Reporter,
    ) -> None:
        """Start without stages and edges; the worker puts them in as it opens them.

        Args:
            spec: the worker.
            streams: streams of the run.
            rows: counters of each stage.
            ordered: progress of the ordered stages among them.
            reporter: sends reports to the supervisor.
        """
        self.stages: dict[Node, Stage] = {}
        self.edges: dict[Node, list[Edge]] = {}
        """Stage -> edges to the workers that follow it."""
        self.taken_ns = 0
        """Monotonic time at which the worker took the frames it has in hand."""
        self._index = spec.index
        self._streams, self._rows, self._ordered = streams, rows, ordered
        self._reporter = reporter
        self._returns: dict[tuple[int, int], tuple[Header, int]] = {}
        """Stream, slot -> frame that has been through last stages, bit set of these."""
        self._failures: dict[str, int] = {}
        """Kind of failure -> number of times that it happened."""

    def is_current(self, header: Header) -> bool:
        """Return whether a frame is still in flight and its header was not replaced by another."""
        arena = self._streams.arena(header.stream)
        return arena is not None and arena.is_current(header)

    def send(self, node: Node, headers: Sequence[Header]) -> None:
        """Send frames that a stage hands on to the workers that follow it."""
        for edge in self.edges[node]:
            for header in headers:
                edge.send(header)

    def flush(self) -> None:
        """Send frames that wait for credit, as far as there is credit now."""
        for edges in self.edges.values():
            for edge in edges:
                if edge.waiting:
                    edge.flush()

    def forget_waiting(self) -> None:
        """Drop frames that wait for credit: after a death every frame in flight is resent."""
        for edges in self.edges.values():
            for edge in edges:
                edge.forget()

    def enter(self, parent: Node, headers: list[Header]) -> None:
        """Pass frames that `parent` hands on through all stages here that follow it."""
        here = [child for child in parent.next if child in self.stages]
        for i, child in enumerate(here):
            last = i == len(here) - 1
            branch = headers if last else [_copy(header) for header in headers]
            for header in branch:
                _split_slot(parent, child, header)
            self._visit(child, branch)

    def take_returns(self) -> list[tuple[int, Return]]:
        """Take the returns of frames that have been through last stages: (stream, return)."""
        now_ns = time.monotonic_ns()
        returns = [
            (
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
            for header, leaves in self._returns.values()
        ]
        self._returns.clear()
        return returns

    def _visit(self, node: Node, headers: list[Header]) -> None:
        for header in headers:
            for name in node.withheld:
                header.arrays.pop(name, None)
        if node.kind.ordered:
            for header in headers:
                self._work_in_order(node, header)
        else:
            self._work(node, headers)
        if node.leaf:
            for header in headers:
                self._add_return(node, header)
            return
        self.send(node, headers)
        self.enter(node, headers)

    def _add_return(self, node: Node, header: Header) -> None:
        key = header.stream, header.slot
        _, leaves = self._returns.get(key, (header, 0))
        kept = self._returns[key][0] if key in self._returns else header
        if kept is not header:
            kept.spans.extend(s for s in header.spans if s not in kept.spans)
            kept.cause = kept.cause or header.cause
        self._returns[key] = kept, leaves | 1 << node.index

    def _work_in_order(self, node: Node, header: Header) -> None:
        if self._ordered.is_answered(node, header):
            self._ordered.answer_again(node, self._frame(header))
            if node.kind.derived and header.status == Status.LIVE:
                self._call(node, self.stages[node], [self._frame(header)], answered=True)
            return
        before = dict(header.arrays)
        self._work(node, [header])
        self._ordered.save(
            node, self.stages[node], self._frame(header), before, self._arena_of(header)
        )

    def _work(self, node: Node, headers: list[Header]) -> None:
        stage = self.stages[node]
        frames = []
        for header in headers:
            if header.status == Status.END:
                self._end(stage, self._name_of(header))
            elif header.status == Status.LIVE and not self._drop_if_stale(header):
                frames.append(self._frame(header))
        if not frames:
            return
        start_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._call(node, stage, frames)
        end_ns = time.monotonic_ns()
        self._rows[node].count(end_ns - start_ns, time.process_time_ns() - cpu_ns, len(frames))
        for frame in frames:
            frame.header.spans.append(
                Span(node.index, self._index, self.taken_ns, start_ns, end_ns)
            )

    def _end(self, stage: Stage, stream: str) -> None:
        try:
            stage.end(stream)
        except EndRun as request:
            self._reporter.send("end", str(request))
        except Exception as error:
            raise stage_error(error, stage.context.where, "end") from None

    def _call(
        self, node: Node, stage: Stage, frames: list[Frame], *, answered: bool = False
    ) -> None:
        """Let a stage process frames; those that it has answered lack the derived arrays alone."""
        try:
            if answered:
                pass
            elif len(frames) == 1:
                stage.process(frames[0])
            else:
                stage.process_batch(frames)
            for frame in frames:
                stage.derive(frame)
                check_given(frame, node.kind.gives)
        except EndRun as request:
            self._reporter.send("end", str(request))
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
        # Not by the text, which may contain the number of the frame.
        kind = f"{node.name}: {type(error).__name__} {place_of(error)}"
        times = self._failures[kind] = self._failures.get(kind, 0) + 1
        if times == 1:
            self._reporter.send("frame_failed", f"{node.name}: {error_line(error)}")
        if passes_power_of_ten(times - 1, times):
            self.stages[node].context.log.warning(
                "%s (frame %d of %s; x%d)", error_line(error), frame.seq, frame.stream, times
            )
            logging.debug("%s", traceback.format_exc())

    def _drop_if_stale(self, header: Header) -> bool:
        """Drop a live frame that is older than `max_age_ms`; return whether it was."""
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

    def _arena_of(self, header: Header) -> Arena:
        """Return the arena of a frame in hand, whose stream can therefore not be gone."""
        arena = self._streams.arena(header.stream)
        assert arena is not None
        return arena

    def _name_of(self, header: Header) -> str:
        entry = self._streams.find(header.stream)
        assert entry is not None
        return entry.name


def _copy(header: Header) -> Header:
    twin = msgspec.structs.replace(header)
    twin.arrays, twin.spans = dict(header.arrays), list(header.spans)
    return twin


def _split_slot(parent: Node, child: Node, header: Header) -> None:
    """Give each branch that adds arrays its own part of the slot, where the graph branches."""
    adds = parent.adding
    if len(parent.next) < 2 or (len(adds) == 1 and child in adds):
        return
    if child not in adds:
        header.limit = header.used
        return
    part = (header.limit - header.used) // len(adds)
    header.used += adds.index(child) * part
    header.limit = header.used + part
