"""The status of a run, as its stages read it."""

import pytest

from pipeline.frame import Span
from pipeline.memory.run_info import RunInfo, SharedRunInfo, StageInfo, StreamInfo, WorkerInfo
from pipeline.memory.stream_table import StreamEntry, StreamTable, StreamTableReader
from pipeline.memory.worker_table import WorkerTable
from pipeline.status import SourceState
from pipeline.telemetry.counters import Counters
from pipeline.telemetry.run_view import RunView
from tests.builders import arena, header

MS = 1_000_000


class Stand:
    """A run of one stream and two stages, as its supervisor would describe it."""

    def __init__(self):
        self.arena = arena()
        self.worker_table, self.counters = WorkerTable(2), Counters(2, 2, 8)
        self.run_info, stream_table = SharedRunInfo(), StreamTable()
        stream_table.write(5, StreamEntry("yard", True, None, 0, 3, self.arena.fd))
        streams = StreamTableReader(stream_table, {}, ("capture", "ids"), ("ids",), 1 << 16, 1)
        streams._pid = "self"
        self.asked = []
        self.view = RunView(
            self.run_info, self.worker_table, self.counters, streams, self.take, supervisor_pid=77
        )
        self.info = RunInfo(
            config="a.yaml",
            ready=True,
            streams=[StreamInfo(5, "yard", "rtsp://***@x", True, SourceState("live"), 0, "FFmpeg")],
            workers=[WorkerInfo(0, "capture", 11, [0]), WorkerInfo(1, "ids", 12, [1])],
            stages=[
                StageInfo("capture", "capture", None, 0, {"decoder": "FFmpeg"}, {}),
                StageInfo("ids", "tracker", "capture", 2, {}, {"sent": 3}),
            ],
        )
        self.run_info.post(self.info)

    def take(self, name, body):
        self.asked.append(body)
        replies = {name: "because"}
        self.run_info.post(RunInfo(replies=replies))


@pytest.fixture
def stand():
    return Stand()


def test_the_status_joins_facts_of_the_supervisor_with_the_counters(stand):
    stand.arena.lend(0, header(slot=0, generation=1, width=8, height=6))
    stand.arena.lend(1, header(slot=1, generation=1, seq=1, width=8, height=6))
    stand.arena.end_loan(0, "")
    stand.arena.count_busy(2)
    stand.arena.count_away(1500 * MS)
    stand.worker_table.hold(1, 0, header(slot=1))
    row = stand.counters.stream(5)
    row.count(0, 20 * MS, [Span(0, 0, 0, 0, 4 * MS), Span(1, 1, 9 * MS, 9 * MS, 12 * MS)])
    row.count_wait(1, 5 * MS)
    stand.counters.row(1, 1).count(3 * MS, MS)
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


def test_a_request_gets_the_answer_with_its_id(stand):
    assert stand.view.ask("pause", stream="yard") == "because"
    assert stand.asked == ['{"do":"pause","stream":"yard"}']


def test_a_request_without_an_answer_fails_after_its_timeout(stand):
    stand.view._send = lambda name, body: None
    assert stand.view.ask("reload", timeout_s=0.05) == "no answer from the supervisor within 0.05 s"


def test_a_request_that_is_too_long_is_refused(stand):
    text = stand.view.ask("add", stream="x", settings={"source": "y" * 3000})
    assert text == "the request is too long (found 3050 bytes, at most 1500)"
    assert stand.asked == []
