"""A source that is read as the worker does it, for tests; of another process by its lines.

    python -m tests.reading '{"source": 7, "stall_timeout_s": 1}' '{"INITIAL_DELAY_S": 0.1}'

prints each change of condition and each picture as a line of JSON, until standard input ends.
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
"""For what is about to come; none is waited for in vain."""


class Picture(NamedTuple):
    """What is kept of a frame."""

    image: Any
    source_ns: int
    captured_ns: int
    wall_ns: int
    used: int
    """Bytes of the slot."""
    arrays: dict[str, Any]


class Reading:
    """Offers a frame, collects it, and looks at the condition, again and again."""

    def __init__(self, source: Any, context: Mapping[str, Any] | None = None, **settings: Any):
        from pipeline.stage import Context
        from stages.capture.capture import Capture
        from stages.capture.settings import CaptureSettings

        self.started_ns = time.monotonic_ns()
        self.pictures: list[Picture] = []
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
        """The states so far, each once in a row."""
        states = [condition.state for condition in self.conditions]
        return [s for i, s in enumerate(states) if not i or s != states[i - 1]]

    @property
    def kinds(self) -> set[str]:
        """Every reason to wait so far."""
        return {condition.kind for condition in self.conditions} - {""}

    def step(self, wait_s: float = 0.01) -> None:
        """Do once what the worker does in a loop."""
        condition = self.capture.condition
        if not self.conditions or condition != self.conditions[-1]:
            self.conditions.append(condition)
        filled = self.capture.collect()
        self.missed += self.capture.missed()
        if filled:
            header = self._frame.header
            image = self._frame["image"].copy()
            self.pictures.append(
                Picture(
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
        """Go on until something is so."""
        end = time.monotonic() + deadline_s
        while not done():
            assert time.monotonic() < end, f"in vain: {self.conditions}, {len(self.pictures)}"
            assert not self.ended, f"ended: {self.conditions}"
            self.step()

    def until_state(self, state: str, kind: str = "") -> None:
        """Go on until the source is in this state, for this reason."""

        def so() -> bool:
            last = self.conditions[-1] if self.conditions else None
            return last is not None and (last.state, last.kind) == (state, kind)

        self.step(0.0)
        self.until(so)

    def more(self, pictures: int) -> list[Picture]:
        """The next so many pictures."""
        before = len(self.pictures)
        self.until(lambda: len(self.pictures) >= before + pictures)
        return self.pictures[before:]

    def to_the_end(self) -> None:
        """Go on until the source has ended."""
        end = time.monotonic() + DEADLINE_S
        while not self.ended:
            assert time.monotonic() < end, f"no end: {self.conditions}, {len(self.pictures)}"
            self.step()


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def main(settings: str, delays: str) -> None:
    """Read until standard input ends; say everything."""
    import run  # noqa: F401 - sets the environment that OpenCV reads when it is imported
    from pipeline.errors import EyelineError
    from stages import backoff
    from stages.capture import watchdog
    from tests.webcam import number_of

    for name, value in json.loads(delays).items():
        module = backoff if hasattr(backoff, name) else watchdog
        assert hasattr(module, name)
        setattr(module, name, value)

    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)  # noqa: T201 - who started it reads it

    try:
        with Reading(**json.loads(settings)) as reading:
            told = 0
            while not reading.ended and not select.select([0], [], [], 0)[0]:
                reading.step()
                for condition in reading.conditions[told:]:
                    say(state=condition.state, kind=condition.kind, text=condition.text)
                for picture in reading.pictures:
                    shape = list(picture.image.shape)
                    say(number=number_of(picture.image), shape=shape, ns=picture.source_ns)
                told = len(reading.conditions)
                reading.pictures.clear()
    except EyelineError as error:
        say(error=type(error).__name__, kind=getattr(error, "kind", ""), text=str(error))
        os._exit(1)  # a thread that is stuck would have the interpreter abort
    say(threads=[thread.name for thread in threading.enumerate()])


if __name__ == "__main__":
    main(*sys.argv[1:3])
