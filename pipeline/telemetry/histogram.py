"""Histograms of durations in shared memory, and the percentiles that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.status import Percentiles

_SUB_BITS = 4
_OCTAVES = 34
_BUCKETS = _OCTAVES << _SUB_BITS
_COUNT, _SUM, _MAX = range(3)
HISTOGRAM_WORDS = _BUCKETS + 3
"""Words of shared memory that a histogram takes."""


class Histogram:
    """Counts of durations in buckets whose width grows with the duration: 16 per octave.

    Percentiles are exact within 3 %. The range is 1 us to about four hours; longer durations count
    in the last bucket. The scheme is that of HdrHistogram.
    """

    def __init__(self, words: memoryview, at: int) -> None:
        self._words, self._at = words, at

    def record(self, duration_ns: int) -> None:
        """Count one duration."""
        words, at = self._words, self._at
        us = max(duration_ns, 0) >> 10
        octave = max(us.bit_length() - _SUB_BITS - 1, 0)
        index = min((octave << _SUB_BITS) + (us >> octave), _BUCKETS - 1)
        words[at + 3 + index] += 1
        words[at + _COUNT] += 1
        words[at + _SUM] += duration_ns
        if duration_ns > words[at + _MAX]:
            words[at + _MAX] = duration_ns

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self._words[self._at + _COUNT])

    @property
    def sum_ns(self) -> int:
        """Sum of all durations in nanoseconds."""
        return int(self._words[self._at + _SUM])

    def buckets(self) -> list[int]:
        """Return a copy of the counts, to subtract from later ones or to add to others."""
        start = self._at + 3
        return self._words[start : start + _BUCKETS].tolist()

    def max_ms(self) -> float:
        """Return the longest duration in milliseconds."""
        return int(self._words[self._at + _MAX]) / 1e6

    def percentiles(self) -> Percentiles:
        """Return the percentiles of all durations."""
        return percentiles(self.buckets(), self.max_ms())

    def up_to(self, bounds_s: Sequence[float]) -> list[int]:
        """Return how many durations were at most each bound, then the number of all.

        Args:
            bounds_s: upper bounds in seconds, rising.
        """
        counts, found, seen, index = self.buckets(), [], 0, 0
        for bound_s in bounds_s:
            while index < _BUCKETS and _middle_ms(index) <= bound_s * 1e3:
                seen += counts[index]
                index += 1
            found.append(seen)
        return [*found, sum(counts)]


def percentiles(buckets: Sequence[int], max_ms: float) -> Percentiles:
    """Return the percentiles of counts; none is above `max_ms`.

    Args:
        buckets: counts as `Histogram.buckets` returns them.
        max_ms: longest duration in milliseconds.
    """
    total = sum(buckets)
    if not total:
        return Percentiles(0.0, 0.0, 0.0, 0.0)
    found = []
    for share in (0.50, 0.95, 0.99):
        rank, seen, index = share * total, 0, 0
        for index, count in enumerate(buckets):  # noqa: B007 - the index is the answer
            seen += count
            if seen >= rank:
                break
        found.append(min(_middle_ms(index), max_ms))
    return Percentiles(*(round(value, 3) for value in (*found, max_ms)))


def _middle_ms(index: int) -> float:
    octave = max((index >> _SUB_BITS) - 1, 0)
    low_us = (index - (octave << _SUB_BITS)) << octave
    return (low_us + (1 << octave) / 2) * 1024 / 1e6
