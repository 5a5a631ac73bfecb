"""The running streams, as the supervisor sees them: begun, changed, ended, and forgotten."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pipeline.graph.graph import Graph, Node, StreamSpec, WorkerSpec
from pipeline.memory.arena import Arena
from pipeline.memory.run_info import StreamInfo
from pipeline.memory.stream_table import MAX_STREAMS, StreamEntry, StreamTable
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import SourceState
from pipeline.supervisor.processes import Child
from pipeline.telemetry.counters import Counters, StreamRow
from pipeline.telemetry.trace import read_trace, write_chrome_trace
from pipeline.worker.ordered import state_of

ENDED_SHOWN_S = 60.0
"""Time for which a stream that was added on request is shown after its end."""
SPARE_WORKERS = 1024
"""Number of streams that may run at the same time beyond those of the start."""

_REASONS = {
    "decode": "the images of the source cannot be decoded",
    "poison": "processes died while they worked on these frames",
}
"""Cause of failed frames -> reason, where no stage reports it."""


class RunningStream:
    """One stream while it runs."""

    def __init__(self, spec: StreamSpec, arena: Arena, row: StreamRow, child: Child) -> None:
        self.spec, self.arena, self.row, self.child = spec, arena, row, child
        self.condition = SourceState()
        self.ended_s: float | None = None
        """Monotonic time at which it had ended, and its memory was released."""
        self.since_ns = time.monotonic_ns()
        """Monotonic time of the last change of the condition."""

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self.spec.name

    def is_over(self, now_s: float) -> bool:
        """Return whether to forget it once its capture worker has ended."""
        if self.arena.removed:
            return True
        ended_s = self.ended_s
        return self.spec.requested and ended_s is not None and now_s - ended_s > ENDED_SHOWN_S

    def stream_info(self) -> StreamInfo:
        """Return the part of its status that only the supervisor knows."""
        decoders = [info["decoder"] for info in self.child.info.values() if "decoder" in info]
        return StreamInfo(
            self.spec.index,
            self.name,
            self.spec.source,
            self.spec.live,
            self.condition,
            self.since_ns,
            ", ".join(decoders),
        )

    def summary(self, nodes: tuple[Node, ...]) -> dict[str, Any]:
        """Return the stream in figures."""
        latency = self.row.latency.percentiles()
        hops = {node.name: self.row.hops[node.index] for node in nodes}
        return {
            **msgspec.to_builtins(self.arena.ledger()),
            "fps": round(self.row.fps, 2),
            "latency_ms": msgspec.to_builtins(latency),
            "hops_ms": {name: msgspec.to_builtins(hop.percentiles()) for name, hop in hops.items()},
            "away_s": round(self.arena.away_ns / 1e9, 3),
            "reconnects": self.arena.reconnects,
        }

    def without_results(self, reasons: Mapping[str, str]) -> str:
        """Return why no frame was delivered although some were captured; "" if one was.

        Args:
            reasons: cause in the ledger -> reason why frames failed, in words.
        """
        ledger = self.arena.ledger()
        if ledger.delivered or not ledger.failed:
            return ""
        lost = {**ledger.failed, **ledger.dropped}
        counts = ", ".join(f"{n} {cause}" for cause, n in lost.items())
        most = max(ledger.failed, key=ledger.failed.__getitem__)
        why = ({**_REASONS, **reasons}).get(most, "see the log")
        return f"{self.name}: no frame was delivered (found {counts} of {ledger.captured}): {why}"

    def set_condition(self, condition: SourceState) -> None:
        """Record the state of the source, and log a line if it has changed."""
        was, self.condition = self.condition, condition
        if (was.state, was.kind) == (condition.state, condition.kind):
            return
        away_s = (time.monotonic_ns() - self.since_ns) / 1e9
        self.since_ns = time.monotonic_ns()
        fact: dict[str, Any] = {
            "event": "stream",
            "stream": self.name,
            "state": condition.state,
            "kind": condition.kind,
        }
        if condition.state == "waiting":
            fact["retry_s"] = round(condition.retry_s, 1)
            retry = f"in {condition.retry_s:.1f} s" if condition.retry_s >= 0.05 else "now"
            logging.warning(
                "stream %s: waiting: %s (%s); retrying %s",
                self.name,
                condition.text,
                condition.kind,
                retry,
                extra={"fact": fact | {"reason": condition.text}},
            )
        elif condition.state == "live" and was.state == "waiting":
            text = "stream %s: live again after %.1f s"
            fact["away_s"] = round(away_s, 1)
            logging.info(text, self.name, away_s, extra={"fact": fact})
        elif condition.state == "paused" or (condition.state == "ended" and self.spec.live):
            logging.info("stream %s: %s", self.name, condition.state, extra={"fact": fact})


class RunningStreams:
    """All streams of a run: their memory, their trace, and the figures of those that are gone."""

    def __init__(
        self, graph: Graph, worker_table: WorkerTable, counters: Counters, trace: Path | None
    ) -> None:
        """Start without any.

        Args:
            graph: graph of the run.
            worker_table: worker table of the run.
            counters: counters of the run.
            trace: file for the trace; None: none is written.
        """
        self._graph, self._worker_table, self._counters, self._trace = (
            graph,
            worker_table,
            counters,
            trace,
        )
        self.stream_table = StreamTable()
        self.arenas: dict[int, Arena] = {}
        self.trace_fds: dict[int, int] = {}
        self._running: dict[int, RunningStream] = {}
        self.final_states: dict[str, dict[str, bytes]] = {name: {} for name in graph.ordered}
        """Stage -> stream that is gone -> state of the stage after its last frame."""
        self._gone: dict[str, dict[str, Any]] = {}
        self._trace_parts: dict[int, Any] = {}
        self._traced: dict[int, str] = {}
        self._next = len(graph.streams)

    def __iter__(self) -> Iterator[RunningStream]:
        return iter(list(self._running.values()))

    def __len__(self) -> int:
        return len(self._running)

    def __getitem__(self, index: int) -> RunningStream:
        """Return the stream with this index."""
        return self._running[index]

    def of(self, child: Child) -> RunningStream | None:
        """Return the stream whose capture worker this is; None for other workers."""
        index = child.spec.stream
        stream = None if index is None else self._running.get(index)
        return stream if stream is not None and stream.child is child else None

    def by_name(self) -> dict[str, RunningStream]:
        """Return the streams by name, without those that were removed and drain."""
        return {stream.name: stream for stream in self if not stream.arena.removed}

    def begin(self, spec: StreamSpec, child: Child) -> None:
        """Make the arena, the row of counters and the entry in the stream table of a stream."""
        graph = self._graph
        names = [node.name for node in graph.nodes]
        arena = Arena(spec.name, spec.slots, names, graph.ordered, graph.slot_bytes)
        stream = RunningStream(spec, arena, self._counters.stream(spec.index), child)
        self.arenas[spec.index] = arena
        self._running[spec.index] = stream
        if self._trace is not None:
            # Without a name, so that no file remains if we are killed.
            part = tempfile.TemporaryFile(dir=self._trace.parent)  # noqa: SIM115
            self._trace_parts[spec.index] = part
            self.trace_fds[spec.index] = part.fileno()
            self._traced[spec.index] = spec.name
        self.publish(stream)

    def publish(self, stream: RunningStream) -> None:
        """Write the entry of a stream in the stream table, for the workers."""
        spec = stream.spec
        entry = StreamEntry(
            spec.name,
            spec.live,
            spec.settings.max_age_ms,
            stream.child.spec.index,
            spec.slots,
            stream.arena.fd,
        )
        self.stream_table.write(spec.index, entry)

    def add(self, spec: StreamSpec) -> Child | str:
        """Begin one more stream; return its capture worker, to be started, or in words why not."""
        source = self._graph.nodes[0]
        nodes = next(w.nodes for w in self._graph.workers if source in w.nodes)
        for node in nodes:
            if node.kind.ordered:
                return (
                    f"stages.{node.name}: an ordered stage cannot share the process of "
                    f"{source.name}, of which every stream has one; set another `process`"
                )
        index = self._free_index()
        if index is None:
            return f"{MAX_STREAMS} streams run already"
        try:
            row = self._worker_table.add_row()
        except IndexError:
            return f"{SPARE_WORKERS} added streams run already"
        name = "+".join(node.name for node in nodes)
        child = Child(WorkerSpec(row, f"{name}.{spec.name}", nodes, index))
        self._counters.stream(index).clear()
        try:
            self.begin(replace(spec, index=index, added=True), child)
        except OSError as error:
            self._abandon(index, row)
            return f"no memory or file can be made for it ({error.strerror})"
        return child

    def _abandon(self, index: int, row: int) -> None:
        """Undo a `begin` that failed halfway."""
        arena = self.arenas.pop(index, None)
        self._running.pop(index, None)
        if arena is not None:
            arena.discard()
        self._worker_table.release_row(row)

    def _free_index(self) -> int | None:
        for _ in range(MAX_STREAMS):
            index, self._next = self._next, (self._next + 1) % MAX_STREAMS
            if index not in self._running:
                return index
        return None

    def release_memory(self, now_s: float) -> None:
        """Release the memory of streams that have ended; their figures stay."""
        for stream in self:
            if stream.child.done and stream.ended_s is None:
                stream.ended_s = now_s
                if stream.arena.finished:
                    stream.arena.release_slots()

    def retire(self, now_s: float) -> list[Child]:
        """Forget streams that are over, except for their figures and final states.

        These are the streams that were removed, and those added on request that ended a while
        ago: a program that adds one file after the other may never remove one.

        Returns:
            Their capture workers, which have ended.
        """
        over = [stream for stream in self if stream.child.done and stream.is_over(now_s)]
        for stream in over:
            index = stream.spec.index
            self._gone[self._unique(stream.name)] = stream.summary(self._graph.nodes)
            for stage, states in self.final_states.items():
                saved = stream.arena.states.saved(stage)
                if saved is not None:
                    states[stream.name] = state_of(saved)
            self.stream_table.clear(index)
            del self._running[index], self.arenas[index]
            self.trace_fds.pop(index, None)
            self._worker_table.release_row(stream.child.spec.index)
            stream.arena.discard()
            logging.info("stream %s: removed", stream.name)
        return [stream.child for stream in over]

    def _unique(self, name: str) -> str:
        """Return a name for the summary of a stream that is gone; others may have had it before."""
        n = 1
        while f"{name}#{n}" in self._gone:
            n += 1
        return f"{name}#{n}"

    def keep_only(self, stream: int) -> None:
        """Unmap the memory of all other streams, in the process of a capture worker."""
        for index, arena in list(self.arenas.items()):
            if index != stream:
                del self.arenas[index]
                arena.unmap()

    def summary(self) -> dict[str, Any]:
        """Return each stream in figures; those that were removed as NAME#1, NAME#2 ..."""
        return {stream.name: stream.summary(self._graph.nodes) for stream in self} | self._gone

    def states(self) -> str:
        """Return the number of streams in each state, in a line."""
        states = [stream.condition.state for stream in self]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no stream"

    def write_trace(self, workers: Mapping[int, str], start_ns: int) -> None:
        """Join the traces of the capture workers into one file, if one was requested.

        Args:
            workers: row -> name of the worker.
            start_ns: monotonic time of the start of the run.

        Raises:
            OSError: the file cannot be written.
        """
        if self._trace is None:
            return
        parts = self._trace_parts.values()
        try:
            for part in parts:
                part.seek(0)
            with self._trace.open("wb") as file:
                write_chrome_trace(
                    file,
                    (record for part in parts for record in read_trace(part)),
                    self._traced,
                    [node.name for node in self._graph.nodes],
                    workers,
                    start_ns,
                )
        finally:
            for part in parts:
                part.close()
