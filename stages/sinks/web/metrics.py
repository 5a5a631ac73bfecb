"""What the status page and Prometheus make of the numbers of a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

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

from pipeline.status import Run, RunStatus

STATES = ("opening", "live", "waiting", "paused", "ended")

BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
"""Bounds of the latency histograms that Prometheus gets; they never change, so that histories
can be compared."""


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
            for key, value in stage.facts.items()
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
