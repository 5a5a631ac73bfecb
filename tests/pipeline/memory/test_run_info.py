"""The bulletin, and the view of a run that stages have."""

import sys
import threading

import pytest

from pipeline.frame import Span
from pipeline.memory.run_info import Bulletin, Notice, StageNotice, StreamNotice, View, WorkerNotice
from pipeline.memory.stream_table import StreamEntry, StreamTable, StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import Condition
from pipeline.telemetry.counters import Telemetry
from tests.builders import arena, header

MS = 1_000_000


class Stand:
    """A run of one stream and two stages, as its supervisor would describe it."""

    def __init__(self):
        self.arena = arena()
        self.worker_table, self.telemetry = WorkerTable(2), Telemetry(2, 2, 8)
        self.bulletin, stream_table = Bulletin(), StreamTable()
        stream_table.write(5, StreamEntry("yard", True, None, 0, 3, self.arena.fd))
        streams = StreamTableReader(stream_table, {}, ("capture", "ids"), ("ids",), 1 << 16, 1)
        streams._pid = "self"
        self.asked = []
        self.view = View(
            self.bulletin, self.worker_table, self.telemetry, streams, self.take, supervisor_pid=77
        )
        self.notice = Notice(
            config="a.yaml",
            ready=True,
            streams=[StreamNotice(5, "yard", "rtsp://***@x", True, Condition("live"), 0, "FFmpeg")],
            workers=[WorkerNotice(0, "capture", 11, [0]), WorkerNotice(1, "ids", 12, [1])],
            stages=[
                StageNotice("capture", "capture", None, 0, {"decoder": "FFmpeg"}, {}),
                StageNotice("ids", "tracker", "capture", 2, {}, {"sent": 3}),
            ],
        )
        self.bulletin.post(self.notice)

    def take(self, name, body):
        self.asked.append(body)
        replies = {name: "because"}
        self.bulletin.post(Notice(replies=replies))


@pytest.fixture
def stand():
    return Stand()


def test_the_status_joins_what_the_supervisor_knows_with_the_counters(stand):
    stand.arena.lend(0, header(slot=0, generation=1, width=8, height=6))
    stand.arena.lend(1, header(slot=1, generation=1, seq=1, width=8, height=6))
    stand.arena.end_loan(0, "")
    stand.arena.count_busy(2)
    stand.arena.count_away(1500 * MS)
    stand.worker_table.hold(1, 0, header(slot=1))
    row = stand.telemetry.stream(5)
    row.count(0, 20 * MS, [Span(0, 0, 0, 0, 4 * MS), Span(1, 1, 9 * MS, 9 * MS, 12 * MS)])
    row.count_wait(1, 5 * MS)
    stand.telemetry.row(1, 1).count(3 * MS, MS)
    status = stand.view.status()
    assert (status.config, status.pid, status.ready, status.phase) == (
        "a.yaml",
        77,
        True,
        "running",
    )
    (yard,) = status.streams
    assert (yard.captured, yard.delivered, yard.dropped, yard.in_flight) == (4, 1, {"busy": 2}, 1)
    assert (yard.width, yard.height, yard.slots, yard.away_s) == (8, 6, 3, 1.5)
    assert yard.latency_ms.max == 20.0
    assert {stage: hop.max for stage, hop in yard.hops_ms.items()} == {"capture": 4.0, "ids": 12.0}
    ids = status.stages[1]
    assert (ids.use, ids.after, ids.processed, ids.restarts) == ("tracker", "capture", 1, 2)
    assert ids.waited_ms == 5.0
    assert ids.counts == {"sent": 3}
    assert [(w.name, w.pid, w.in_hand) for w in ids.workers] == [("ids", 12, 1)]
    assert stand.view.latency("yard", [0.01, 0.1]) == ([0, 1, 1], 0.02)
    with pytest.raises(KeyError):
        stand.view.latency("door", [])


def test_a_request_gets_the_answer_that_bears_its_name(stand):
    assert stand.view.ask("pause", stream="yard") == "because"
    assert stand.asked == ['{"do":"pause","stream":"yard"}']


def test_a_request_without_an_answer_is_given_up(stand):
    stand.view._send = lambda name, body: None
    assert stand.view.ask("reload", timeout_s=0.05) == "no answer within 0.05 s"
    assert "longer than" in stand.view.ask("add", stream="x", settings={"source": "y" * 3000})


def test_a_reader_never_sees_half_a_notice():
    bulletin = Bulletin()
    long = [Notice(config=letter * 5000) for letter in "ab"]
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for notice in long:
                bulletin.post(notice)

    writer = threading.Thread(target=write)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that the two meet in the middle of everything
    writer.start()
    try:
        seen: set[str] = set()
        for reads in range(200_000):  # until the writer has had its turns too
            seen.add(bulletin.read().config)
            if reads >= 2000 and len(seen) > 1:
                break
    finally:
        stop.set()
        writer.join()
        sys.setswitchinterval(before)
    assert seen <= {"", "a" * 5000, "b" * 5000}
    assert len(seen) > 1


def test_a_notice_that_is_too_long_is_not_posted(monkeypatch):
    bulletin = Bulletin()
    bulletin.post(Notice(config="first"))
    monkeypatch.setattr("pipeline.memory.run_info.MOST_BYTES", 1000)
    bulletin.post(Notice(config="x" * 2000))
    assert bulletin.read().config == "first"
