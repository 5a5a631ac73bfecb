"""Output of the commands in a terminal: the live table, log lines, closing lines, errors."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from pipeline.errors import ConfigError
from pipeline.messages import one_line
from pipeline.supervisor.lifecycle import Phase
from pipeline.supervisor.supervisor import Supervisor
from pipeline.telemetry import logs
from pipeline.telemetry.histogram import percentiles
from stages.sinks.files.output_path import check_local

REFRESH_S = 0.5
MAX_ROWS = 20
"""Number of streams in the table, so that it fits on a screen."""


class LiveTable:
    """The table of a run, redrawn in place; rates and latencies are those of the last 5 s."""

    def __init__(self, console: Console) -> None:
        # auto_refresh would be a thread, and the supervisor forks.
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._next = 0.0
        self._history: list[tuple[float, _Sample]] = []

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def tick(self, supervisor: Supervisor) -> None:
        """Draw, at most every `REFRESH_S`."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH_S
        self.draw(supervisor)

    def draw(self, supervisor: Supervisor) -> None:
        """Draw now."""
        now = time.monotonic()
        sample = _Sample(supervisor)
        self._history = [(t, s) for t, s in self._history if t > now - 5.0]
        before = self._history[0] if self._history else (now - 1.0, None)
        self._history.append((now, sample))
        parts: list[Table | Text] = [
            _streams(supervisor, sample, before[1], now - before[0]),
            _stages(supervisor, sample, before[1], now - before[0]),
        ]
        if supervisor.lifecycle.phase == Phase.DRAINING:
            parts.append(Text("stopping: frames in flight drain; Ctrl-C again stops at once"))
        self._live.update(Group(*parts), refresh=True)


class _Sample:
    """The counters at one moment."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.latency = {
            stream.spec.index: stream.row.latency.buckets() for stream in supervisor.streams
        }
        rows = [supervisor.status.rows_of(node) for node in supervisor.graph.nodes]
        self.processed = [sum(row.processed for row in of) for of in rows]
        self.busy_ns = [sum(row.busy.sum_ns for row in of) for of in rows]


def _streams(supervisor: Supervisor, now: _Sample, before: _Sample | None, past_s: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stream")
    for name in ("fps", "p50 ms", "p95 ms", "captured", "delivered", "in flight"):
        table.add_column(name, justify="right")
    table.add_column("dropped, failed")
    for stream in list(supervisor.streams)[:MAX_ROWS]:
        index = stream.spec.index
        ledger, buckets = stream.arena.ledger(), now.latency.get(index)
        if buckets is None:
            continue
        if before is not None and index in before.latency:
            buckets = [a - b for a, b in zip(buckets, before.latency[index], strict=True)]
        latency = percentiles(buckets, stream.row.latency.max_ms())
        lost = {**ledger.dropped, **ledger.failed}
        is_idle = stream.condition.state in ("waiting", "paused")
        table.add_row(
            stream.name,
            stream.condition.state if is_idle else f"{sum(buckets) / past_s:.1f}",
            f"{latency.p50:.0f}",
            f"{latency.p95:.0f}",
            str(ledger.captured),
            str(ledger.delivered),
            str(ledger.in_flight),
            ", ".join(f"{cause} {n}" for cause, n in lost.items()) or "-",
        )
    more = len(supervisor.streams) - MAX_ROWS
    if more > 0:
        table.add_row(f"and {more} more")
    return table


def _stages(supervisor: Supervisor, now: _Sample, before: _Sample | None, past_s: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for name in ("frames/s", "ms/frame", "busy", "restarts"):
        table.add_column(name, justify="right")
    table.add_column("")
    for node in supervisor.graph.nodes:
        i = node.index
        processed = now.processed[i] - (before.processed[i] if before else 0)
        busy_ns = now.busy_ns[i] - (before.busy_ns[i] if before else 0)
        workers = len(supervisor.graph.workers_of(node))
        busy = busy_ns / 1e9 / past_s / workers
        info = supervisor.status.info_of(node.name)
        table.add_row(
            node.name + (f" x{workers}" if workers > 1 else ""),
            f"{processed / past_s:.1f}",
            f"{busy_ns / processed / 1e6:.1f}" if processed else "-",
            f"{min(busy, 1.0):.0%}",
            str(supervisor.status.restarts_of(node.name) or "-"),
            Text(", ".join(info.values()), style="dim"),
        )
    return table


class _HangupSafeFile(io.FileIO):
    """A file that accepts data also after the terminal behind it was closed."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def stderr_ignoring_hangup(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """Return a text file for a terminal that may be closed before the run has ended."""
    buffer = io.BufferedWriter(_HangupSafeFile(descriptor, "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)


def set_up_logging(level: int, console: Console | None) -> None:
    """Log to stderr, above the live table if there is one."""
    handler = None
    if console is not None:
        handler = RichHandler(
            console=console, show_path=False, omit_repeated_times=False, markup=False
        )
    logs.set_up(level, handler)


def closing_lines(supervisor: Supervisor) -> Sequence[str]:
    """Return one line per stream with the outcomes of its frames."""
    lines = []
    for stream in supervisor.streams:
        ledger, row = stream.arena.ledger(), stream.row
        latency = row.latency.percentiles()
        lost = {**ledger.dropped, **ledger.failed}
        lines.append(
            f"{stream.name}: {ledger.captured} captured = {ledger.delivered} delivered"
            + "".join(f" + {n} {cause}" for cause, n in lost.items())
            + (f" + {ledger.in_flight} in flight" if ledger.in_flight else "")
            + f"; {row.fps:.1f} fps, latency {latency.p50:.0f} ms (p95 {latency.p95:.0f})"
            + (f"; away {stream.arena.away_ns / 1e9:.1f} s" if stream.arena.away_ns else "")
        )
    return lines


def print_error(error: object) -> None:
    """Print an error on one line of stderr, whatever characters a path or a file brings in."""
    print(one_line(f"run.py: {error}"), file=sys.stderr)


def check_writable(path: Path) -> None:
    """Check that an output file of a command can be written, and make its folder.

    Raises:
        ConfigError: it cannot.
    """
    check_local("output", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def write_json(path: Path, value: Any) -> bool:
    """Write a value as JSON; False, and a line on stderr, where that fails."""
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    except OSError as error:
        print_error(f"{path}: cannot be written: {error.strerror}")
        return False
    return True
