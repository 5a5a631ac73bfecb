"""Pacing: when to take the next image of a live source, so that work begins on a new one.

Where a worker is slower than the source, frames would wait before it, for as many of its turns as
there are slots, and grow old. So no image is taken before it is due: when the slowest worker will
be free, less the time from capture to that worker, less one interval of the source, since an image
has to come first. Stages of one worker that wait for each other are its work, not a queue.

The spans of a frame are known once it is returned. That congestion shows first as delay, and that
a sender can keep a bottleneck busy with next to no queue by measuring both, is from congestion
control: Brakmo and Peterson, "TCP Vegas", 1995; Cardwell et al., "BBR", 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.frame import Span

NOISE_NS = 2_000_000
"""A wait up to this long is noise: the stage was free."""
MAX_SURPRISE_NS = 50_000_000
"""A turn counts as at most so much longer than twice the estimate; longer ones follow a crash."""


class Pacer:
    """Pace of one stream; all times are monotonic, in nanoseconds."""

    def __init__(self, after: Mapping[int, int]) -> None:
        """Start without a delay.

        Args:
            after: index of a stage -> index of the stage that it follows.
        """
        self._after = after
        self._interval_ns = 0.0
        """Estimated time between two images of the source."""
        self._captured_ns = -1
        self._waits_ns = dict.fromkeys(after, 0.0)
        """Stage -> estimated time that frames wait until its worker takes them."""
        self._taken: dict[int, tuple[int, int]] = {}
        """Stage -> latest frame known to be through: its number, and when it was taken."""
        self._turn_ns = self._spread_ns = 0.0
        """Estimated time from frame to frame at the slowest stage, and its mean deviation."""
        self._way_ns = 0
        """Time from capture to the queue of the slowest stage."""
        self._slowest = -1
        self._alone: set[int] = set()
        """Numbers of the frames that were alone in flight when they were taken."""

    def lent(self, seq: int, captured_ns: int, missed: int, alone: bool) -> None:
        """Record that an image was taken.

        Args:
            seq: number of the frame that it became.
            captured_ns: time of capture.
            missed: images that came since the one before and were not taken.
            alone: whether no other frame of the stream is in flight.
        """
        if alone:
            self._alone.add(seq)
        if self._captured_ns >= 0:
            interval_ns = (captured_ns - self._captured_ns) / (missed + 1)
            if self._interval_ns:
                interval_ns = min(interval_ns, 2 * self._interval_ns + MAX_SURPRISE_NS)
                interval_ns = self._interval_ns + (interval_ns - self._interval_ns) / 8
            self._interval_ns = interval_ns
        self._captured_ns = captured_ns

    def returned(self, seq: int, captured_ns: int, spans: Sequence[Span]) -> None:
        """Learn from a frame that was delivered.

        Args:
            seq: its number.
            captured_ns: time of capture.
            spans: work of the stages on it.
        """
        by_stage = {span.stage: span for span in spans}
        waits_ns = {}
        takens_ns = {}
        for span in spans:
            before = by_stage.get(self._after.get(span.stage, -1))
            if before is None or (before.worker, before.taken_ns) == (span.worker, span.taken_ns):
                continue
            wait_ns = waits_ns[span.stage] = span.taken_ns - before.end_ns
            takens_ns[span.stage] = span.taken_ns
            self._waits_ns[span.stage] += (wait_ns - self._waits_ns[span.stage]) / 4
        if not waits_ns:
            return
        self._slowest = slowest = max(waits_ns, key=self._waits_ns.__getitem__)
        known = self._taken.get(slowest)
        if known is not None and seq > known[0]:
            turn_ns = (takens_ns[slowest] - known[1]) / (seq - known[0])
            self._learn(waits_ns[slowest], turn_ns, seq in self._alone)
        self._alone = {other for other in self._alone if other > seq}
        self._way_ns = by_stage[self._after[slowest]].end_ns - captured_ns
        for stage, taken_ns in takens_ns.items():
            if seq > self._taken.get(stage, (-1, 0))[0]:
                self._taken[stage] = seq, taken_ns

    def _learn(self, wait_ns: int, turn_ns: float, alone: bool) -> None:
        if alone:
            # It waited for other streams, and to come later would only leave them more turns.
            turn_ns = min(turn_ns, self._turn_ns)
        if wait_ns <= NOISE_NS:
            # The stage was free: be earlier. With another frame of the stream before it, that was
            # for less than one interval of the source; else for an unknown time.
            limit_ns = self._turn_ns if alone else self._interval_ns + 8 * NOISE_NS
            self._turn_ns -= min(self._turn_ns, limit_ns) / 8
            return
        off_ns = min(turn_ns, 2 * self._turn_ns + MAX_SURPRISE_NS) - self._turn_ns
        self._turn_ns += off_ns / 4
        self._spread_ns += (abs(off_ns) - self._spread_ns) / 4

    def due_ns(self, seq: int) -> float:
        """Return the time from which the image for frame `seq` may be taken; 0: at once."""
        if self._slowest not in self._taken:
            return 0.0
        known, taken_ns = self._taken[self._slowest]
        free_ns = taken_ns + (seq - known) * self._turn_ns
        return free_ns - self._way_ns - self._interval_ns - self._spread_ns - NOISE_NS
