"""What the status page and Prometheus make of the numbers of a run."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from pipeline.status import Run, RunStatus, StreamStatus
from stages.sinks.web.activity import Feed

STATES = ("opening", "live", "waiting", "paused", "ended")

BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
"""Bounds of the latency histograms that Prometheus gets; they never change, so that histories
can be compared."""

STEP_S = 2.0
"""Between two samples of the page's curves."""
SAMPLES = 150
"""Five minutes of them."""
BOUNDS_S = tuple(0.001 * 1.1**i for i in range(120))
"""1 ms to 90 s; percentiles of the curves are found between these."""


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One point of a stream's curves."""

    at_ms: int
    """Wall clock, Unix epoch."""
    fps: float
    """Delivered since the sample before."""
    p50_ms: float | None
    """Latency of those; None if there were none."""
    p95_ms: float | None


class History:
    """How each stream did in the last five minutes; and what changed, for the feed.

    Args:
        run: to look at.
        feed: is told of streams that come, go and wait, and of stages that were started again.
    """

    def __init__(self, run: Run, feed: Feed) -> None:
        self._run, self._feed = run, feed
        self._before: RunStatus | None = None
        self._counts: dict[str, list[int]] = {}
        self._taken_s = 0.0
        self.samples: dict[str, deque[Sample]] = {}
        """By stream, oldest first."""

    def take(self) -> None:
        """Take a sample of every stream."""
        status, now_s = self._run.status(), time.monotonic()
        before = self._before
        known = {stream.name: stream for stream in before.streams} if before else {}
        for stream in status.streams:
            try:
                counts, _ = self._run.latency(stream.name, BOUNDS_S)
            except KeyError:
                continue  # it has just gone
            last, was = self._counts.get(stream.name), known.get(stream.name)
            if was is None or was.captured > stream.captured:
                last = was = None  # it is new, or another by the name of one that was removed
                self.samples[stream.name] = deque(maxlen=SAMPLES)
            self._counts[stream.name] = counts
            if last is not None and was is not None:
                new = [count - old for count, old in zip(counts, last, strict=True)]
                fps = (stream.delivered - was.delivered) / max(now_s - self._taken_s, 1e-3)
                sample = Sample(
                    int(time.time() * 1e3),
                    round(fps, 2),
                    percentile(new, 0.5),
                    percentile(new, 0.95),
                )
                self.samples[stream.name].append(sample)
            self._tell_condition(stream, was, before is None)
        gone = known.keys() - {stream.name for stream in status.streams}
        for name in gone:
            self.samples.pop(name, None)
            self._counts.pop(name, None)
            self._feed.add(time.time_ns(), "removed", stream=name)
        if before is not None:
            self._tell_restarts(before, status)
        self._before, self._taken_s = status, now_s

    def _tell_condition(
        self, stream: StreamStatus, was: StreamStatus | None, at_start: bool
    ) -> None:
        condition = stream.condition
        if was is None and not at_start:
            self._feed.add(time.time_ns(), "added", stream=stream.name)
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
        self._feed.add(time.time_ns(), text, stream=stream.name, urgent=urgent)

    def _tell_restarts(self, before: RunStatus, now: RunStatus) -> None:
        restarts = {stage.name: stage.restarts for stage in before.stages}
        for stage in now.stages:
            new = stage.restarts - restarts.get(stage.name, stage.restarts)
            if new > 0:
                times = "" if new == 1 else f" {new} times"
                text = f"stage {stage.name} died and was started again{times}"
                self._feed.add(time.time_ns(), text, urgent=True)
        if now.reload_error and now.reload_error != before.reload_error:
            text = f"the new settings were refused: {now.reload_error}"
            self._feed.add(time.time_ns(), text, urgent=True)
        elif now.reloads > before.reloads:
            self._feed.add(time.time_ns(), "the settings were read anew")


def percentile(cumulative: Sequence[int], share: float) -> float | None:
    """A percentile in milliseconds of counts up to each of `BOUNDS_S`, and in all.

    Args:
        cumulative: rising, one more than there are bounds.
        share: from 0 to 1.

    Returns:
        By linear interpolation between two bounds; None if the counts are 0.
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


def why_not_ready(status: RunStatus) -> str:
    """What a run that is not ready waits for, in words."""
    if status.phase != "running":
        return f"the run is {status.phase}"
    absent = [stage.name for stage in status.stages if any(not w.pid for w in stage.workers)]
    opening = [s.name for s in status.streams if s.condition.state == "opening"]
    reasons = []
    if absent:
        reasons.append(f"being started: {', '.join(absent)}")
    if opening:
        reasons.append(f"no picture yet: {', '.join(opening)}")
    return "; ".join(reasons) or "stages are being opened"


def exposition(run: Run, viewers: int, accept: str) -> tuple[bytes, str]:
    """The metrics of a run as Prometheus reads them, and their content type.

    Args:
        run: to look at.
        viewers: how many watch at this moment.
        accept: what the asking side understands, its `Accept` header.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(list(_metrics(run, viewers))))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _metrics(run: Run, viewers: int) -> Iterator[Metric]:
    status = run.status()
    yield InfoMetricFamily(
        "eyeline", "The program", value={"version": status.version, "config": status.config}
    )
    yield GaugeMetricFamily("eyeline_ready", "1 when every stage is open", value=status.ready)
    yield GaugeMetricFamily("eyeline_uptime_seconds", "Of the run", value=status.uptime_s)
    yield CounterMetricFamily(
        "eyeline_reloads", "Times that settings were read anew", value=status.reloads
    )
    yield GaugeMetricFamily(
        "eyeline_settings_refused", "1 if the newest were", value=bool(status.reload_error)
    )
    yield GaugeMetricFamily("eyeline_viewers", "Of live pictures", value=viewers)
    yield from _ledger(status)
    yield from _streams(run, status)
    yield from _stages(status)


def _ledger(status: RunStatus) -> Iterator[Metric]:
    captured = CounterMetricFamily(
        "eyeline_frames_captured",
        "Frames captured = delivered + dropped + failed + in flight",
        labels=("stream",),
    )
    delivered = CounterMetricFamily(
        "eyeline_frames_delivered", "Frames that went all the way", labels=("stream",)
    )
    dropped = CounterMetricFamily(
        "eyeline_frames_dropped", "Frames given up on purpose", labels=("stream", "cause")
    )
    failed = CounterMetricFamily(
        "eyeline_frames_failed", "Frames that could not be processed", labels=("stream", "cause")
    )
    in_flight = GaugeMetricFamily(
        "eyeline_frames_in_flight", "Frames on their way", labels=("stream",)
    )
    slots = GaugeMetricFamily(
        "eyeline_slots", "Frames that may be on their way at most", labels=("stream",)
    )
    for stream in status.streams:
        captured.add_metric((stream.name,), stream.captured)
        delivered.add_metric((stream.name,), stream.delivered)
        in_flight.add_metric((stream.name,), stream.in_flight)
        slots.add_metric((stream.name,), stream.slots)
        for family, causes in ((dropped, stream.dropped), (failed, stream.failed)):
            for cause, count in causes.items():
                family.add_metric((stream.name, cause), count)
    yield from (captured, delivered, dropped, failed, in_flight, slots)


def _streams(run: Run, status: RunStatus) -> Iterator[Metric]:
    info = InfoMetricFamily("eyeline_stream", "How it is read", labels=("stream",))
    state = StateSetMetricFamily("eyeline_stream_state", "How its source does", labels=("stream",))
    size = GaugeMetricFamily(
        "eyeline_picture_pixels", "Of the newest picture", labels=("stream", "side")
    )
    away = CounterMetricFamily(
        "eyeline_stream_away_seconds", "Tried, but gave nothing", labels=("stream",)
    )
    reconnects = CounterMetricFamily(
        "eyeline_stream_reconnects", "Times it came back", labels=("stream",)
    )
    latency = HistogramMetricFamily(
        "eyeline_latency_seconds", "From capture to the return of the slot", labels=("stream",)
    )
    hops = GaugeMetricFamily(
        "eyeline_hop_latency_seconds",
        "From capture to the moment the stage was through, over the whole run",
        labels=("stream", "stage", "quantile"),
    )
    for stream in status.streams:
        name = stream.name
        kind = "live" if stream.live else "file"
        info.add_metric((name,), {"decoder": stream.decoder, "kind": kind})
        current = stream.condition.state
        state.add_metric((name,), {value: value == current for value in STATES})
        size.add_metric((name, "width"), stream.width)
        size.add_metric((name, "height"), stream.height)
        away.add_metric((name,), stream.away_s)
        reconnects.add_metric((name,), stream.reconnects)
        for stage, at in stream.hops_ms.items():
            hops.add_metric((name, stage, "0.5"), at.p50 / 1e3)
            hops.add_metric((name, stage, "0.95"), at.p95 / 1e3)
            hops.add_metric((name, stage, "0.99"), at.p99 / 1e3)
        try:
            counts, sum_s = run.latency(name, BUCKETS_S)
        except KeyError:
            continue  # it has just gone
        # Read while others count: what was counted later must not make a bound exceed the next.
        bounds = [*(str(float(bound)) for bound in BUCKETS_S), "+Inf"]
        latency.add_metric((name,), list(zip(bounds, accumulate(counts, max), strict=True)), sum_s)
    yield from (info, state, size, away, reconnects, latency, hops)


def _stages(status: RunStatus) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "eyeline_stage", "What it reported: provider, decoder", labels=("stage",)
    )
    processed = CounterMetricFamily(
        "eyeline_stage_processed", "Frames worked on", labels=("stage",)
    )
    failed = CounterMetricFamily("eyeline_stage_failed", "Frames it failed on", labels=("stage",))
    restarts = CounterMetricFamily(
        "eyeline_stage_restarts", "Deaths that were repaired", labels=("stage",)
    )
    cpu = CounterMetricFamily("eyeline_stage_cpu_seconds", "Spent on frames", labels=("stage",))
    busy = GaugeMetricFamily(
        "eyeline_stage_busy_seconds",
        "Work on one frame, over the whole run",
        labels=("stage", "quantile"),
    )
    waited = GaugeMetricFamily(
        "eyeline_stage_wait_seconds", "Frames waited for it, on average", labels=("stage",)
    )
    workers = GaugeMetricFamily("eyeline_stage_workers", "Processes alive", labels=("stage",))
    in_hand = GaugeMetricFamily(
        "eyeline_stage_in_hand", "Frames in work at this moment", labels=("stage",)
    )
    counts = GaugeMetricFamily(
        "eyeline_stage_count", "What it counts beside frames", labels=("stage", "what")
    )
    for stage in status.stages:
        # Trouble comes and goes, and would make another metric each time.
        facts = {
            key: value
            for key, value in stage.info.items()
            if key.isidentifier() and key not in ("stage", "trouble")
        }
        info.add_metric((stage.name,), {"use": stage.use, **facts})
        processed.add_metric((stage.name,), stage.processed)
        failed.add_metric((stage.name,), stage.failed)
        restarts.add_metric((stage.name,), stage.restarts)
        cpu.add_metric((stage.name,), stage.cpu_s)
        busy.add_metric((stage.name, "0.5"), stage.busy_ms.p50 / 1e3)
        busy.add_metric((stage.name, "0.95"), stage.busy_ms.p95 / 1e3)
        busy.add_metric((stage.name, "0.99"), stage.busy_ms.p99 / 1e3)
        waited.add_metric((stage.name,), stage.waited_ms / 1e3)
        workers.add_metric((stage.name,), sum(1 for worker in stage.workers if worker.pid))
        in_hand.add_metric((stage.name,), sum(worker.in_hand for worker in stage.workers))
        for what, count in stage.counts.items():
            counts.add_metric((stage.name, what), count)
    yield from (info, processed, failed, restarts, cpu, busy, waited, workers, in_hand, counts)
