"""Counters and histograms in shared memory, and the trace that Perfetto opens."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.frame import Span
from pipeline.telemetry.counters import (
    Histogram,
    StageRow,
    StreamRow,
    Telemetry,
    TraceRecord,
    TraceWriter,
    busy,
    percentiles,
    read_trace,
    write_chrome_trace,
)

MS = 1_000_000


WORDS = StreamRow.size(stages=1)


def words(count=WORDS):
    return memoryview(np.zeros(count, np.int64)).cast("B").cast("q")


def histogram(durations_ns=()):
    made = Histogram(words(), 0)
    for duration in durations_ns:
        made.record(int(duration))
    return made


def found(made):
    return percentiles(made.buckets(), made.max_ms())


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(0.1, 500, 5000),
        lambda rng: rng.lognormal(2, 1.5, 5000) + 0.1,
        lambda rng: rng.exponential(20, 5000) + 0.1,
        lambda rng: np.concatenate([rng.normal(10, 0.5, 4900), rng.normal(90, 5, 100)]),
        lambda rng: rng.uniform(60_000, 3_600_000, 300),
    ],
    ids=["uniform", "lognormal", "exponential", "two humps", "minutes"],
)
def test_percentiles_are_within_4_percent_of_the_exact_ones(draw, rng):
    durations_ms = draw(rng)
    made = found(histogram(durations_ms * MS))
    exact = np.percentile(durations_ms, [50, 95, 99], method="inverted_cdf")
    np.testing.assert_allclose([made.p50, made.p95, made.p99], exact, rtol=0.04)
    assert made.max == pytest.approx(durations_ms.max(), abs=0.001)


@given(st.integers(100_000, 10_000 * 10**9))
def test_of_a_single_duration_all_percentiles_are_that_duration(duration_ns):
    made = found(histogram([duration_ns]))
    for value in (made.p50, made.p95, made.p99):
        assert value == pytest.approx(duration_ns / MS, rel=0.04, abs=0.001)
    assert made.p50 <= made.p95 <= made.p99 <= made.max == round(duration_ns / MS, 3)


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=30))
def test_percentiles_rise_and_never_pass_the_longest(durations_ns):
    made = found(histogram(durations_ns))
    assert made.p50 <= made.p95 <= made.p99 <= made.max


def test_without_durations_all_is_zero():
    made = found(histogram())
    assert (made.p50, made.p95, made.p99, made.max) == (0, 0, 0, 0)


def test_the_longest_and_the_shortest_have_a_bucket_too():
    made = histogram([0, -5, 2**62])
    assert made.count == 3
    assert sum(made.buckets()) == 3
    assert made.buckets()[0] == 2
    assert made.buckets()[-1] == 1


def test_counts_and_sum_are_exact():
    made = histogram([3 * MS, 5 * MS])
    assert (made.count, made.sum_ns, made.max_ms()) == (2, 8 * MS, 5.0)


def test_of_two_histograms_the_buckets_add_and_subtract():
    one, other = histogram([MS] * 10), histogram([100 * MS] * 90)
    both = [a + b for a, b in zip(one.buckets(), other.buckets(), strict=True)]
    assert percentiles(both, 100.0).p50 == pytest.approx(100, rel=0.04)
    before = one.buckets()
    one.record(50 * MS)
    since = [a - b for a, b in zip(one.buckets(), before, strict=True)]
    assert percentiles(since, 50.0).p50 == pytest.approx(50, rel=0.04)


def test_a_worker_that_was_started_again_goes_on_counting():
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


def test_of_a_batch_each_frame_took_its_share():
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
    assert found(row.latency).p50 == pytest.approx(100, rel=0.04)


def test_rows_of_streams_and_workers_are_apart():
    made = Telemetry(stages=3, workers=3, streams=2)
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


def test_a_histogram_says_how_many_were_at_most_so_long():
    row = StreamRow(words(), 0, 1)
    for ms in (1, 2, 3, 50, 50, 2000):
        row.latency.record(ms * MS)
    assert row.latency.up_to([0.0025, 0.01, 0.1, 1.0]) == [2, 3, 5, 5, 6]
    assert row.latency.up_to([]) == [6]


# --- trace ---


def record(seq=0, spans=3, stream=0, **fields):
    """A frame captured at 1 ms per `seq`, one stage after the other for 100 us each."""
    at = seq * MS
    given_ = {
        "stream": stream,
        "seq": seq,
        "attempt": 0,
        "captured_ns": at,
        "wall_ns": at,
        "source_ns": at,
        "returned_ns": at + 900_000,
        "outcome": "",
        "spans": [
            Span(i, i, at + i * 200_000, at + i * 200_000 + 50_000, at + i * 200_000 + 150_000)
            for i in range(spans)
        ],
    }
    return TraceRecord(**given_ | fields)


def write(path, records):
    with path.open("wb") as file:
        writer = TraceWriter(file.fileno())
        for one in records:
            writer.write(one)


def test_records_are_read_back_as_written(tmp_path):
    records = [record(seq, outcome="stale" if seq == 3 else "") for seq in range(5)]
    write(tmp_path / "part", records)
    with (tmp_path / "part").open("rb") as file:
        assert list(read_trace(file)) == records


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_record_that_was_cut_off_ends_the_part(cut, tmp_path):
    part = tmp_path / "part"
    write(part, [record(0), record(1)])
    part.write_bytes(part.read_bytes()[:-cut])
    with part.open("rb") as file:
        assert list(read_trace(file)) == [record(0)]


def chrome(records, streams=("demo",), start_ns=0):
    file = io.BytesIO()
    stages, workers = ["capture", "detector", "tracker"], ["capture", "detector.1", "tracker"]
    named = dict(enumerate(streams)), stages, dict(enumerate(workers))
    write_chrome_trace(file, records, *named, start_ns)
    return json.loads(file.getvalue())["traceEvents"]


def of_kind(events, *phases):
    return [event for event in events if event["ph"] in phases]


def test_every_worker_has_a_lane_with_its_name():
    events = chrome([record()])
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {1: "capture", 2: "detector.1", 3: "tracker"}


def test_a_run_without_frames_is_a_valid_trace_too():
    assert {event["ph"] for event in chrome([])} == {"M"}


def test_every_stage_of_every_frame_has_one_slice_in_its_workers_lane():
    slices = of_kind(chrome([record(0), record(1)]), "X")
    assert [(e["name"], e["tid"], e["args"]["frame"]) for e in slices] == [
        (stage, lane, f"demo {seq}")
        for seq in range(2)
        for lane, stage in enumerate(["capture", "detector", "tracker"], 1)
    ]


def test_times_are_microseconds_from_the_start_of_the_run():
    [first, *_] = of_kind(chrome([record(seq=5)], start_ns=2 * MS), "X")
    assert (first["ts"], first["dur"]) == (3050.0, 100.0)
    assert first["args"]["waited_ms"] == pytest.approx(0.05)
    assert first["args"]["latency_ms"] == pytest.approx(0.9)
    assert first["args"]["source_ms"] == 5.0


def test_what_became_of_a_frame_is_said():
    given_ = [record(0), record(1, outcome="failed:nms", attempt=2, source_ns=-1)]
    delivered, *_, failed = of_kind(chrome(given_), "X")
    assert (delivered["args"]["outcome"], delivered["args"]["attempt"]) == ("delivered", 0)
    assert (failed["args"]["outcome"], failed["args"]["attempt"]) == ("failed:nms", 2)
    assert failed["args"]["source_ms"] is None


def test_a_flow_leads_each_frame_from_its_first_slice_to_its_last():
    records = [record(0), record(0, stream=1), record(1), record(2, spans=2)]
    events = chrome(records, streams=("door", "yard"))
    slices = {(e["tid"], e["ts"]): e["args"]["frame"] for e in of_kind(events, "X")}
    flows = {}
    for event in of_kind(events, "s", "t", "f"):
        flows.setdefault(event["id"], []).append(event)
    assert len(flows) == len(records)
    for steps in flows.values():
        phases = [step["ph"] for step in steps]
        assert phases == ["s", *["t"] * (len(steps) - 2), "f"]
        # A flow is bound to the slice that it begins in.
        assert {step["bp"] for step in steps} == {"e"}
        assert [step["ts"] for step in steps] == sorted(step["ts"] for step in steps)
    # Slices of two streams at the same time share the key here; their frames are told apart below.
    assert all((s["tid"], s["ts"]) in slices for steps in flows.values() for s in steps)


def test_a_frame_with_one_slice_has_no_flow():
    assert of_kind(chrome([record(spans=1)]), "s", "t", "f") == []


def test_spans_that_come_out_of_order_are_put_in_order():
    mixed = record()
    mixed.spans.reverse()
    assert of_kind(chrome([mixed]), "X", "s", "t", "f") == of_kind(
        chrome([record()]), "X", "s", "t", "f"
    )


def test_many_frames_still_parse():
    assert len(of_kind(chrome([record(seq) for seq in range(700)]), "X")) == 2100
