"""The trace of a run, as Perfetto opens it."""

import io
import json

import pytest

from pipeline.frame import Span
from pipeline.telemetry.trace import TraceRecord, TraceWriter, read_trace, write_chrome_trace

MS = 1_000_000


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
def test_a_truncated_record_ends_the_part(cut, tmp_path):
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


def test_a_run_without_frames_gives_a_valid_trace():
    assert {event["ph"] for event in chrome([])} == {"M"}


def test_each_stage_of_each_frame_has_one_slice_in_its_worker_lane():
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


def test_the_outcome_of_a_frame_is_in_its_slice():
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
    # Slices of two streams at the same time share the key here; their frames are compared below.
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
