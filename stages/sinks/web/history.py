"""Rate and latency of each stream over the last minutes, and changes of streams and stages."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

import msgspec

from pipeline.status import RunHandle, RunStatus, StreamStatus
from stages.sinks.web.activity import ActivityLog

SAMPLE_INTERVAL_S = 2.0
"""Time between two samples, seconds."""
MAX_SAMPLES = 150
"""Samples of a stream; five minutes."""
BOUNDS_S = tuple(0.001 * 1.1**i for i in range(120))
"""Bounds between which percentiles are interpolated, 1 ms to 84 s."""


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One point of a stream's curves."""

    at_ms: int
    """Wall clock, Unix epoch."""
    fps: float
    """Rate of delivered frames since the sample before."""
    p50_ms: float | None
    """Median latency of these frames; None if there are none."""
    p95_ms: float | None
    """95th percentile of their latency."""


class History:
    """Samples every stream, and logs the changes between two samples.

    Args:
        run: run to sample.
        log: receives streams that are added, removed and change their state, stages that are
            restarted, and reloads.
    """

    def __init__(self, run: RunHandle, log: ActivityLog) -> None:
        self._run, self._log = run, log
        self._before: RunStatus | None = None
        self._counts: dict[str, list[int]] = {}
        """Stream -> its latency histogram at the last sample."""
        self._sampled_s = 0.0
        self.samples: dict[str, deque[Sample]] = {}
        """Stream -> its samples, oldest first."""

    def sample(self) -> None:
        """Take a sample of every stream."""
        status, now_s = self._run.status(), time.monotonic()
        before = self._before
        known = {stream.name: stream for stream in before.streams} if before else {}
        for stream in status.streams:
            try:
                counts, _ = self._run.latency(stream.name, BOUNDS_S)
            except KeyError:
                continue  # removed since `status`
            was = known.get(stream.name)
            if was is None or was.captured > stream.captured:
                was = None  # it is new, or replaces a removed stream of the same name
                self._counts.pop(stream.name, None)
                self.samples[stream.name] = deque(maxlen=MAX_SAMPLES)
            self._add_sample(stream, was, counts, now_s)
            self._log_state(stream, was, before is None)
        for name in known.keys() - {stream.name for stream in status.streams}:
            self.samples.pop(name, None)
            self._counts.pop(name, None)
            self._log.add(time.time_ns(), "removed", stream=name)
        if before is not None:
            self._log_restarts(before, status)
            self._log_reloads(before, status)
        self._before, self._sampled_s = status, now_s

    def _add_sample(
        self, stream: StreamStatus, was: StreamStatus | None, counts: list[int], now_s: float
    ) -> None:
        last = self._counts.get(stream.name)
        self._counts[stream.name] = counts
        if last is None or was is None:
            return
        new = [count - old for count, old in zip(counts, last, strict=True)]
        fps = (stream.delivered - was.delivered) / max(now_s - self._sampled_s, 1e-3)
        at_ms = int(time.time() * 1e3)
        sample = Sample(at_ms, round(fps, 2), percentile(new, 0.5), percentile(new, 0.95))
        self.samples[stream.name].append(sample)

    def _log_state(self, stream: StreamStatus, was: StreamStatus | None, at_start: bool) -> None:
        condition = stream.condition
        if was is None and not at_start:
            self._log.add(time.time_ns(), "added", stream=stream.name)
        state = was.condition.state if was else "opening"
        if condition.state == state:
            return
        if at_start and condition.state == "live":
            return
        text: str = condition.state
        if condition.state == "live" and state == "waiting":
            text = "live again"
        elif condition.text:
            text += f": {condition.text}"
        urgent = condition.state == "waiting"
        self._log.add(time.time_ns(), text, stream=stream.name, urgent=urgent)

    def _log_restarts(self, before: RunStatus, now: RunStatus) -> None:
        restarts = {stage.name: stage.restarts for stage in before.stages}
        for stage in now.stages:
            new = stage.restarts - restarts.get(stage.name, stage.restarts)
            if new > 0:
                times = "" if new == 1 else f" {new} times"
                text = f"process of stage {stage.name} died, restarted{times}"
                self._log.add(time.time_ns(), text, urgent=True)

    def _log_reloads(self, before: RunStatus, now: RunStatus) -> None:
        if now.reload_error and now.reload_error != before.reload_error:
            text = f"settings reload refused: {now.reload_error}"
            self._log.add(time.time_ns(), text, urgent=True)
        elif now.reloads > before.reloads:
            self._log.add(time.time_ns(), "settings reloaded")


def percentile(cumulative: Sequence[int], share: float) -> float | None:
    """Compute a percentile of latencies, by linear interpolation between two bounds.

    Args:
        cumulative: number of latencies up to each of `BOUNDS_S`, then their total.
        share: share of the latencies at or below the percentile, from 0 to 1.

    Returns:
        Milliseconds; None if there are no latencies.
    """
    if cumulative[-1] <= 0:
        return None
    rank = share * cumulative[-1]
    index = bisect_left(cumulative, rank)
    if index >= len(BOUNDS_S):
        return round(BOUNDS_S[-1] * 1e3, 1)
    low_s, below = (BOUNDS_S[index - 1], cumulative[index - 1]) if index else (0.0, 0)
    part = (rank - below) / max(cumulative[index] - below, 1)
    return round((low_s + part * (BOUNDS_S[index] - low_s)) * 1e3, 1)
