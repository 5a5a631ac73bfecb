"""Reading of a source as the worker does it, for tests; in another process too.

    python -m tests.reading '{"source": 7, "stall_timeout_s": 1}' '{"INITIAL_DELAY_S": 0.1}'

prints each change of condition and each image as a line of JSON, until standard input ends.
"""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

DEADLINE_S = 30.0
"""Longest wait for an event that must come."""


class TakenFrame(NamedTuple):
    """The parts of a frame that are kept."""

    image: Any
    source_ns: int
    captured_ns: int
    wall_ns: int
    used: int
    """Bytes of the slot in use."""
    arrays: dict[str, Any]


class Reading:
    """Offers frames, collects them, and records the changes of the condition."""

    def __init__(self, source: Any, context: Mapping[str, Any] | None = None, **settings: Any):
        from pipeline.stage import Context
        from stages.capture.capture import Capture
        from stages.capture.settings import CaptureSettings

        self.started_ns = time.monotonic_ns()
        self.frames: list[TakenFrame] = []
        self.conditions: list[Any] = []
        self.ended = False
        self.missed = np.zeros(2, int)
        self.capture = Capture(
            CaptureSettings(source=source, **settings),
            Context(**{"started_ns": self.started_ns, **(context or {})}),
        )
        self.capture.resolve(self.capture.settings)
        self._woken: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._memory = np.empty(1 << 23, np.uint8)

    def __enter__(self) -> Reading:
        try:
            self.capture.open()
            self.capture.start(lambda: self._woken.put(True))
        except BaseException:
            self.capture.close()
            raise
        self._offer()
        return self

    def __exit__(self, *error: object) -> None:
        self.capture.close()

    def _offer(self) -> None:
        from pipeline.frame import Frame
        from tests.builders import header

        blank = header(limit=self._memory.nbytes)
        self._frame = Frame(blank, "demo", memoryview(self._memory))
        self.capture.offer(self._frame)

    @property
    def states(self) -> list[str]:
        """States so far, without repetitions in a row."""
        states = [condition.state for condition in self.conditions]
        return [s for i, s in enumerate(states) if not i or s != states[i - 1]]

    @property
    def kinds(self) -> set[str]:
        """Kinds of all problems so far."""
        return {condition.kind for condition in self.conditions} - {""}

    def step(self, wait_s: float = 0.01) -> None:
        """Do one round of the worker's loop."""
        condition = self.capture.condition
        if not self.conditions or condition != self.conditions[-1]:
            self.conditions.append(condition)
        filled = self.capture.collect()
        self.missed += self.capture.missed()
        if filled:
            header = self._frame.header
            image = self._frame["image"].copy()
            self.frames.append(
                TakenFrame(
                    image,
                    header.source_ns,
                    header.captured_ns,
                    header.wall_ns,
                    header.used,
                    dict(header.arrays),
                )
            )
            self._offer()
        elif filled is None:
            try:
                self._woken.get(timeout=wait_s)
            except queue.Empty:
                pass
        else:
            self.ended = True

    def until(self, done: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Read until `done` returns true."""
        end = time.monotonic() + deadline_s
        while not done():
            assert time.monotonic() < end, f"timeout: {self.conditions}, {len(self.frames)}"
            assert not self.ended, f"ended: {self.conditions}"
            self.step()

    def until_state(self, state: str, kind: str = "") -> None:
        """Read until the source is in this state, for this reason."""

        def reached() -> bool:
            last = self.conditions[-1] if self.conditions else None
            return last is not None and (last.state, last.kind) == (state, kind)

        self.step(0.0)
        self.until(reached)

    def more(self, count: int) -> list[TakenFrame]:
        """Return the next `count` frames."""
        before = len(self.frames)
        self.until(lambda: len(self.frames) >= before + count)
        return self.frames[before:]

    def to_the_end(self) -> None:
        """Read until the source has ended."""
        end = time.monotonic() + DEADLINE_S
        while not self.ended:
            assert time.monotonic() < end, f"no end: {self.conditions}, {len(self.frames)}"
            self.step()


def held() -> tuple[int, int]:
    """Return the number of descriptors and of threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def main(settings: str, delays: str) -> None:
    """Read until standard input ends; print all events."""
    import run  # noqa: F401 - sets the environment that OpenCV reads when it is imported
    from pipeline.errors import EyelineError
    from stages import backoff
    from stages.capture import watchdog
    from tests.webcam import number_of

    for name, value in json.loads(delays).items():
        module = backoff if hasattr(backoff, name) else watchdog
        assert hasattr(module, name)
        setattr(module, name, value)

    def report(**event: Any) -> None:
        print(json.dumps(event), flush=True)  # noqa: T201 - the parent reads it

    try:
        with Reading(**json.loads(settings)) as reading:
            reported = 0
            while not reading.ended and not select.select([0], [], [], 0)[0]:
                reading.step()
                for condition in reading.conditions[reported:]:
                    report(state=condition.state, kind=condition.kind, text=condition.text)
                for frame in reading.frames:
                    shape = list(frame.image.shape)
                    report(number=number_of(frame.image), shape=shape, ns=frame.source_ns)
                reported = len(reading.conditions)
                reading.frames.clear()
    except EyelineError as error:
        report(error=type(error).__name__, kind=getattr(error, "kind", ""), text=str(error))
        os._exit(1)  # a thread that is stuck would have the interpreter abort
    report(threads=[thread.name for thread in threading.enumerate()])


if __name__ == "__main__":
    main(*sys.argv[1:3])
