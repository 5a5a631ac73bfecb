"""A time limit for loading a model in onnxruntime.

It computes the constants of a graph while it loads it, and a small file can hold hours of that. It
can be asked to stop, but checks for that only between the passes over a graph; where it does not
stop, the process has to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MIN_LOAD_S = 30.0
"""Time limit for a model without weights; `LOAD_BYTES_PER_S` adds to it."""
LOAD_BYTES_PER_S = 10e6
"""Reading rate of a slow memory card."""
STOP_S = 3.0
"""Time for onnxruntime to stop after a request."""


def limit_s(size_bytes: int) -> float:
    """Return the time limit for a model of a size."""
    return MIN_LOAD_S + size_bytes / LOAD_BYTES_PER_S


@contextmanager
def limited(
    seconds: float, stop: Callable[[], object], stuck: Callable[[], object]
) -> Iterator[None]:
    """Limit the time of the block, by a thread that ends with it.

    Args:
        seconds: time limit.
        stop: called at the limit; asks the block to stop.
        stuck: called if the block is still running `STOP_S` later.
    """
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            stop()
            if not done.wait(STOP_S):
                stuck()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
