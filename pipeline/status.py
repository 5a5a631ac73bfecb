"""The state of a run, as one of its own stages reads it: what a status page shows and requests.

Every number is read from shared memory at the moment of the call; facts that only the supervisor
knows (states of sources, process ids, restarts) it publishes there. Requests go to the supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

VERSION = "0.1.0"

State = Literal["opening", "live", "waiting", "paused", "ended"]


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of durations in milliseconds; 0 if there were no durations."""

    p50: float
    p95: float
    p99: float
    max: float


class SourceState(msgspec.Struct, frozen=True):
    """State of a source, with the reason if it does not give images."""

    state: State = "opening"
    """opening: not tried yet; live: gives images; waiting: unreachable, and retried; paused: not
    read, on request; ended: gives no more images."""
    kind: str = ""
    """Reason for waiting, for programs: unauthorized, not_found, unknown_host, refused,
    unreachable, timeout, frozen (answers, but gives no new image), closed (by the other side),
    no_device, unsupported, failed."""
    text: str = ""
    """Reason in words, without credentials, with advice for the user."""
    retry_s: float = 0.0
    """Seconds from this change of state to the next attempt."""


class StreamStatus(msgspec.Struct, frozen=True):
    """Current status of one stream. Counters are totals of the whole run."""

    name: str
    source: str
    """Address without credentials."""
    condition: SourceState
    since_s: float
    """Seconds since the state of the source changed."""
    away_s: float
    """Total seconds in which the source was retried and gave nothing."""
    reconnects: int
    """Number of reconnections of the source."""
    live: bool
    decoder: str
    width: int
    """Width of the newest frame in pixels; 0 before the first."""
    height: int
    """Height of the newest frame in pixels; 0 before the first."""
    fps: float
    """Delivered frames per second, from the first frame to the newest."""
    slots: int
    captured: int
    delivered: int
    dropped: dict[str, int]
    """Cause -> frames."""
    failed: dict[str, int]
    """Cause -> frames."""
    in_flight: int
    latency_ms: Percentiles
    """Times from capture to the return of the slot."""
    hops_ms: dict[str, Percentiles]
    """Stage -> times from capture until the stage had finished the frame."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """Current status of one process."""

    name: str
    pid: int
    """Process id; 0 while it is being restarted."""
    in_hand: int
    """Frames that it is working on."""


class StageStatus(msgspec.Struct, frozen=True):
    """Current status of one stage, over all of its processes."""

    name: str
    use: str
    after: str | None
    """Stage before it."""
    processed: int
    failed: int
    restarts: int
    busy_ms: Percentiles
    """Times of its work on one frame."""
    waited_ms: float
    """Mean time that frames waited for the stage; multiplied by their rate, the queue before it."""
    cpu_s: float
    info: dict[str, str] = msgspec.field(name="facts")
    """Facts that the stage reports: provider, decoder; see `Stage.info`."""
    counts: dict[str, int]
    """Counts beside frames; see `Stage.counters`."""
    workers: list[WorkerStatus]


class RunStatus(msgspec.Struct, frozen=True):
    """Current status of the whole run; as JSON, the answer of /api/status."""

    version: str
    config: str
    """Name of the settings file."""
    pid: int
    """Process id of the supervisor."""
    now: str
    """Wall-clock time, ISO 8601, UTC."""
    uptime_s: float
    phase: Literal["running", "draining", "closing"]
    ready: bool
    """Whether every stage is open and every stream has given an image or is known to wait."""
    reloads: int
    """Number of accepted reloads of the settings."""
    reload_error: str
    """Reason for which the newest settings were refused; empty if they were not."""
    streams: list[StreamStatus]
    stages: list[StageStatus]


class RunHandle(Protocol):
    """The run as a stage finds it in `self.run` once it is open."""

    def status(self) -> RunStatus:
        """Return the current status. Takes about a millisecond per stream."""

    def latency(self, stream: str, bounds_s: Sequence[float]) -> tuple[list[int], float]:
        """Return the latency of a stream for a Prometheus histogram.

        Args:
            stream: name of the stream.
            bounds_s: upper bounds of the buckets, rising, in seconds.

        Returns:
            For each bound the number of frames that took at most that long, then the number of all
            frames; and the sum of their latencies in seconds.

        Raises:
            KeyError: no such stream.
        """

    def ask(self, request: str, timeout_s: float = 5.0, **arguments: Any) -> str:
        """Send a request to the supervisor and wait for the answer; from any thread.

        Args:
            request: "pause", "resume", "remove" (arguments: stream), "add" (stream, settings as
                under `streams` in the settings file), "reload".
            timeout_s: how long to wait for the answer.
            arguments: as above.

        Returns:
            "" if it is done or in progress, else the reason why not.
        """
