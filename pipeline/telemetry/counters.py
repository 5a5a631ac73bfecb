"""Counters and histograms in shared memory: what the live table, the summary and the trace show.

Each row has one writer and survives it: a worker that was started again goes on counting where
its predecessor was killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import msgspec

from pipeline.frame import Span
from pipeline.memory.shared import WORD, SharedMemory

_SUB_BITS = 4
_OCTAVES = 34
_BUCKETS = _OCTAVES << _SUB_BITS
_COUNT, _SUM, _MAX = range(3)
_HISTOGRAM_WORDS = _BUCKETS + 3


class Percentiles(msgspec.Struct, frozen=True):
    """Of durations, in milliseconds; 0 when there were none."""

    p50: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Durations in buckets that grow with the duration: 16 per octave, so within 3 %.

    From 1 us to some four hours; what is longer counts in the last bucket.
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
        """How many durations were counted."""
        return int(self._words[self._at + _COUNT])

    @property
    def sum_ns(self) -> int:
        """Sum of all durations."""
        return int(self._words[self._at + _SUM])

    def buckets(self) -> list[int]:
        """A copy of the counts, to subtract from later ones or add to another's."""
        start = self._at + 3
        return self._words[start : start + _BUCKETS].tolist()

    def max_ms(self) -> float:
        """The longest duration."""
        return int(self._words[self._at + _MAX]) / 1e6

    def percentiles(self) -> Percentiles:
        """Of all durations."""
        return percentiles(self.buckets(), self.max_ms())

    def up_to(self, bounds_s: Sequence[float]) -> list[int]:
        """For each bound in seconds, rising, how many durations were at most so long; then all."""
        counts, found, seen, index = self.buckets(), [], 0, 0
        for bound_s in bounds_s:
            while index < _BUCKETS and _middle_ms(index) <= bound_s * 1e3:
                seen += counts[index]
                index += 1
            found.append(seen)
        return [*found, sum(counts)]


def percentiles(buckets: Sequence[int], max_ms: float) -> Percentiles:
    """Percentiles of counts as `Histogram.buckets` gives them; none is above `max_ms`."""
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


class StageRow:
    """What one worker counted of one of its stages."""

    WORDS = 5 + _HISTOGRAM_WORDS

    def __init__(self, words: memoryview, at: int) -> None:
        self._words, self._at = words, at
        self.busy = Histogram(words, at + 5)

    def count(self, busy_ns: int, cpu_ns: int, frames: int = 1) -> None:
        """Count frames that the stage has worked on, and the time it took for all of them."""
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
        """Frames worked on."""
        return int(self._words[self._at])

    @property
    def cpu_s(self) -> float:
        """CPU time of the whole process while the stage worked."""
        return int(self._words[self._at + 1]) / 1e9

    @property
    def failed(self) -> int:
        """Frames it could not process."""
        return int(self._words[self._at + 2])


class StreamRow:
    """What capture counted of the frames that came back to it."""

    def __init__(self, words: memoryview, at: int, stages: int) -> None:
        self._words, self._at = words, at
        self.latency = Histogram(words, at + 4)
        hops = at + 4 + _HISTOGRAM_WORDS
        self.hops = [Histogram(words, hops + i * _HOP_WORDS + 1) for i in range(stages)]
        """For each stage, the time from capture until the stage was through with a frame."""
        self._waited = [hops + i * _HOP_WORDS for i in range(stages)]

    @staticmethod
    def size(stages: int) -> int:
        """In words."""
        return 4 + _HISTOGRAM_WORDS + stages * _HOP_WORDS

    def count(self, captured_ns: int, returned_ns: int, spans: Sequence[Span] = ()) -> None:
        """Count a delivered frame, and when each stage had worked on it."""
        words, at = self._words, self._at
        if not words[at]:
            words[at] = returned_ns
        words[at + 1] = returned_ns
        self.latency.record(returned_ns - captured_ns)
        for span in spans:
            self.hops[span.stage].record(span.end_ns - captured_ns)

    def count_wait(self, stage: int, waited_ns: int) -> None:
        """Count how long a frame waited for a stage after the one before it was through."""
        self._words[self._waited[stage]] += max(waited_ns, 0)

    def waited_ns(self, stage: int) -> int:
        """How long frames waited for a stage, summed."""
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
        """Forget everything: another stream takes the place."""
        size = self.size(len(self.hops))
        self._words[self._at : self._at + size] = memoryview(bytes(size * WORD)).cast("q")


_HOP_WORDS = 1 + _HISTOGRAM_WORDS


class Telemetry:
    """All rows of a run: one per stream, one per worker and stage. Rows not in use cost nothing."""

    def __init__(self, stages: int, workers: int, streams: int) -> None:
        """Make the rows.

        Args:
            stages: how many.
            workers: how many there may be.
            streams: how many there may be.
        """
        self._stages, self._workers = stages, workers
        self._stream_words = StreamRow.size(stages)
        self._start = streams * self._stream_words
        size = self._start + workers * stages * StageRow.WORDS
        self._words = SharedMemory("eyeline:telemetry", size * WORD).words

    def stream(self, index: int) -> StreamRow:
        """The row of a stream."""
        return StreamRow(self._words, index * self._stream_words, self._stages)

    def row(self, worker: int, stage: int) -> StageRow:
        """The row of one worker's stage."""
        at = self._start + (worker * self._stages + stage) * StageRow.WORDS
        return StageRow(self._words, at)

    def rows(self, stage: int, workers: Iterable[int]) -> list[StageRow]:
        """The rows of a stage in the workers that run it."""
        return [self.row(worker, stage) for worker in workers]


def busy(rows: Sequence[StageRow]) -> Percentiles:
    """How long a stage worked on a frame, over its workers."""
    buckets = [sum(counts) for counts in zip(*(row.busy.buckets() for row in rows), strict=True)]
    return percentiles(buckets, max((row.busy.max_ms() for row in rows), default=0.0))


class TraceWriter:
    """Capture's part of the trace: who worked on each frame when, one record per frame."""

    def __init__(self, fd: int) -> None:
        """Write to a file that is open since before the fork, so that a successor goes on."""
        self._fd = fd
        self._encoder = msgspec.msgpack.Encoder()

    def write(self, record: TraceRecord) -> None:
        """Add a frame."""
        body = self._encoder.encode(record)
        os.write(self._fd, len(body).to_bytes(4, "little") + body)


class TraceRecord(msgspec.Struct, array_like=True):
    """One frame's way through the graph."""

    stream: int
    seq: int
    attempt: int
    captured_ns: int
    wall_ns: int
    source_ns: int
    returned_ns: int
    outcome: str
    spans: list[Span]
    ntp_ns: int = -1


def read_trace(file: BinaryIO) -> Iterator[TraceRecord]:
    """The records of a part; one that was cut off by a kill ends it."""
    decoder = msgspec.msgpack.Decoder(TraceRecord)
    while head := file.read(4):
        body = file.read(int.from_bytes(head, "little"))
        try:
            yield decoder.decode(body)
        except msgspec.DecodeError:
            return


def write_chrome_trace(
    file: BinaryIO,
    records: Iterable[TraceRecord],
    streams: Mapping[int, str],
    stages: Sequence[str],
    workers: Mapping[int, str],
    start_ns: int,
) -> None:
    """Write the Trace Event Format that Perfetto and chrome://tracing open.

    One lane per worker, one slice per stage and frame, one flow per frame. Times are
    microseconds since `start_ns`.
    """

    def us(ns: int) -> float:
        return (ns - start_ns) / 1e3

    out: list[str] = []

    def put(event: dict[str, object]) -> None:
        out.append(json.dumps(event, separators=(",", ":")))
        if len(out) > 1000:
            file.write((",\n".join(out) + ",\n").encode())
            out.clear()

    file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
    for i, worker in workers.items():
        put({"ph": "M", "pid": 1, "tid": i + 1, "name": "thread_name", "args": {"name": worker}})
        put(
            {
                "ph": "M",
                "pid": 1,
                "tid": i + 1,
                "name": "thread_sort_index",
                "args": {"sort_index": i},
            }
        )
    for flow, record in enumerate(records, 1):
        name = f"{streams[record.stream]} {record.seq}"
        args = {
            "frame": name,
            "attempt": record.attempt,
            "captured_us": us(record.captured_ns),
            "source_ms": record.source_ns / 1e6 if record.source_ns >= 0 else None,
            "wall_ms": record.wall_ns / 1e6,
            "camera_wall_ms": record.ntp_ns / 1e6 if record.ntp_ns >= 0 else None,
            "latency_ms": (record.returned_ns - record.captured_ns) / 1e6,
            "outcome": record.outcome or "delivered",
        }
        spans = sorted(record.spans, key=lambda span: span.start_ns)
        for i, span in enumerate(spans):
            lane: dict[str, object] = {"pid": 1, "tid": span.worker + 1}
            start, end = us(span.start_ns), us(span.end_ns)
            wait = {"waited_ms": (span.start_ns - span.taken_ns) / 1e6}
            put(
                {
                    "ph": "X",
                    "cat": "stage",
                    "name": stages[span.stage],
                    "ts": start,
                    "dur": max(end - start, 0.001),
                    **lane,
                    "args": args | wait,
                }
            )
            if len(spans) > 1:
                phase = "s" if i == 0 else "f" if i == len(spans) - 1 else "t"
                put(
                    {
                        "ph": phase,
                        "cat": "frame",
                        "name": "frame",
                        "id": flow,
                        "ts": start,
                        "bp": "e",
                        **lane,
                    }
                )
    put({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "eyeline"}})
    file.write((",\n".join(out) + "\n]}\n").encode())
