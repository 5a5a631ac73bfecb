"""A limit on how long onnxruntime may load a model.

It computes what is constant in a graph while it loads it, and a small file can hold hours of that.
It can be asked to stop, but looks at that request only between the passes over a graph; where it
does not stop, the process has to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MIN_LOAD_S = 30.0
"""How long a model may take to load, and longer by its size."""
LOAD_BYTES_PER_S = 10e6
"""A slow card reads so fast."""
STOP_S = 3.0
"""How long onnxruntime may take to stop, once it is asked to."""


def limit_s(size_bytes: int) -> float:
    """Return how long a model of a size may take to load."""
    return MIN_LOAD_S + size_bytes / LOAD_BYTES_PER_S


@contextmanager
def limited(
    seconds: float, stop: Callable[[], object], stuck: Callable[[], object]
) -> Iterator[None]:
    """Watch over what is done inside, from a thread that ends with it.

    Args:
        seconds: how long it may take.
        stop: called then; asks it to stop.
        stuck: called if it has not stopped a little later.
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
