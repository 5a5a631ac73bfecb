"""Counters of streams and stages in shared memory: for the live table, the summary, the metrics.

Each row has one writer and survives it: a restarted worker continues counting where its predecessor
was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.frame import Span
from pipeline.memory.shared import WORD, SharedMemory
from pipeline.status import Percentiles
from pipeline.telemetry.histogram import HISTOGRAM_WORDS, Histogram, percentiles

_HOP_WORDS = 1 + HISTOGRAM_WORDS


class StageRow:
    """Counts of one worker for one of its stages."""

    WORDS = 5 + HISTOGRAM_WORDS

    def __init__(self, words: memoryview, at: int) -> None:
        self._words, self._at = words, at
        self.busy = Histogram(words, at + 5)

    def count(self, busy_ns: int, cpu_ns: int, frames: int = 1) -> None:
        """Count processed frames.

        Args:
            busy_ns: time that the stage worked on all of them.
            cpu_ns: CPU time of the whole process meanwhile.
            frames: number of frames.
        """
        words, at = self._words, self._at
        words[at] += frames
        words[at + 1] += cpu_ns
        for _ in range(frames):
            self.busy.record(busy_ns // frames)

    def count_failed(self) -> None:
        """Count a frame that the stage could not process."""
        self._words[self._at + 2] += 1

    @property
    def processed(self) -> int:
        """Number of processed frames."""
        return int(self._words[self._at])

    @property
    def cpu_s(self) -> float:
        """CPU time of the whole process while the stage worked, in seconds."""
        return int(self._words[self._at + 1]) / 1e9

    @property
    def failed(self) -> int:
        """Number of frames that it could not process."""
        return int(self._words[self._at + 2])


class StreamRow:
    """Counts of a capture worker for the frames that returned to it."""

    def __init__(self, words: memoryview, at: int, stages: int) -> None:
        self._words, self._at = words, at
        self.latency = Histogram(words, at + 4)
        hops = at + 4 + HISTOGRAM_WORDS
        self.hops = [Histogram(words, hops + i * _HOP_WORDS + 1) for i in range(stages)]
        """For each stage, the times from capture until it had finished a frame."""
        self._waited = [hops + i * _HOP_WORDS for i in range(stages)]

    @staticmethod
    def size(stages: int) -> int:
        """Return the words that a row takes."""
        return 4 + HISTOGRAM_WORDS + stages * _HOP_WORDS

    def count(self, captured_ns: int, returned_ns: int, spans: Sequence[Span] = ()) -> None:
        """Count a delivered frame.

        Args:
            captured_ns: monotonic time of its capture.
            returned_ns: monotonic time of its return.
            spans: when each stage worked on it.
        """
        words, at = self._words, self._at
        if not words[at]:
            words[at] = returned_ns
        words[at + 1] = returned_ns
        self.latency.record(returned_ns - captured_ns)
        for span in spans:
            self.hops[span.stage].record(span.end_ns - captured_ns)

    def count_wait(self, stage: int, waited_ns: int) -> None:
        """Count how long a frame waited for a stage, from the end of the stage before it."""
        self._words[self._waited[stage]] += max(waited_ns, 0)

    def waited_ns(self, stage: int) -> int:
        """Return the sum of the times that frames waited for a stage."""
        return int(self._words[self._waited[stage]])

    @property
    def first_returned_ns(self) -> int:
        """Monotonic time of the first return."""
        return int(self._words[self._at])

    @property
    def last_returned_ns(self) -> int:
        """Monotonic time of the last return."""
        return int(self._words[self._at + 1])

    @property
    def fps(self) -> float:
        """Delivered frames per second from the first return to the last."""
        span_ns = self.last_returned_ns - self.first_returned_ns
        return (self.latency.count - 1) / (span_ns / 1e9) if span_ns > 0 else 0.0

    def clear(self) -> None:
        """Set all counts to zero, for another stream in this row."""
        size = self.size(len(self.hops))
        self._words[self._at : self._at + size] = memoryview(bytes(size * WORD)).cast("q")


class Counters:
    """All rows of a run: one per stream, one per worker and stage. Unused rows take no memory."""

    def __init__(self, stages: int, workers: int, streams: int) -> None:
        """Make the rows.

        Args:
            stages: number of stages.
            workers: most workers that there may be.
            streams: most streams that there may be.
        """
        self._stages, self._workers = stages, workers
        self._stream_words = StreamRow.size(stages)
        self._start = streams * self._stream_words
        size = self._start + workers * stages * StageRow.WORDS
        self._words = SharedMemory("eyeline:counters", size * WORD).words

    def stream(self, index: int) -> StreamRow:
        """Return the row of a stream."""
        return StreamRow(self._words, index * self._stream_words, self._stages)

    def row(self, worker: int, stage: int) -> StageRow:
        """Return the row of a stage in one worker."""
        at = self._start + (worker * self._stages + stage) * StageRow.WORDS
        return StageRow(self._words, at)

    def rows(self, stage: int, workers: Iterable[int]) -> list[StageRow]:
        """Return the rows of a stage in the workers that run it."""
        return [self.row(worker, stage) for worker in workers]


def busy(rows: Sequence[StageRow]) -> Percentiles:
    """Return the percentiles of the time a stage worked on a frame, over its workers."""
    buckets = [sum(counts) for counts in zip(*(row.busy.buckets() for row in rows), strict=True)]
    return percentiles(buckets, max((row.busy.max_ms() for row in rows), default=0.0))
