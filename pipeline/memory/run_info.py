"""The facts of a run that only the supervisor knows, published in shared memory for all workers."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from pipeline.memory.shared import WORD, SharedMemory
from pipeline.status import SourceState

MAX_BYTES = 8 << 20
"""Room for the facts of thousands of streams; untouched memory costs nothing."""
REPLIES_KEPT = 32
"""Newest answers to requests that are published."""


class StreamInfo(msgspec.Struct, frozen=True):
    """Facts of a stream that the supervisor knows."""

    index: int
    name: str
    source: str
    """Address without credentials."""
    live: bool
    condition: SourceState
    since_ns: int
    """Monotonic time of the last change of the condition."""
    decoder: str


class WorkerInfo(msgspec.Struct, frozen=True):
    """Facts of a worker that the supervisor knows."""

    row: int
    """Row of the worker in the worker table."""
    name: str
    pid: int
    stages: list[int]
    """Indices of the stages that it runs."""


class StageInfo(msgspec.Struct, frozen=True):
    """Facts of a stage that the supervisor knows."""

    name: str
    use: str
    after: str | None
    restarts: int
    info: dict[str, str]
    counts: dict[str, int]


class RunInfo(msgspec.Struct, frozen=True):
    """All facts of a run that only the supervisor knows."""

    config: str = ""
    """Name of the settings file."""
    start_ns: int = 0
    """Monotonic time of the start."""
    phase: Literal["running", "draining", "closing"] = "running"
    ready: bool = False
    reloads: int = 0
    reload_error: str = ""
    streams: list[StreamInfo] = []
    workers: list[WorkerInfo] = []
    stages: list[StageInfo] = []
    replies: dict[str, str] = {}
    """Id of a request -> its answer, for the newest requests."""


class SharedRunInfo:
    """The newest `RunInfo` in shared memory, written by the supervisor, read by all (a seqlock).

    A word counts the changes and is odd during a change: a reader that sees it odd, or different
    after reading, reads again.
    """

    def __init__(self) -> None:
        self._memory = SharedMemory("eyeline:run_info", MAX_BYTES)
        self.post(RunInfo())

    def post(self, info: RunInfo) -> None:
        """Publish new facts in place of the old ones."""
        body = msgspec.msgpack.encode(info)
        if len(body) > MAX_BYTES - 2 * WORD:
            return  # keep the old ones: nothing that runs depends on them
        words = self._memory.words
        words[0] += 1
        words[1] = len(body)
        self._memory.bytes[2 * WORD : 2 * WORD + len(body)] = body
        words[0] += 1

    def read(self) -> RunInfo:
        """Return the newest facts."""
        words = self._memory.words
        for _ in range(100):
            before = words[0]
            body = bytes(self._memory.bytes[2 * WORD : 2 * WORD + words[1]])
            if before % 2 == 0 and words[0] == before:
                return msgspec.msgpack.decode(body, type=RunInfo)
            time.sleep(0.001)
        return RunInfo()  # the supervisor was stopped or killed while it wrote
