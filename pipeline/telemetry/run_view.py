"""The status of a run, from the counters and from the facts that the supervisor publishes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipeline.memory.run_info import RunInfo, SharedRunInfo, StreamInfo
from pipeline.memory.stream_table import StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import VERSION, RunStatus, StageStatus, StreamStatus, WorkerStatus
from pipeline.telemetry.counters import Counters, busy

MAX_REQUEST_BYTES = 1500
"""Bytes of a request; a longer one would not go through the supervisor's pipe in one piece."""
POLL_MS = 10
"""How often a waiting request looks for its answer."""


class RunView:
    """The status of the run, as `pipeline.status.RunHandle` defines it."""

    def __init__(
        self,
        run_info: SharedRunInfo,
        worker_table: WorkerTable,
        counters: Counters,
        streams: StreamTableReader,
        send: Callable[[str, str], None],
        supervisor_pid: int,
    ) -> None:
        """Read from a worker or from the supervisor.

        Args:
            run_info: facts that the supervisor publishes.
            worker_table: worker table of the run.
            counters: counters of the run.
            streams: a reader for this view alone, since several threads may use it.
            send: sends a request to the supervisor: an id, and the request as JSON.
            supervisor_pid: process id of the supervisor.
        """
        self._run_info, self._worker_table, self._counters = run_info, worker_table, counters
        self._streams, self._send, self._pid = streams, send, supervisor_pid

    def status(self) -> RunStatus:
        """Return the current status; see `pipeline.status.RunHandle`."""
        info, now_ns = self._run_info.read(), time.monotonic_ns()
        self._streams.refresh()
        names = [stage.name for stage in info.stages]
        streams = [self._stream(of, names, now_ns) for of in info.streams]
        return RunStatus(
            version=VERSION,
            config=info.config,
            pid=self._pid,
            now=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            uptime_s=round((now_ns - info.start_ns) / 1e9, 3),
            phase=info.phase,
            ready=info.ready,
            reloads=info.reloads,
            reload_error=info.reload_error,
            streams=[stream for stream in streams if stream is not None],
            stages=[self._stage(info, i) for i in range(len(info.stages))],
        )

    def latency(self, stream: str, bounds_s: Sequence[float]) -> tuple[list[int], float]:
        """Return the latency for a histogram; see `pipeline.status.RunHandle`."""
        for of in self._run_info.read().streams:
            if of.name == stream:
                row = self._counters.stream(of.index)
                return row.latency.up_to(bounds_s), row.latency.sum_ns / 1e9
        raise KeyError(stream)

    def ask(self, request: str, timeout_s: float = 5.0, **arguments: Any) -> str:
        """Send a request to the supervisor; see `pipeline.status.RunHandle`."""
        request_id = uuid.uuid4().hex
        body = msgspec.json.encode({"do": request, **arguments})
        if len(body) > MAX_REQUEST_BYTES:
            return f"the request is too long (found {len(body)} bytes, at most {MAX_REQUEST_BYTES})"
        self._send(request_id, body.decode())
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = self._run_info.read().replies.get(request_id)
            if answer is not None:
                return answer
            time.sleep(POLL_MS / 1000)
        return f"no answer from the supervisor within {timeout_s:g} s"

    def _stream(self, of: StreamInfo, stages: Sequence[str], now_ns: int) -> StreamStatus | None:
        arena = self._streams.arena(of.index)
        if arena is None:
            return None
        row, ledger = self._counters.stream(of.index), arena.ledger()
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

    def _stage(self, info: RunInfo, index: int) -> StageStatus:
        stage = info.stages[index]
        workers = [worker for worker in info.workers if index in worker.stages]
        rows = [self._counters.row(worker.row, index) for worker in workers]
        through = [self._counters.stream(of.index) for of in info.streams]
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
