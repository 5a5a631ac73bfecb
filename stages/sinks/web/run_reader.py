"""The run as the server sees it: status and metrics, cached for a moment, and requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from pipeline.context import Log
from pipeline.status import RunHandle, RunStatus
from stages.sinks.web.activity import ActivityLog
from stages.sinks.web.health import HEALTHY, Health, readiness
from stages.sinks.web.history import SAMPLE_INTERVAL_S, History
from stages.sinks.web.metrics import exposition

STATUS_TTL_S = 0.25
METRICS_TTL_S = 1.0

T = TypeVar("T")


class TtlCache(Generic[T]):
    """A value that is computed at most once in so many seconds, however many ask for it.

    Args:
        compute: called in the executor.
        ttl_s: time for which the value is kept, seconds.
        executor: of one thread.
    """

    def __init__(self, compute: Callable[[], T], ttl_s: float, executor: ThreadPoolExecutor):
        self._compute, self._ttl_s, self._executor = compute, ttl_s, executor
        self._cached: tuple[float, T] | None = None
        """Monotonic time of computing, and the value."""
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """Return the value, recomputed if it is older than `ttl_s`."""
        async with self._lock:
            if self._cached is None or time.monotonic() - self._cached[0] > self._ttl_s:
                loop = asyncio.get_running_loop()
                value = await loop.run_in_executor(self._executor, self._compute)
                self._cached = (time.monotonic(), value)
            return self._cached[1]


class CachedStatus(NamedTuple):
    """Status of the run, with its JSON."""

    value: RunStatus
    json: bytes


class RunReader:
    """Reads the run in one thread, as its view is for one, and sends requests from two others.

    Args:
        run: run to read.
        activity: receives changes of streams and stages.
        viewers: returns the number of viewers now.
        log: logger of the stage.
    """

    def __init__(
        self, run: RunHandle, activity: ActivityLog, viewers: Callable[[], int], log: Log
    ) -> None:
        self._run, self._viewers, self._log = run, viewers, log
        self._history = History(run, activity)
        self.samples = self._history.samples
        """Stream -> its samples, oldest first."""
        self._reader = ThreadPoolExecutor(1, "reader")
        self._requester = ThreadPoolExecutor(2, "requester")
        self.status = TtlCache(self._read_status, STATUS_TTL_S, self._reader)
        """Status of the run."""
        self.metrics, self.openmetrics = (
            TtlCache(partial(self._read_metrics, accept), METRICS_TTL_S, self._reader)
            for accept in ("", "application/openmetrics-text; version=1.0.0")
        )
        """Metrics in each of the two formats, with their content type."""

    async def health(self, path: str) -> Health:
        """Answer a health check with what every client may know."""
        return HEALTHY if path == "/healthz" else readiness((await self.status.get()).value)

    async def request(self, request: str, **arguments: Any) -> str:
        """Send a request as `RunHandle.ask` does; return "" or why it is refused."""
        return await self.call(partial(self._run.ask, request, **arguments))

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function that may take long, outside of the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._requester, function)

    async def sample(self) -> None:
        """Sample the streams at intervals, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            took_s = await loop.run_in_executor(self._reader, self._sample)
            # Hundreds of streams take long: then less often, so that it takes 2 % of a core.
            await asyncio.sleep(max(SAMPLE_INTERVAL_S, 50 * took_s))

    def close(self) -> None:
        """End the threads, without waiting for requests that have no answer yet."""
        self._requester.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown()

    def _read_status(self) -> CachedStatus:
        status = self._run.status()
        return CachedStatus(status, msgspec.json.encode(status))

    def _read_metrics(self, accept: str) -> tuple[bytes, str]:
        return exposition(self._run, self._viewers(), accept)

    def _sample(self) -> float:
        started_s = time.thread_time()
        try:
            self._history.sample()
        except Exception as error:
            self._log.debug("no sample: %s: %s", type(error).__name__, error)
        return time.thread_time() - started_s
