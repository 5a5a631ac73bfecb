"""The trace of a run: records of frames, and the file for Perfetto that is made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import msgspec

from pipeline.frame import Span


class TraceWriter:
    """The part of a trace that one capture worker writes: one record per frame."""

    def __init__(self, fd: int) -> None:
        """Write to a file that was open before the fork, so that a restarted worker appends."""
        self._fd = fd
        self._encoder = msgspec.msgpack.Encoder()

    def write(self, record: TraceRecord) -> None:
        """Append the record of a frame."""
        body = self._encoder.encode(record)
        os.write(self._fd, len(body).to_bytes(4, "little") + body)


class TraceRecord(msgspec.Struct, array_like=True):
    """The way of one frame through the graph, with monotonic times."""

    stream: int
    seq: int
    attempt: int
    captured_ns: int
    wall_ns: int
    source_ns: int
    returned_ns: int
    outcome: str
    """"" for delivered, else the cause in the ledger."""
    spans: list[Span]
    ntp_ns: int = -1
    """See `Header.ntp_ns`."""


def read_trace(file: BinaryIO) -> Iterator[TraceRecord]:
    """Yield the records of a part, up to one that was cut off by a kill."""
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
    """Write a file in the Trace Event Format, which Perfetto and chrome://tracing open.

    One lane per worker, one slice per stage and frame, one flow per frame. Times are microseconds
    since `start_ns`.

    Args:
        file: where to write.
        records: frames, in any order.
        streams: index of a stream -> its name.
        stages: names of the stages, by index.
        workers: row of a worker -> its name.
        start_ns: monotonic time of the start of the run.
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
