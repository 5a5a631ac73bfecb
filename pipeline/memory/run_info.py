"""What only the supervisor knows of a run, put where every worker can read it, and the view of
the whole run that follows from it and from the counters (see `pipeline/status.py`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from pipeline.memory.shared import WORD, SharedMemory
from pipeline.memory.stream_table import StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import Condition, RunStatus, StageStatus, StreamStatus, WorkerStatus
from pipeline.telemetry.counters import Telemetry, busy

VERSION = "0.1.0"
MOST_BYTES = 8 << 20
"""Of a bulletin: room for thousands of streams; untouched memory costs nothing."""
REPLIES_KEPT = 32
ASK_MS = 10


class StreamNotice(msgspec.Struct, frozen=True):
    """What the supervisor knows of a stream."""

    index: int
    name: str
    source: str
    """Without credentials."""
    live: bool
    condition: Condition
    since_ns: int
    """Monotonic time of the last change of the condition."""
    decoder: str


class WorkerNotice(msgspec.Struct, frozen=True):
    """What the supervisor knows of a worker."""

    row: int
    name: str
    pid: int
    stages: list[int]


class StageNotice(msgspec.Struct, frozen=True):
    """What the supervisor knows of a stage."""

    name: str
    use: str
    after: str | None
    restarts: int
    info: dict[str, str]
    counts: dict[str, int]


class Notice(msgspec.Struct, frozen=True):
    """Everything that only the supervisor knows."""

    config: str = ""
    start_ns: int = 0
    phase: Literal["running", "draining", "closing"] = "running"
    ready: bool = False
    reloads: int = 0
    reload_error: str = ""
    streams: list[StreamNotice] = []
    workers: list[WorkerNotice] = []
    stages: list[StageNotice] = []
    replies: dict[str, str] = {}
    """Answers to the newest requests, by their names."""


class Bulletin:
    """One notice in shared memory, written by the supervisor, read by anyone.

    A word counts its changes and is odd while it changes: a reader that sees it odd, or different
    after reading, reads again.
    """

    def __init__(self) -> None:
        self._memory = SharedMemory("eyeline:bulletin", MOST_BYTES)
        self.post(Notice())

    def post(self, notice: Notice) -> None:
        """Replace the notice."""
        body = msgspec.msgpack.encode(notice)
        if len(body) > MOST_BYTES - 2 * WORD:
            return  # keep the old one: nothing that runs depends on it
        words = self._memory.words
        words[0] += 1
        words[1] = len(body)
        self._memory.bytes[2 * WORD : 2 * WORD + len(body)] = body
        words[0] += 1

    def read(self) -> Notice:
        """The newest notice."""
        words = self._memory.words
        for _ in range(100):
            before = words[0]
            body = bytes(self._memory.bytes[2 * WORD : 2 * WORD + words[1]])
            if before % 2 == 0 and words[0] == before:
                return msgspec.msgpack.decode(body, type=Notice)
            time.sleep(0.001)
        return Notice()  # the supervisor was stopped or killed while it wrote


class View:
    """The run as `pipeline.status.Run` promises it."""

    def __init__(
        self,
        bulletin: Bulletin,
        worker_table: WorkerTable,
        telemetry: Telemetry,
        streams: StreamTableReader,
        send: Callable[[str, str], None],
        supervisor_pid: int,
    ) -> None:
        """Look from inside a worker, or from the supervisor.

        Args:
            bulletin: of the run.
            worker_table: worker table of the run.
            telemetry: of the run.
            streams: a view of its own, since several threads may ask.
            send: takes a request to the supervisor: its name, and what is asked as JSON.
            supervisor_pid: process id.
        """
        self._bulletin, self._worker_table, self._telemetry = bulletin, worker_table, telemetry
        self._streams, self._send, self._pid = streams, send, supervisor_pid

    def status(self) -> RunStatus:
        """Everything, now."""
        notice, now_ns = self._bulletin.read(), time.monotonic_ns()
        self._streams.refresh()
        names = [stage.name for stage in notice.stages]
        streams = [self._stream(of, names, now_ns) for of in notice.streams]
        return RunStatus(
            version=VERSION,
            config=notice.config,
            pid=self._pid,
            now=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            uptime_s=round((now_ns - notice.start_ns) / 1e9, 3),
            phase=notice.phase,
            ready=notice.ready,
            reloads=notice.reloads,
            reload_error=notice.reload_error,
            streams=[stream for stream in streams if stream is not None],
            stages=[self._stage(notice, i) for i in range(len(notice.stages))],
        )

    def latency(self, stream: str, bounds_s: Sequence[float]) -> tuple[list[int], float]:
        """Latency for a histogram, see `pipeline.status.Run`."""
        for of in self._bulletin.read().streams:
            if of.name == stream:
                row = self._telemetry.stream(of.index)
                return row.latency.up_to(bounds_s), row.latency.sum_ns / 1e9
        raise KeyError(stream)

    def ask(self, request: str, timeout_s: float = 5.0, **arguments: Any) -> str:
        """Have the supervisor do something, see `pipeline.status.Run`."""
        name = uuid.uuid4().hex
        body = msgspec.json.encode({"do": request, **arguments}).decode()
        if len(body.encode()) > 1500:
            return "the settings are longer than 1500 bytes"
        self._send(name, body)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = self._bulletin.read().replies.get(name)
            if answer is not None:
                return answer
            time.sleep(ASK_MS / 1000)
        return f"no answer within {timeout_s:g} s"

    def _stream(self, of: StreamNotice, stages: Sequence[str], now_ns: int) -> StreamStatus | None:
        arena = self._streams.arena(of.index)
        if arena is None:
            return None
        row, ledger = self._telemetry.stream(of.index), arena.ledger()
        width, height = arena.size
        return StreamStatus(
            name=of.name,
            source=of.source,
            condition=of.condition,
            since_s=round((now_ns - of.since_ns) / 1e9, 3),
            away_s=round(arena.away_ns / 1e9, 3),
            reconnects=arena.reconnects,
            live=of.live,
            decoder=of.decoder,
            width=width,
            height=height,
            fps=round(row.fps, 2),
            slots=arena.slots,
            captured=ledger.captured,
            delivered=ledger.delivered,
            dropped=ledger.dropped,
            failed=ledger.failed,
            in_flight=ledger.in_flight,
            latency_ms=row.latency.percentiles(),
            hops_ms={
                stage: row.hops[i].percentiles()
                for i, stage in enumerate(stages)
                if row.hops[i].count
            },
        )

    def _stage(self, notice: Notice, index: int) -> StageStatus:
        stage = notice.stages[index]
        workers = [worker for worker in notice.workers if index in worker.stages]
        rows = [self._telemetry.row(worker.row, index) for worker in workers]
        through = [self._telemetry.stream(of.index) for of in notice.streams]
        frames = sum(row.hops[index].count for row in through)
        waited_ns = sum(row.waited_ns(index) for row in through)
        return StageStatus(
            name=stage.name,
            use=stage.use,
            after=stage.after,
            processed=sum(row.processed for row in rows),
            failed=sum(row.failed for row in rows),
            restarts=stage.restarts,
            busy_ms=busy(rows),
            waited_ms=round(waited_ns / frames / 1e6, 3) if frames else 0.0,
            cpu_s=round(sum(row.cpu_s for row in rows), 3),
            info=stage.info,
            counts=stage.counts,
            workers=[
                WorkerStatus(worker.name, worker.pid, self._worker_table.in_hand(worker.row))
                for worker in workers
            ],
        )
