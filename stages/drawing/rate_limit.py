"""A limit of the images per second that a sink takes of a stream."""

from __future__ import annotations


class RateLimit:
    """Picks the frames of a stream so that no more than a number per second are taken.

    Args:
        fps: frames per second; None: no limit.
    """

    def __init__(self, fps: float | None) -> None:
        self._interval_ns = 0 if fps is None else round(1e9 / fps)
        self._due_ns = 0
        """Time from which on the next frame is taken, by the capture clock."""

    def is_due(self, captured_ns: int) -> bool:
        """Return whether to take a frame, and count it as taken.

        A frame a little early is taken: where the source's rate is the limit, or a multiple of it,
        its jitter must not cost every second frame.

        Args:
            captured_ns: time of capture, monotonic clock; that of the next frame must not be less.
        """
        if captured_ns < self._due_ns - self._interval_ns // 4:
            return False
        was_missed = captured_ns >= self._due_ns + self._interval_ns
        self._due_ns = (captured_ns if was_missed else self._due_ns) + self._interval_ns
        return True
