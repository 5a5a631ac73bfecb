"""A run as seen from one of its own stages: what a status page shows, and what it may ask for.

Every number is read from shared memory at the moment of asking; what only the supervisor knows
(states, process ids, restarts) it writes into a bulletin there. Requests go to the supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from pipeline.telemetry.counters import Percentiles

State = Literal["opening", "live", "waiting", "paused", "ended"]


class Condition(msgspec.Struct, frozen=True):
    """How a source is doing."""

    state: State = "opening"
    """opening: not tried yet; live: gives pictures; waiting: away, and tried again; paused: left
    alone on purpose; ended: gives no more."""
    kind: str = ""
    """Why it waits, for programs: unauthorized, not_found, unknown_host, refused, unreachable,
    timeout, frozen (answers, but gives no new picture), closed (the other side ended it),
    no_device, unsupported, failed."""
    text: str = ""
    """The same in words, without credentials, with what a person can do about it."""
    retry_s: float = 0.0
    """Seconds from this change of state to the next attempt."""


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream now. Counters are of the whole run."""

    name: str
    source: str
    """Without credentials."""
    condition: Condition
    since_s: float
    """Seconds since the condition changed."""
    away_s: float
    """Seconds in all in which the source was tried but gave nothing."""
    reconnects: int
    """Times it came back."""
    live: bool
    decoder: str
    width: int
    """Of the newest picture, pixels; 0 before the first."""
    height: int
    fps: float
    """Delivered per second from the first frame to the newest."""
    slots: int
    captured: int
    delivered: int
    dropped: dict[str, int]
    failed: dict[str, int]
    in_flight: int
    latency_ms: Percentiles
    """From capture to the return of the slot."""
    hops_ms: dict[str, Percentiles]
    """Stage -> from capture to the moment the stage was through with the frame."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One process."""

    name: str
    pid: int
    """0 while it is being started again."""
    in_hand: int
    """Frames it works on at this moment."""


class StageStatus(msgspec.Struct, frozen=True):
    """One stage now, over all of its processes."""

    name: str
    use: str
    after: str | None
    processed: int
    failed: int
    restarts: int
    busy_ms: Percentiles
    """Of its work on one frame."""
    waited_ms: float
    """How long frames waited for it on average; times their rate it is the queue before it."""
    cpu_s: float
    info: dict[str, str] = msgspec.field(name="facts")
    """See `Stage.info`: provider, decoder."""
    counts: dict[str, int]
    """What it counts beside frames; see `Stage.counters`."""
    workers: list[WorkerStatus]


class RunStatus(msgspec.Struct, frozen=True):
    """The whole run now; as JSON this is what /api/status answers."""

    version: str
    config: str
    pid: int
    """Of the supervisor."""
    now: str
    """Wall clock, ISO 8601, UTC."""
    uptime_s: float
    phase: Literal["running", "draining", "closing"]
    ready: bool
    """Every stage is open, and every stream has given a picture or is known to wait."""
    reloads: int
    reload_error: str
    """Why the newest settings were refused; empty if they were not."""
    streams: list[StreamStatus]
    stages: list[StageStatus]


class Run(Protocol):
    """What a stage finds in `self.run` once it is open."""

    def status(self) -> RunStatus:
        """Everything, now. Takes about a millisecond per stream."""

    def latency(self, stream: str, bounds_s: Sequence[float]) -> tuple[list[int], float]:
        """Latency for a Prometheus histogram.

        Returns:
            For each bound how many frames took at most so long, then how many there were in all;
            and the sum of their latencies in seconds.

        Raises:
            KeyError: no such stream.
        """

    def ask(self, request: str, timeout_s: float = 5.0, **arguments: Any) -> str:
        """Have the supervisor do something; from any thread.

        Args:
            request: "pause", "resume", "remove" (arguments: stream), "add" (stream, settings as
                under `streams` in the settings file), "reload".
            timeout_s: how long to wait for the answer.
            arguments: as above.

        Returns:
            "" if it is done or under way, else in words why not.
        """
