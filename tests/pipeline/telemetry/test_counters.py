"""Counters of streams and stages in shared memory."""

import numpy as np
import pytest

from pipeline.frame import Span
from pipeline.telemetry.counters import Counters, StageRow, StreamRow, busy

MS = 1_000_000


WORDS = StreamRow.size(stages=1)


def words(count=WORDS):
    return memoryview(np.zeros(count, np.int64)).cast("B").cast("q")


def test_a_restarted_worker_continues_its_counts():
    shared = words()
    first = StageRow(shared, 0)
    first.count(2 * MS, cpu_ns=MS, frames=2)
    first.count_failed()
    successor = StageRow(shared, 0)
    successor.count(4 * MS, cpu_ns=3 * MS)
    assert successor.processed == 3
    assert successor.cpu_s == 0.004
    assert successor.failed == 1
    assert successor.busy.count == 3
    assert successor.busy.sum_ns == 6 * MS


def test_each_frame_of_a_batch_takes_its_share():
    row = StageRow(words(), 0)
    row.count(40 * MS, cpu_ns=0, frames=4)
    assert row.busy.count == 4
    assert row.busy.max_ms() == 10.0


def test_a_streams_rate_is_from_the_first_capture_to_the_last_return():
    row = StreamRow(words(), 0, 1)
    assert row.fps == 0
    for i in range(11):
        row.count(captured_ns=1000 + i * 100 * MS, returned_ns=1000 + (i + 1) * 100 * MS)
    assert row.fps == pytest.approx(10)
    assert row.latency.count == 11
    assert row.latency.percentiles().p50 == pytest.approx(100, rel=0.04)


def test_rows_of_streams_and_workers_are_separate():
    made = Counters(stages=3, workers=3, streams=2)
    made.stream(0).count(0, MS, [Span(2, 0, 0, 0, MS // 2)])
    made.stream(1).count(0, 2 * MS)
    made.stream(1).count_wait(2, 7)
    for row, ms in ((made.row(0, 0), 3), (made.row(0, 1), 4), (made.row(1, 2), 5)):
        row.count(ms * MS, 0)
    made.row(2, 2).count(100 * MS, 0)
    assert [made.stream(i).latency.max_ms() for i in range(2)] == [1.0, 2.0]
    assert [hop.count for hop in made.stream(0).hops] == [0, 0, 1]
    assert made.stream(0).hops[2].max_ms() == 0.5
    assert [[made.stream(i).waited_ns(stage) for stage in range(3)] for i in range(2)] == [
        [0, 0, 0],
        [0, 0, 7],
    ]
    rows = [made.rows(stage, workers) for stage, workers in enumerate(([0], [0], [1, 2]))]
    assert [busy(of).max for of in rows] == [3.0, 4.0, 100.0]
    assert [row.processed for row in rows[2]] == [1, 1]
    assert busy(rows[2]).p50 == pytest.approx(5, rel=0.04)
    assert busy(rows[2]).p99 == pytest.approx(100, rel=0.04)
    made.stream(1).clear()
    assert made.stream(1).latency.count == 0
    assert made.stream(1).waited_ns(2) == 0
    assert made.stream(0).latency.count == 1
