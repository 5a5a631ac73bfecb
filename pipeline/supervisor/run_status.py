"""Status of the run: for its stages in shared memory, for systemd, and in figures at the end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Literal

from pipeline.graph.graph import Node
from pipeline.memory.run_info import RunInfo, SharedRunInfo, StageInfo
from pipeline.memory.worker_table import WorkerTable
from pipeline.supervisor import sd_notify
from pipeline.supervisor.control import Control
from pipeline.supervisor.processes import Processes
from pipeline.supervisor.streams import RunningStreams
from pipeline.telemetry.counters import Counters, StageRow, busy

PUBLISH_S = 0.5
"""Interval at which the status is published when nothing happens."""


class StatusPublisher:
    """The parts of a run, seen together."""

    def __init__(
        self,
        config: str,
        worker_table: WorkerTable,
        counters: Counters,
        streams: RunningStreams,
        processes: Processes,
        control: Control,
        run_info: SharedRunInfo,
    ) -> None:
        """Start; nothing is published yet.

        Args:
            config: name of the settings file, to be shown.
            worker_table: worker table of the run.
            counters: counters of the run.
            streams: running streams.
            processes: processes of the workers.
            control: reloads, and answers to requests.
            run_info: shared memory to publish in.
        """
        self.start_ns = time.monotonic_ns()
        self._config = config
        self._worker_table, self._counters = worker_table, counters
        self._streams, self._processes, self._control = streams, processes, control
        self._run_info = run_info
        self._publish_due = 0.0
        self._reported_ready = False
        self._watchdog_s = sd_notify.watchdog_s()
        self._watchdog_due = 0.0

    @property
    def ready(self) -> bool:
        """Whether every stage is open, and every stream has given an image or is known to wait."""
        return all(
            self._worker_table.is_ready(child.spec.index)
            for child in self._processes.children.values()
            if not child.done
        ) and all(
            stream.condition.state in ("waiting", "paused", "ended") or stream.arena.next_seq
            for stream in self._streams
        )

    def publish_soon(self) -> None:
        """Make the next `publish` write the status, since it has changed."""
        self._publish_due = 0.0

    def publish(self, now_s: float, phase: Literal["running", "draining", "closing"]) -> None:
        """Publish the status if it is due, and send a heartbeat to systemd.

        Args:
            now_s: monotonic time.
            phase: phase of the run.
        """
        watchdog_s = self._watchdog_s
        if watchdog_s is not None and now_s >= self._watchdog_due and sd_notify.watchdog():
            self._watchdog_due = now_s + watchdog_s / 3
        if now_s < self._publish_due:
            return
        self._publish_due = now_s + PUBLISH_S
        ready = self.ready
        if phase == "running":
            if ready and not self._reported_ready:
                self._reported_ready = sd_notify.ready()
            sd_notify.status(self._streams.states())
        self._run_info.post(
            RunInfo(
                config=self._config,
                start_ns=self.start_ns,
                phase=phase,
                ready=ready and phase == "running",
                reloads=self._control.reloads,
                reload_error=self._control.reload_error,
                streams=[stream.stream_info() for stream in self._streams],
                workers=[child.worker_info() for child in self._processes.children.values()],
                stages=[self._stage(node) for node in self._control.graph.nodes],
                replies=dict(self._control.replies),
            )
        )

    def _stage(self, node: Node) -> StageInfo:
        return StageInfo(
            node.name,
            node.use,
            node.after.name if node.after else None,
            self.restarts_of(node.name),
            self.info_of(node.name),
            self.counts_of(node.name),
        )

    # --- stages, over all of their workers ---

    def info_of(self, stage: str) -> dict[str, str]:
        """Return the info of a stage, see `Stage.info`."""
        for child in self._processes.children.values():
            if stage in child.info:
                return child.info[stage]
        return {}

    def counts_of(self, stage: str) -> dict[str, int]:
        """Return the counters of a stage, see `Stage.counters`."""
        total: Counter[str] = Counter()
        for child in self._processes.children.values():
            total.update(child.counts.get(stage, {}))
        return dict(total)

    def restarts_of(self, stage: str) -> int:
        """Return how often workers of the stage were restarted."""
        return sum(
            child.restarts
            for child in self._processes.children.values()
            if any(node.name == stage for node in child.spec.nodes)
        )

    def rows_of(self, node: Node) -> list[StageRow]:
        """Return the rows of counters of a stage."""
        children = self._processes.children.values()
        workers = [child.spec.index for child in children if node in child.spec.nodes]
        return self._counters.rows(node.index, workers)

    def summary(self, exit_status: int) -> dict[str, Any]:
        """Return the run in figures, as written by `--summary`."""
        stages = {}
        for node in self._control.graph.nodes:
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
            "streams": self._streams.summary(),
            "stages": stages,
            "wall_s": round((time.monotonic_ns() - self.start_ns) / 1e9, 3),
            "exit": exit_status,
        }
