"""Metrics of a run in the formats of Prometheus and OpenMetrics."""

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

from pipeline.status import RunHandle, RunStatus

STATES = ("opening", "live", "waiting", "paused", "ended")

BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
"""Bounds of the latency histograms, seconds; never changed, so that histories can be compared."""


def exposition(run: RunHandle, viewers: int, accept: str) -> tuple[bytes, str]:
    """Return the metrics of a run as text, and its content type.

    Args:
        run: run to read.
        viewers: number of viewers now.
        accept: `Accept` header of the request, which selects the format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(list(_metrics(run, viewers))))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    """Metrics that are already collected.

    Args:
        metrics: metrics to return.
    """

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _metrics(run: RunHandle, viewers: int) -> Iterator[Metric]:
    """Yield all metrics."""
    status = run.status()
    yield InfoMetricFamily(
        "eyeline",
        "Version of Eyeline and name of its settings file",
        value={"version": status.version, "config": status.config},
    )
    yield GaugeMetricFamily(
        "eyeline_ready",
        "1 if every stage is open and every stream has given an image or is known to wait, else 0",
        value=status.ready,
    )
    yield GaugeMetricFamily(
        "eyeline_uptime_seconds", "Seconds since the run started", value=status.uptime_s
    )
    yield CounterMetricFamily(
        "eyeline_reloads", "Number of times the settings were reloaded", value=status.reloads
    )
    yield GaugeMetricFamily(
        "eyeline_settings_refused",
        "1 if the latest reload was refused, else 0",
        value=bool(status.reload_error),
    )
    yield GaugeMetricFamily(
        "eyeline_viewers", "Number of connected viewers: pages and image streams", value=viewers
    )
    yield from _ledger(status)
    yield from _streams(run, status)
    yield from _stages(status)


def _ledger(status: RunStatus) -> Iterator[Metric]:
    captured = CounterMetricFamily(
        "eyeline_frames_captured",
        "Number of captured frames: delivered + dropped + failed + in flight",
        labels=("stream",),
    )
    delivered = CounterMetricFamily(
        "eyeline_frames_delivered", "Number of frames that passed all stages", labels=("stream",)
    )
    dropped = CounterMetricFamily(
        "eyeline_frames_dropped",
        "Number of frames dropped on purpose, by cause",
        labels=("stream", "cause"),
    )
    failed = CounterMetricFamily(
        "eyeline_frames_failed",
        "Number of frames that could not be processed, by cause",
        labels=("stream", "cause"),
    )
    in_flight = GaugeMetricFamily(
        "eyeline_frames_in_flight", "Number of frames in the pipeline now", labels=("stream",)
    )
    slots = GaugeMetricFamily(
        "eyeline_slots", "Maximum number of frames in the pipeline", labels=("stream",)
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


def _streams(run: RunHandle, status: RunStatus) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "eyeline_stream",
        "Decoder and kind (live or file) of the source of a stream",
        labels=("stream",),
    )
    state = StateSetMetricFamily(
        "eyeline_stream_state",
        "State of the source of a stream: 1 for the current state, else 0",
        labels=("stream",),
    )
    size = GaugeMetricFamily(
        "eyeline_picture_pixels",
        "Width and height of the newest image of a stream",
        labels=("stream", "side"),
    )
    away = CounterMetricFamily(
        "eyeline_stream_away_seconds",
        "Seconds in which the source of a stream was tried but gave no image",
        labels=("stream",),
    )
    reconnects = CounterMetricFamily(
        "eyeline_stream_reconnects",
        "Number of times the source of a stream became available again",
        labels=("stream",),
    )
    latency = HistogramMetricFamily(
        "eyeline_latency_seconds",
        "Seconds from the capture of a frame to the release of its slot",
        labels=("stream",),
    )
    hops = GaugeMetricFamily(
        "eyeline_hop_latency_seconds",
        "Seconds from the capture of a frame until the stage has processed it, over the whole run",
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
            continue  # removed since `status`
        # Read while workers count: a frame counted meanwhile must not make a bound exceed the next.
        bounds = [*(str(float(bound)) for bound in BUCKETS_S), "+Inf"]
        latency.add_metric((name,), list(zip(bounds, accumulate(counts, max), strict=True)), sum_s)
    yield from (info, state, size, away, reconnects, latency, hops)


def _stages(status: RunStatus) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "eyeline_stage",
        "Kind of a stage (`use`), and properties that it reports, such as its provider",
        labels=("stage",),
    )
    processed = CounterMetricFamily(
        "eyeline_stage_processed", "Number of frames processed by a stage", labels=("stage",)
    )
    failed = CounterMetricFamily(
        "eyeline_stage_failed", "Number of frames on which a stage failed", labels=("stage",)
    )
    restarts = CounterMetricFamily(
        "eyeline_stage_restarts",
        "Number of times a process of a stage died and was restarted",
        labels=("stage",),
    )
    cpu = CounterMetricFamily(
        "eyeline_stage_cpu_seconds",
        "Seconds of CPU time that a stage spent on frames",
        labels=("stage",),
    )
    busy = GaugeMetricFamily(
        "eyeline_stage_busy_seconds",
        "Seconds that a stage works on one frame, over the whole run",
        labels=("stage", "quantile"),
    )
    waited = GaugeMetricFamily(
        "eyeline_stage_wait_seconds",
        "Mean seconds that a frame waits for a stage",
        labels=("stage",),
    )
    workers = GaugeMetricFamily(
        "eyeline_stage_workers", "Number of running processes of a stage", labels=("stage",)
    )
    in_hand = GaugeMetricFamily(
        "eyeline_stage_in_hand",
        "Number of frames that a stage is working on now",
        labels=("stage",),
    )
    counts = GaugeMetricFamily(
        "eyeline_stage_count",
        "Value of a counter of a stage, for other things than frames",
        labels=("stage", "what"),
    )
    for stage in status.stages:
        # A text about trouble changes often, and each text would make a new time series.
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
