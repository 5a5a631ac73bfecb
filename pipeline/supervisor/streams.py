"""The streams of a run, as its supervisor sees them: begun, changed, over, and forgotten."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pipeline.graph.graph import Graph, Node, StreamSpec, WorkerSpec
from pipeline.memory.arena import Arena
from pipeline.memory.run_info import StreamNotice, WorkerNotice
from pipeline.memory.stream_table import MAX_STREAMS, StreamEntry, StreamTable
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import Condition
from pipeline.telemetry.counters import StreamRow, Telemetry, read_trace, write_chrome_trace
from pipeline.worker.ordered import state_of

ENDED_SHOWN_S = 60.0
"""For so long a stream that was added on request, and has ended, is still to be seen."""
SPARE_WORKERS = 1024
"""Streams that may be added while it runs, at the same time."""


_REASONS = {
    "decode": "the pictures of the source cannot be decoded",
    "poison": "processes died with these frames in hand",
}
"""Cause of failed frames -> why, where no stage reports it."""


class Child:
    """One worker's process, and those it had before."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.feed: Feed | None = None
        """Whose capture worker it is."""
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
        self.failure = ""
        """Why its process ends, as it reported itself; empty: it reported nothing."""
        self.hung = False
        """Killed by us, so nobody's fault but its own."""
        self.dismissed = False
        """Killed by us, since the run ends and it has nothing to give."""
        self.renewed_at = 0.0
        """When it was asked to end so that its successor takes up new settings; 0: it was not."""
        self.done = False
        """Its stream has ended."""
        self.info: dict[str, dict[str, str]] = {}
        self.counts: dict[str, dict[str, int]] = {}

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.pid != 0

    def notice(self) -> WorkerNotice:
        """What only the supervisor knows of it."""
        stages = [node.index for node in self.spec.nodes]
        return WorkerNotice(self.spec.index, self.spec.name, self.pid, stages)


class Feed:
    """One stream while it runs."""

    def __init__(self, stream: StreamSpec, arena: Arena, row: StreamRow, child: Child) -> None:
        self.stream, self.arena, self.row, self.child = stream, arena, row, child
        self.condition = Condition()
        self.ended_s: float | None = None
        """Monotonic time at which it had ended, and its pictures were given back."""
        self.since_ns = time.monotonic_ns()
        """Monotonic time of the last change of the condition."""

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self.stream.name

    def is_over(self, now_s: float) -> bool:
        """Whether it is to be forgotten once its capture worker has ended."""
        if self.arena.removed:
            return True
        ended_s = self.ended_s
        return self.stream.requested and ended_s is not None and now_s - ended_s > ENDED_SHOWN_S

    def notice(self) -> StreamNotice:
        """What only the supervisor knows of it."""
        decoders = [info["decoder"] for info in self.child.info.values() if "decoder" in info]
        return StreamNotice(
            self.stream.index,
            self.name,
            self.stream.source,
            self.stream.live,
            self.condition,
            self.since_ns,
            ", ".join(decoders),
        )

    def summary(self, nodes: tuple[Node, ...]) -> dict[str, Any]:
        """The stream in figures."""
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
        """Why no frame was delivered although some were captured; "" if one was.

        Args:
            reasons: cause in the ledger -> why frames failed, in words.
        """
        ledger = self.arena.ledger()
        if ledger.delivered or not ledger.failed:
            return ""
        lost = {**ledger.failed, **ledger.dropped}
        counts = ", ".join(f"{n} {cause}" for cause, n in lost.items())
        most = max(ledger.failed, key=ledger.failed.__getitem__)
        why = ({**_REASONS, **reasons}).get(most, "see the log")
        return f"{self.name}: no frame was delivered (found {counts} of {ledger.captured}): {why}"

    def note(self, condition: Condition) -> None:
        """Keep how a source is doing, and say it in one line, unless it is the same again."""
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
            again = f"in {condition.retry_s:.1f} s" if condition.retry_s >= 0.05 else "at once"
            logging.warning(
                "%s: waiting: %s (%s); tried again %s",
                self.name,
                condition.text,
                condition.kind,
                again,
                extra={"fact": fact | {"reason": condition.text}},
            )
        elif condition.state == "live" and was.state == "waiting":
            text = "%s: back after %.1f s"
            fact["away_s"] = round(away_s, 1)
            logging.info(text, self.name, away_s, extra={"fact": fact})
        elif condition.state == "paused" or (condition.state == "ended" and self.stream.live):
            logging.info("%s: %s", self.name, condition.state, extra={"fact": fact})


class Feeds:
    """All streams of a run; also what they share with workers, and what is left of them."""

    def __init__(
        self, graph: Graph, worker_table: WorkerTable, telemetry: Telemetry, trace: Path | None
    ) -> None:
        """Begin without any.

        Args:
            graph: what runs.
            worker_table: worker table of the run.
            telemetry: of the run.
            trace: where to write the trace, if at all.
        """
        self._graph, self._worker_table, self._telemetry, self._trace = (
            graph,
            worker_table,
            telemetry,
            trace,
        )
        self.stream_table = StreamTable()
        self.arenas: dict[int, Arena] = {}
        self.trace_fds: dict[int, int] = {}
        self._now: dict[int, Feed] = {}
        self.final_states: dict[str, dict[str, bytes]] = {name: {} for name in graph.ordered}
        """Stage -> stream that is gone -> state of the stage after its last frame."""
        self._gone: dict[str, dict[str, Any]] = {}
        self._trace_parts: dict[int, Any] = {}
        self._traced: dict[int, str] = {}
        self._next = len(graph.streams)

    def __iter__(self) -> Iterator[Feed]:
        return iter(list(self._now.values()))

    def __len__(self) -> int:
        return len(self._now)

    def __getitem__(self, stream: int) -> Feed:
        """By the stream's number."""
        return self._now[stream]

    def named(self) -> dict[str, Feed]:
        """By name, those that are there to stay."""
        return {feed.name: feed for feed in self if not feed.arena.removed}

    def begin(self, stream: StreamSpec, child: Child) -> None:
        """Make what a stream needs: an arena, a row of counters, an entry in the stream table."""
        graph = self._graph
        names = [node.name for node in graph.nodes]
        arena = Arena(stream.name, stream.slots, names, graph.ordered, graph.slot_bytes)
        feed = Feed(stream, arena, self._telemetry.stream(stream.index), child)
        child.feed = feed
        self.arenas[stream.index] = arena
        self._now[stream.index] = feed
        if self._trace is not None:
            # Without a name, so that nothing is left behind if we are killed.
            part = tempfile.TemporaryFile(dir=self._trace.parent)  # noqa: SIM115
            self._trace_parts[stream.index] = part
            self.trace_fds[stream.index] = part.fileno()
            self._traced[stream.index] = stream.name
        self.enter(feed)

    def enter(self, feed: Feed) -> None:
        """Write what workers must know of a stream into the stream table."""
        stream = feed.stream
        entry = StreamEntry(
            stream.name,
            stream.live,
            stream.settings.max_age_ms,
            feed.child.spec.index,
            stream.slots,
            feed.arena.fd,
        )
        self.stream_table.write(stream.index, entry)

    def add(self, stream: StreamSpec) -> Child | str:
        """Begin one more stream; its capture worker, to be started, or in words why not."""
        source = self._graph.nodes[0]
        nodes = next(w.nodes for w in self._graph.workers if source in w.nodes)
        for node in nodes:
            if node.kind.ordered:
                return (
                    f"{node.name} is in the process of {source.name}, of which every stream has "
                    "one, and must be in one place: give it another process"
                )
        index = self._free_index()
        if index is None:
            return f"there are {MAX_STREAMS} streams already"
        try:
            row = self._worker_table.add_row()
        except IndexError:
            return f"more than {SPARE_WORKERS} streams were added"
        name = "+".join(node.name for node in nodes)
        child = Child(WorkerSpec(row, f"{name}.{stream.name}", nodes, index))
        self._telemetry.stream(index).clear()
        try:
            self.begin(replace(stream, index=index, added=True), child)
        except OSError as error:
            self._abandon(index, row)
            return f"there is no room for its memory or its files ({error.strerror})"
        return child

    def _abandon(self, index: int, row: int) -> None:
        """Undo half a `begin`."""
        arena = self.arenas.pop(index, None)
        self._now.pop(index, None)
        if arena is not None:
            arena.discard()
        self._worker_table.release_row(row)

    def _free_index(self) -> int | None:
        for _ in range(MAX_STREAMS):
            index, self._next = self._next, (self._next + 1) % MAX_STREAMS
            if index not in self._now:
                return index
        return None

    def release_memory(self, now_s: float) -> None:
        """Give back the pictures of streams that have ended; their figures stay to be seen."""
        for feed in self:
            if feed.child.done and feed.ended_s is None:
                feed.ended_s = now_s
                if feed.arena.finished:
                    feed.arena.release_slots()

    def retire(self, now_s: float) -> list[Child]:
        """Forget streams that are over, but for what they came to.

        These are the streams that were removed, and those added on request that ended a while
        ago: a program that adds one file after the other may never remove one.

        Returns:
            Their capture workers, which have ended.
        """
        over = [feed for feed in self if feed.child.done and feed.is_over(now_s)]
        for feed in over:
            index = feed.stream.index
            self._gone[self._unique(feed.name)] = feed.summary(self._graph.nodes)
            for stage, states in self.final_states.items():
                saved = feed.arena.states.saved(stage)
                if saved is not None:
                    states[feed.name] = state_of(saved)
            self.stream_table.clear(index)
            del self._now[index], self.arenas[index]
            self.trace_fds.pop(index, None)
            self._worker_table.release_row(feed.child.spec.index)
            feed.arena.discard()
            logging.info("%s: removed", feed.name)
        return [feed.child for feed in over]

    def _unique(self, name: str) -> str:
        """A name for the summary of a stream that is gone; others may have had it before."""
        n = 1
        while f"{name}#{n}" in self._gone:
            n += 1
        return f"{name}#{n}"

    def keep_only(self, stream: int) -> None:
        """In a capture worker: let go of the memory of all other streams."""
        for index, arena in list(self.arenas.items()):
            if index != stream:
                del self.arenas[index]
                arena.unmap()

    def summary(self) -> dict[str, Any]:
        """Each stream in figures; those that were removed as NAME#1, NAME#2 ..."""
        return {feed.name: feed.summary(self._graph.nodes) for feed in self} | self._gone

    def states(self) -> str:
        """How many are in which state, in a line."""
        states = [feed.condition.state for feed in self]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no stream"

    def write_trace(self, workers: Mapping[int, str], start_ns: int) -> None:
        """Join what the captures have written into the file that was asked for, if one was.

        Args:
            workers: their names, by their rows.
            start_ns: monotonic time of the start of the run.

        Raises:
            OSError: it cannot be written.
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
