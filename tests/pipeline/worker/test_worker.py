"""Workers without processes and sockets: their work on each frame."""

import itertools
import logging
import os
import signal

import msgspec
import numpy as np
import pytest

from pipeline.edge import Kind, Message, decode_header, decode_return, encode
from pipeline.errors import EndRun, RunError
from pipeline.frame import Frame, Span, Status
from pipeline.memory.run_info import Bulletin
from pipeline.memory.stream_table import StreamEntry, StreamTable
from pipeline.stage import Array, BatchSettings, Resolved, Source, SourceInfo, Stage
from pipeline.telemetry.counters import Telemetry, read_trace
from pipeline.worker import reports
from pipeline.worker import worker as worker_file
from pipeline.worker.capture_worker import CaptureWorker
from pipeline.worker.reports import Report, send_report
from pipeline.worker.worker import Shared, Worker
from tests.builders import IMAGE, arena, graph, header, returned, total, worker_table

CALLS = []
"""(stage, what it was asked, frame or stream) in the order of the calls."""
WHILE_AT_WORK = []
"""What a stage looks at while it works."""


class NoteSettings(BatchSettings, frozen=True):
    fail_at: tuple[int, ...] = ()
    error: str = "ValueError"


class Note(Stage):
    """Records its calls, and fails where its settings ask for it."""

    Settings = NoteSettings

    @property
    def name(self):
        return self.context.stage

    def open(self):
        CALLS.append((self.name, "open", None))

    def process(self, frame):
        CALLS.append((self.name, "process", frame.seq))
        for look in WHILE_AT_WORK:
            look(frame)
        if frame.seq in self.settings.fail_at:
            kinds = {"ValueError": ValueError, "RunError": RunError, "EndRun": EndRun}
            raise kinds[self.settings.error](f"set to fail at {frame.seq}")

    def end(self, stream):
        CALLS.append((self.name, "end", stream))

    def close(self):
        CALLS.append((self.name, "close", None))
        if "close" in self.settings.error:
            raise ValueError("set to fail")


class Add(Note):
    """Adds an array of its own name."""

    gives = (Array("added"),)

    def process(self, frame):
        super().process(frame)
        frame.put(self.name, np.full(3, frame.seq, np.int64))


class Batch(Add):
    def process_batch(self, frames):
        CALLS.append((self.name, "batch", [frame.seq for frame in frames]))
        super().process_batch(frames)


class TwinSettings(NoteSettings, frozen=True):
    replicas: int = 2


class Twins(Note):
    Settings = TwinSettings

    @classmethod
    def resolve(cls, settings):
        return Resolved(replicas=settings.replicas)


class CountSettings(NoteSettings, frozen=True):
    pass


class Count(Note):
    """Numbers the frames of each stream."""

    gives = (Array("count"),)
    ordered = True
    Settings = CountSettings

    def open(self):
        super().open()
        self.counts = {}

    def process(self, frame):
        super().process(frame)
        self.counts[frame.stream] = self.counts.get(frame.stream, 0) + 1
        frame.put(self.name, np.int64(self.counts[frame.stream]))

    def state(self, stream):
        return str(self.counts.get(stream, 0)).encode()

    def restore(self, stream, state):
        CALLS.append((self.name, "restore", stream))
        self.counts[stream] = int(state)


class Pictures(Source):
    """A source that gives images of the sizes in SCRIPT."""

    gives = (IMAGE,)

    class Settings(BatchSettings, frozen=True):
        live: bool = False

    @classmethod
    def resolve(cls, settings):
        return Resolved((SourceInfo(live=settings.live),))

    def open(self):
        self.live = self.settings.live
        self.skipped = 0

    def skip(self, images, source_ns):
        self.skipped = images
        CALLS.append(("capture", "skip", images))

    def offer(self, frame):
        self.offered = frame

    def collect(self):
        """Fill the next image; it lies in the script behind those that were skipped."""
        step = SCRIPT[self.skipped] if self.skipped < len(SCRIPT) else None
        if step is None:
            return False
        self.skipped += 1
        header = self.offered.header
        header.captured_ns = header.source_ns = self.skipped
        height, width = step
        self.offered.empty("image", (height, width, 3), np.uint8)[...] = self.skipped
        return True

    def missed(self):
        return MISSED.pop(0) if MISSED else (0, 0)

    def problem(self):
        return PROBLEM[0] if PROBLEM else None


SCRIPT = []
MISSED = []
PROBLEM = []

REGISTRY = {
    name: f"tests.pipeline.worker.test_worker:{name.capitalize()}"
    for name in ("note", "add", "batch", "count", "twins", "pictures")
}


class FakeSockets:
    """Records sent messages, gives the messages in `inbox`."""

    def __init__(self, run, worker, worker_table):
        self.blocked = set()
        self.inbox, self.frames, self.returns, self.woken = [], [], [], []
        self.on_frame = None
        self.left = 20_000

    def receive(self, timeout_ms):
        self.left -= 1
        assert self.left, "the loop does not end"
        return self.inbox.pop(0) if self.inbox else None

    def send_frame(self, worker, stage, body):
        self.frames.append((worker, stage, decode_header(body)))
        if self.on_frame is not None:
            self.on_frame(self.frames[-1][2])

    def send_return(self, worker, done):
        # As over the wire, so that later changes to spans do not show.
        self.returns.append((worker, decode_return(encode(done))))

    def wake(self, worker):
        self.woken.append(worker)

    def own_wake(self):
        return lambda: None

    def close(self):
        pass

    drain = close


@pytest.fixture(autouse=True)
def stand(monkeypatch):
    """Workers use sockets that only record, report to a list, and leave no signal handler."""
    said = []
    monkeypatch.setattr(worker_file, "Sockets", FakeSockets)
    monkeypatch.setattr(reports, "send_report", lambda fd, report: said.append(report))
    before = signal.getsignal(signal.SIGTERM)
    for notes in (CALLS, WHILE_AT_WORK, SCRIPT, MISSED, PROBLEM):
        notes.clear()
    yield said
    signal.signal(signal.SIGTERM, before)


class Stand:
    """A run of which one worker is at work."""

    def __init__(self, stages, trace_fds=(), **more):
        stages = {"capture": {"use": "pictures"}, **stages}
        streams = more.pop("streams", ("demo",))
        self.graph = graph(stages, streams, REGISTRY, placement="separate", **more)
        names = [node.name for node in self.graph.nodes]
        self.worker_table = worker_table(len(self.graph.workers))
        self.arenas = {
            stream.index: arena(stream.slots, names, self.graph.ordered)
            for stream in self.graph.streams
        }
        stream_table = StreamTable()
        for worker in self.graph.workers:
            if worker.stream is not None:
                of = self.graph.streams[worker.stream]
                age = of.settings.max_age_ms
                fd = self.arenas[of.index].fd
                stream_table.write(
                    of.index, StreamEntry(of.name, of.live, age, worker.index, of.slots, fd)
                )
        self.shared = Shared(
            run="run",
            graph=self.graph,
            worker_table=self.worker_table,
            arenas=self.arenas,
            final_states={},
            stream_table=stream_table,
            telemetry=Telemetry(len(names), len(self.graph.workers), len(self.graph.streams)),
            bulletin=Bulletin(),
            report_fd=-1,
            trace_fds=dict(enumerate(trace_fds)),
            supervisor_pid=os.getpid(),
            log_level=logging.INFO,
        )

    @property
    def arena(self):
        return self.arenas[0]

    def node(self, name):
        return next(node for node in self.graph.nodes if node.name == name)

    def open(self, of):
        """Start the worker that runs a stage, also after its death."""
        index = self.graph.workers_of(self.node(of))[0]
        spec = self.graph.workers[index]
        self.worker = (
            Worker(self.shared, spec)
            if spec.stream is None
            else CaptureWorker(self.shared, spec, self.graph.streams[spec.stream])
        )
        self.worker.open()
        self.index = index
        self.sockets = self.worker._sockets
        return self

    def lend(self, stream=0, slot=None, **fields):
        """Lend one more frame, as capture does, and return its header."""
        own = self.arenas[stream]
        free = next(s for s in range(own.slots) if not own.is_lent(s)) if slot is None else slot
        limit = fields.pop("limit", own.slot_bytes)
        lent = header(
            stream=stream,
            slot=free,
            seq=own.next_seq,
            generation=own.generation(free) + 1,
            captured_ns=1,
            limit=limit,
            **fields,
        )
        own.lend(free, lent)
        return lent

    def again(self, slot=0, stream=0):
        """Return the header with which a frame is resent after a death."""
        self.arenas[stream].raise_attempt(slot)
        again = self.arenas[stream].header_again(slot, stream)
        again.arrays.clear()
        return again

    def take(self, *headers, after="capture", sender=0):
        """Let the worker work on frames that come from the stage `after`."""
        self.worker._work_on(
            [
                Message(
                    Kind.FRAME,
                    sender,
                    self.worker_table.incarnation(sender),
                    self.node(after).index,
                    encode(one),
                )
                for one in headers
            ]
        )

    def frame(self, of):
        """Return the frame of a header, to look at its arrays."""
        return Frame(of, "demo", self.arenas[of.stream].memory(of.slot))

    @property
    def sent(self):
        return [of for _, _, of in self.sockets.frames]

    @property
    def given_back(self):
        return [done for _, done in self.sockets.returns]


def calls(*kinds):
    return [call for call in CALLS if call[1] in (kinds or ("process",))]


def chain(*uses, **settings):
    """Stages a, b, c ... that share a process."""
    names = "abcdefg"
    return {
        name: {"use": use, "process": "x", **settings.get(name, {})}
        for name, use in zip(names, uses, strict=False)
    }


# --- the chain ---


def test_stages_of_a_worker_process_a_frame_one_after_the_other():
    stand = Stand(chain("add", "add", "note")).open("a")
    WHILE_AT_WORK.append(lambda frame: CALLS.append(("arrays", sorted(frame), None)))
    stand.take(stand.lend())
    assert calls("process") == [("a", "process", 0), ("b", "process", 0), ("c", "process", 0)]
    assert [call[1] for call in CALLS if call[0] == "arrays"] == [[], ["a"], ["a", "b"]]
    assert stand.sent == []


def test_the_last_stage_returns_the_frame_to_capture_with_its_spans():
    stand = Stand(chain("note", "note")).open("a")
    lent = stand.lend()
    lent.spans = [Span(0, 0, 1, 1, 2)]
    stand.take(lent)
    [(capture, done)] = stand.sockets.returns
    assert capture == 0
    assert (done.slot, done.generation, done.attempt, done.cause) == (0, 1, 0, "")
    assert done.leaves == stand.graph.leaves
    assert [(s.stage, s.worker) for s in done.spans] == [(0, 0), (1, 1), (2, 1)]
    for span in done.spans[1:]:
        assert 0 < span.taken_ns <= span.start_ns <= span.end_ns


def test_a_frame_goes_to_the_next_worker_with_its_arrays():
    stand = Stand({"a": {"use": "add"}, "b": {"use": "note"}}).open("a")
    stand.take(stand.lend())
    [(worker, stage, sent)] = stand.sockets.frames
    assert (worker, stage) == (2, stand.node("a").index)
    assert stand.frame(sent)["a"].tolist() == [0, 0, 0]
    assert stand.given_back == []


def test_all_stages_behind_a_stage_get_the_frame_in_any_process():
    stages = {
        "a": {"use": "add", "process": "x"},
        "b": {"use": "note", "process": "x"},
        "c": {"use": "note", "after": "a"},
        "d": {"use": "note", "after": "a", "process": "y"},
        "e": {"use": "note", "after": "a", "process": "y"},
    }
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0), ("b", "process", 0)]
    assert sorted(worker for worker, _, _ in stand.sockets.frames) == [2, 3]  # y once, for both
    [done] = stand.given_back
    assert done.leaves == 1 << stand.node("b").index


def test_several_last_stages_in_one_worker_return_a_frame_once():
    stages = {
        "a": {"use": "note", "process": "x"},
        "b": {"use": "note", "process": "x", "after": "a", "fail_at": [1]},
        "c": {"use": "note", "process": "x", "after": "a"},
    }
    stand = Stand(stages).open("a")
    for _ in range(2):
        stand.take(stand.lend())
    assert [done.leaves for done in stand.given_back] == [stand.graph.leaves] * 2
    assert [done.cause for done in stand.given_back] == ["", "failed:b"]
    assert [span.stage for span in stand.given_back[0].spans] == [
        stand.node(name).index for name in "abc"
    ]
    assert calls()[-3:] == [("a", "process", 1), ("b", "process", 1), ("c", "process", 1)]


def test_arrays_of_one_branch_are_not_seen_by_the_other():
    stages = {
        "a": {"use": "add", "process": "x"},
        "b": {"use": "add", "process": "x", "after": "a"},
        "c": {"use": "note", "process": "x", "after": "b"},
        "d": {"use": "add", "process": "x", "after": "a"},
        "e": {"use": "note", "process": "x", "after": "d"},
    }
    stand = Stand(stages).open("a")
    seen = {}
    WHILE_AT_WORK.append(lambda frame: seen.setdefault(CALLS[-1][0], sorted(frame)))
    stand.take(stand.lend())
    assert seen == {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["a"], "e": ["a", "d"]}


# --- room in the slot where the graph forks ---


def fork(*uses):
    return {
        f"{'abcdefg'[i]}": {"use": use, "after": "capture", "process": f"p{i}"}
        for i, use in enumerate(uses)
    }


def part_of(stand, name):
    """The stretch of the slot that a stage behind the fork may fill."""
    found = {}
    WHILE_AT_WORK[:] = [
        lambda frame: found.update({CALLS[-1][0]: (frame.header.used, frame.header.limit)})
    ]
    stand.open(name)
    stand.take(header(used=72, limit=stand.arena.slot_bytes))
    return found[name]


def test_each_branch_that_adds_arrays_gets_its_own_part_of_the_slot():
    stand = Stand(fork("add", "note", "add", "add"))
    stand.lend()
    parts = [part_of(stand, name) for name in "acd"]
    assert parts[0][0] == 72
    for (_, limit), (start, _) in itertools.pairwise(parts):
        assert limit <= start
    sizes = [limit - start for start, limit in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) >= stand.arena.slot_bytes - 72 - 3
    assert parts[-1][1] <= stand.arena.slot_bytes


def test_a_branch_without_arrays_leaves_the_slot_to_the_other():
    stand = Stand(fork("add", "note"))
    stand.lend()
    assert part_of(stand, "a") == (72, stand.arena.slot_bytes)
    assert part_of(stand, "b") == (72, 72)


def test_without_branches_a_stage_gets_the_whole_slot():
    stand = Stand(chain("note", "add"))
    stand.lend()
    assert part_of(stand, "b") == (72, stand.arena.slot_bytes)


def test_a_branch_whose_later_stage_adds_arrays_gets_a_part_too():
    stages = fork("add", "note") | {"c": {"use": "add", "after": "b", "process": "p1"}}
    stand = Stand(stages)
    stand.lend()
    (a_start, a_limit), (b_start, b_limit) = part_of(stand, "a"), part_of(stand, "b")
    assert a_start < a_limit <= b_start < b_limit


def test_branches_in_several_processes_do_not_overwrite_each_other():
    stand = Stand(fork("add", "add"))
    lent = stand.lend()
    views = []
    for name in "ab":
        WHILE_AT_WORK[:] = [lambda frame: views.append(frame)]
        stand.open(name).take(lent)
    assert [view[name].tolist() for view, name in zip(views, "ab", strict=True)] == [[0] * 3] * 2
    views[0].put("more", np.full(64, 1, np.uint8))
    views[1].put("more", np.full(64, 2, np.uint8))
    assert set(views[0]["more"].tolist()) == {1}
    assert set(views[1]["more"].tolist()) == {2}


# --- what is not worked on ---


def test_a_void_frame_is_released_without_work_or_return():
    stand = Stand(chain("note")).open("a")
    void = stand.lend()
    stand.again()
    stand.take(void)
    assert calls() == []
    assert stand.given_back == []
    assert stand.worker_table.mark_dead(1) == []  # nothing in hand


def test_a_void_frame_gives_its_sender_credit():
    stand = Stand(chain("note")).open("a")
    void = stand.lend()
    stand.again()
    stand.take(void)
    assert stand.worker_table.done(1, 0) == 1


def test_a_frame_is_held_during_work_and_hand_over_and_no_longer():
    stand = Stand(chain("add", "note")).open("a")
    held = []
    WHILE_AT_WORK.append(
        lambda frame: held.append(stand.worker_table.is_held(0, frame.header.slot))
    )
    send_return = stand.sockets.send_return
    stand.sockets.send_return = lambda *args: (
        held.append(stand.worker_table.is_held(0, 0)),
        send_return(*args),
    )
    stand.take(stand.lend())
    assert held == [True, True, True]
    assert not stand.worker_table.is_held(0, 0)


@pytest.mark.parametrize(
    ("status", "cause"), [(Status.DROPPED, "stale"), (Status.FAILED, "failed:z")]
)
def test_a_dropped_or_failed_frame_travels_on_untouched(status, cause):
    stand = Stand({"a": {"use": "note"}, "b": {"use": "note"}}).open("a")
    given_up = stand.lend()
    given_up.without_arrays(status, cause)
    stand.take(given_up)
    assert calls() == []
    [sent] = stand.sent
    assert (sent.status, sent.cause, sent.spans) == (status, cause, [])


def test_the_end_of_a_stream_reaches_every_stage_and_travels_on():
    stand = Stand(chain("add", "count", "note")).open("a")
    end = header(slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    assert calls("end") == [(name, "end", "demo") for name in "abc"]
    assert calls() == []
    [done] = stand.given_back
    assert (done.slot, done.cause) == (stand.arena.end_slot, "")


def test_a_live_frame_that_is_too_old_is_dropped_before_work():
    stages = {"a": {"use": "note"}, "b": {"use": "note"}}
    stand = Stand(stages, streams={"demo": {"live": True, "max_age_ms": 100}}).open("a")
    stand.take(stand.lend())  # captured at 1 ns
    assert calls() == []
    [sent] = stand.sent
    assert (sent.status, sent.cause) == (Status.DROPPED, "stale")


def test_a_young_frame_is_not_dropped():
    streams = {"demo": {"live": True, "max_age_ms": 1e9}}
    stand = Stand(chain("note"), streams=streams).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0)]


def test_a_frame_of_a_file_is_never_too_old():
    stand = Stand(chain("note"), streams={"demo": {"max_age_ms": 1}}).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0)]


# --- failures ---


def test_a_stage_that_raises_fails_that_frame_and_goes_on(caplog):
    stand = Stand(chain("add", "add", "note", b={"fail_at": [1]})).open("a")
    for _ in range(3):
        stand.take(stand.lend())
    assert [done.cause for done in stand.given_back] == ["", "failed:b", ""]
    assert [call[2] for call in calls() if call[0] == "c"] == [0, 2]
    row = stand.shared.telemetry.row(1, stand.node("b").index)
    assert (row.processed, row.failed) == (3, 1)
    [record] = caplog.records
    assert record.getMessage() == ("stages.b: ValueError: set to fail at 1 (frame 1 of demo; x1)")


def test_a_repeated_failure_is_logged_at_its_1st_10th_100th_time(caplog):
    stand = Stand(chain("note")).open("a")

    def fail(frame):
        raise ValueError("the same each time")

    WHILE_AT_WORK.append(fail)
    for _ in range(120):
        lent = stand.lend()
        stand.take(lent)
        stand.arena.end_loan(lent.slot, "failed:a")
    assert [r.getMessage().rpartition("; ")[2] for r in caplog.records] == ["x1)", "x10)", "x100)"]


def test_an_array_that_does_not_fit_fails_the_frame_not_the_run():
    stand = Stand(chain("add")).open("a")
    stand.take(stand.lend(limit=10))
    assert stand.given_back[0].cause == "failed:a"


def test_an_error_that_ends_the_run_passes_through():
    stand = Stand(chain("note", a={"fail_at": [0], "error": "RunError"})).open("a")
    with pytest.raises(RunError, match="set to fail at 0"):
        stand.take(stand.lend())


def test_a_request_to_end_is_reported_and_the_frame_counts(stand):
    said = stand
    at_work = Stand(chain("note", a={"fail_at": [0], "error": "EndRun"})).open("a")
    at_work.take(at_work.lend())
    assert [(r.kind, r.text) for r in said if r.kind == "end"] == [("end", "set to fail at 0")]
    assert at_work.given_back[0].cause == ""


def test_all_stages_are_closed_last_first_even_if_one_fails(caplog):
    at_work = Stand(chain("note", "note", "note", b={"error": "close"})).open("a")
    at_work.worker.close()
    assert [call[0] for call in calls("close")] == ["c", "b", "a"]
    assert "stages.b: closing failed: ValueError: set to fail" in caplog.text


# --- batches ---


def batch_of(stand, count):
    headers = [stand.lend() for _ in range(count)]
    stand.take(*headers)
    return headers


def test_a_batch_is_processed_at_once():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    batch_of(stand, 3)
    assert calls("batch") == [("a", "batch", [0, 1, 2])]
    assert [done.cause for done in stand.given_back] == ["", "", ""]
    assert stand.shared.telemetry.row(1, 1).processed == 3


def test_in_a_batch_only_the_frame_at_fault_fails(caplog):
    stand = Stand({"a": {"use": "batch", "batch": 4, "fail_at": [2]}}).open("a")
    batch_of(stand, 4)
    assert [done.cause for done in stand.given_back] == ["", "", "failed:a", ""]
    assert [span.stage for done in stand.given_back for span in done.spans] == [1, 1, 1, 1]
    assert len(caplog.records) == 1
    assert stand.shared.telemetry.row(1, 1).failed == 1


def test_in_a_batch_void_and_dropped_frames_are_left_out():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    headers = [stand.lend() for _ in range(4)]
    stand.arena.raise_attempt(headers[1].slot)
    headers[2].without_arrays(Status.FAILED, "failed:z")
    stand.take(*headers)
    assert calls("batch") == [("a", "batch", [0, 3])]
    assert [(done.slot, done.cause) for done in stand.given_back] == [
        (0, ""),
        (2, "failed:z"),
        (3, ""),
    ]


def test_a_batch_is_in_hand_as_a_whole():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    held = []
    WHILE_AT_WORK.append(
        lambda f: held.append([stand.worker_table.is_held(0, s) for s in range(3)])
    )
    batch_of(stand, 3)
    assert held == [[True] * 3] * 3
    assert stand.worker_table.mark_dead(1) == []


def test_a_batch_mixes_streams():
    stand = Stand({"a": {"use": "batch", "batch": 4}}, streams=["one", "two"]).open("a")
    stand.take(stand.lend(0), stand.lend(1), stand.lend(1))
    assert calls("batch") == [("a", "batch", [0, 0, 1])]
    assert [worker for worker, _ in stand.sockets.returns] == [0, 1, 1]


def test_a_worker_gathers_waiting_frames_up_to_its_batch():
    stand = Stand({"a": {"use": "batch", "batch": 3}}).open("a")
    messages = [Message(Kind.FRAME, 0, 0, 0, encode(stand.lend())) for _ in range(5)]
    stand.sockets.inbox = [messages[0], Message(Kind.WAKE, 0, 0, 0, b""), *messages[1:]]
    receive = stand.sockets.receive

    def receive_until_empty(timeout_ms):
        message = receive(timeout_ms)
        if message is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return message

    stand.sockets.receive = receive_until_empty
    stand.worker.loop()
    assert calls("batch") == [("a", "batch", [0, 1, 2]), ("a", "batch", [3, 4])]


# --- credit ---


def test_a_sender_that_waits_is_woken_when_a_frame_is_done():
    stand = Stand(chain("note")).open("a")
    stand.take(stand.lend())
    assert stand.sockets.woken == []
    stand.worker_table.set_sender_waiting(0, waiting=True)
    stand.take(stand.lend())
    assert stand.sockets.woken == [0]
    assert stand.worker_table.done(1, 0) == 2


def test_a_dead_senders_frame_earns_its_successor_no_credit():
    stand = Stand(chain("note")).open("a")
    message = Message(Kind.FRAME, 0, 0, 0, encode(stand.lend()))
    stand.worker_table.mark_dead(0)
    stand.worker_table.set_sender_waiting(0, waiting=True)
    stand.worker._work_on([message])
    assert stand.worker_table.done(1, 0) == 0
    assert stand.sockets.woken == []
    assert calls() == [("a", "process", 0)]


# --- ordered stages ---


def counted(stand, of=None):
    """seq -> number that the ordered stage gave, as sent on."""
    return {sent.seq: int(stand.frame(sent)["a"]) for sent in of or stand.sent}


ORDERED = {"a": {"use": "count"}, "b": {"use": "note"}}


def test_an_ordered_stage_gets_frames_in_order():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(5)]
    for i in (3, 0, 4, 1, 2):
        stand.take(headers[i])
    assert [call[2] for call in calls()] == [0, 1, 2, 3, 4]
    assert [sent.seq for sent in stand.sent] == [0, 1, 2, 3, 4]
    assert counted(stand) == {i: i + 1 for i in range(5)}


def test_streams_do_not_wait_for_each_other():
    stand = Stand(ORDERED, streams=["one", "two"]).open("a")
    stand.lend(0)
    late = stand.lend(0)
    stand.take(late)
    stand.take(stand.lend(1))
    assert [(sent.stream, sent.seq) for sent in stand.sent] == [(1, 0)]


def test_failed_frames_keep_their_place_in_the_order():
    stand = Stand(ORDERED).open("a")
    first, second, third = (stand.lend() for _ in range(3))
    second.without_arrays(Status.FAILED, "failed:z")
    stand.take(third)
    stand.take(second)
    assert stand.sent == []
    stand.take(first)
    assert [(sent.seq, sent.cause) for sent in stand.sent] == [(0, ""), (1, "failed:z"), (2, "")]
    assert [call[2] for call in calls()] == [0, 2]


def test_a_resent_frame_is_answered_as_before_without_a_call():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(3)]
    for one in headers:
        stand.take(one)
    before = counted(stand)
    CALLS.clear()
    stand.sockets.frames.clear()
    for slot in (1, 0, 2):
        stand.take(stand.again(slot))
    assert calls() == []
    assert counted(stand) == before
    assert [sent.attempt for sent in stand.sent] == [1, 1, 1]


def test_a_resent_failed_frame_fails_again_without_a_call():
    stages = {"a": {"use": "count", "fail_at": [0]}, "b": {"use": "note"}}
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    CALLS.clear()
    stand.take(stand.again())
    assert calls() == []
    assert [(sent.status, sent.cause) for sent in stand.sent] == [(Status.FAILED, "failed:a")] * 2


def test_after_a_death_an_ordered_stage_goes_on_with_its_state():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(4)]
    for one in headers[:2]:
        stand.take(one)
    before = counted(stand)
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")  # its successor: nothing but the arena is left
    assert calls("restore") == [("a", "restore", "demo")]
    CALLS.clear()
    for slot in (3, 2, 1, 0):
        stand.take(stand.again(slot))
    assert [call[2] for call in calls()] == [2, 3]
    assert counted(stand) == before | {2: 3, 3: 4}


def test_a_death_between_work_and_hand_over_counts_no_frame_twice():
    stand = Stand(ORDERED).open("a")
    lent = stand.lend()

    def killed(*args):
        raise SystemExit

    stand.sockets.send_frame = killed
    with pytest.raises(SystemExit):
        stand.take(lent)
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")
    CALLS.clear()
    stand.take(stand.again())
    assert calls() == []
    assert counted(stand) == {0: 1}


def test_a_death_before_the_state_is_saved_repeats_the_work():
    stand = Stand(ORDERED).open("a")
    first, second = stand.lend(), stand.lend()
    stand.take(first)

    def killed(*args):
        raise SystemExit

    stand.arena.states.save = killed
    with pytest.raises(SystemExit):
        stand.take(second)
    del stand.arena.states.save
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")
    stand.take(stand.again(1))
    assert counted(stand) == {1: 2}


def test_after_a_death_between_two_ordered_stages_each_goes_on():
    stages = {
        "a": {"use": "count", "process": "x"},
        "b": {"use": "count", "process": "x", "fail_at": [1], "error": "RunError"},
        "c": {"use": "note"},
    }
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    with pytest.raises(RunError):  # stands for a kill in b
        stand.take(stand.lend())
    stand.worker_table.mark_dead(stand.index)
    stand.graph.nodes[2].settings = CountSettings()
    stand.open("a")
    CALLS.clear()
    stand.take(stand.again(1))
    assert calls() == [("b", "process", 1)]
    [sent] = stand.sent
    assert [int(stand.frame(sent)[name]) for name in "ab"] == [2, 2]


def test_a_void_frame_does_not_move_the_order_on():
    stand = Stand(ORDERED).open("a")
    void = stand.lend()
    again = stand.again()
    stand.take(void)
    assert stand.sent == []
    stand.take(again)
    assert [sent.seq for sent in stand.sent] == [0]


def test_the_end_comes_after_all_frames():
    stand = Stand(ORDERED).open("a")
    first = stand.lend()
    end = header(seq=1, slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    assert calls("end") == []
    stand.take(first)
    assert calls("process", "end") == [("a", "process", 0), ("a", "end", "demo")]


def test_a_resent_end_reaches_the_stage_once():
    stand = Stand(ORDERED).open("a")
    end = header(slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    stand.take(stand.again(stand.arena.end_slot))
    assert len(calls("end")) == 1
    assert [sent.status for sent in stand.sent] == [Status.END] * 2


def test_an_unordered_stage_beside_an_ordered_one_gets_its_frames():
    stages = {
        "a": {"use": "note"},
        "b": {"use": "count", "process": "x", "after": "a"},
        "c": {"use": "note", "after": "capture"},
        "d": {"use": "note", "process": "x", "after": "c"},
    }
    stand = Stand(stages).open("b")
    first, second = stand.lend(), stand.lend()
    stand.take(second, after="c")
    stand.take(second, after="a")
    assert calls() == [("d", "process", 1)]
    stand.take(first, after="a")
    assert calls()[1:] == [("b", "process", 0), ("b", "process", 1)]


# --- capture ---


def consume(stand, change=None):
    """Return every frame at once, in place of the other workers."""

    def give_back(of):
        done = returned(of, stand.graph.leaves)
        if change is None or change(of, done):
            body = encode(done)
            stand.sockets.inbox.append(Message(Kind.RETURN, 1, 0, 0, body))

    stand.sockets.on_frame = give_back


def run(stand, change=None):
    stand.open("capture")
    consume(stand, change)
    stand.worker.loop()
    ledger = stand.arena.ledger()
    assert ledger.captured == total(ledger)
    return ledger


def test_a_source_is_read_to_its_end_and_the_end_comes_last():
    SCRIPT[:] = [(4, 6)] * 20
    stand = Stand({"a": {"use": "note"}})
    ledger = run(stand)
    assert (ledger.captured, ledger.delivered, ledger.in_flight) == (20, 20, 0)
    assert [sent.seq for sent in stand.sent] == [*range(20), 20]
    assert [sent.status for sent in stand.sent][-2:] == [Status.LIVE, Status.END]
    assert stand.arena.finished
    assert stand.shared.telemetry.stream(0).latency.count == 20
    assert stand.shared.telemetry.row(0, 0).processed == 20


def test_the_image_of_every_frame_lies_in_its_slot():
    SCRIPT[:] = [(4, 6), (2, 3), (5, 5)]
    stand = Stand({"a": {"use": "note"}})
    seen = {}

    def look(of, done):
        if of.status == Status.LIVE:
            seen[of.seq] = (of.width, of.height, stand.frame(of)["image"].copy())
        return True

    run(stand, look)
    for seq, (height, width) in enumerate(SCRIPT):
        assert seen[seq][:2] == (width, height)
        assert (seen[seq][2] == np.full((height, width, 3), seq + 1)).all()


def test_with_all_slots_lent_capture_waits():
    SCRIPT[:] = [(4, 6)] * 10
    stand = Stand({"a": {"use": "note"}}, streams={"demo": {"slots": 2}})
    most = []
    stand.open("capture")
    kept = []

    def receive(timeout_ms):
        """Return a frame only when capture has nothing else to do."""
        most.append(stand.arena.ledger().in_flight)
        if timeout_ms and kept:
            done = returned(kept.pop(0), stand.graph.leaves)
            return Message(Kind.RETURN, 1, 0, 0, encode(done))
        return None

    stand.sockets.on_frame = kept.append
    stand.sockets.receive = receive
    stand.worker.loop()
    assert max(most) == 2
    assert stand.arena.ledger().delivered == 10


def test_images_that_the_source_missed_are_counted():
    SCRIPT[:] = [(4, 6)] * 3
    MISSED[:] = [(2, 0), (0, 3), (1, 1)]
    ledger = run(Stand({"a": {"use": "note"}}, streams={"demo": {"live": True}}))
    assert ledger.captured == 10
    assert (ledger.dropped, ledger.failed) == ({"busy": 3}, {"decode": 4})
    assert ledger.delivered == 3


def test_after_a_death_frames_are_resent_and_each_ends_once():
    SCRIPT[:] = [(4, 6)] * 12
    stand = Stand({"a": {"use": "note"}})

    def die_at_5(of, done):
        if of.seq == 5 and of.attempt == 0:
            stand.worker_table.mark_dead(1)
            stand.worker_table.raise_epoch()
            return False
        return True

    ledger = run(stand, die_at_5)
    assert (ledger.captured, ledger.delivered) == (12, 12)
    assert [(sent.seq, sent.attempt) for sent in stand.sent if sent.attempt] == [(5, 1)]


def test_after_a_death_frames_waiting_for_a_replica_are_sent_once():
    SCRIPT[:] = [(4, 6)] * 4
    stand = Stand({"a": {"use": "twins"}}, streams={"demo": {"slots": 4}})
    stand.open("capture")
    receive = stand.sockets.receive

    def look(timeout_ms):
        """Once all frames wait and no replica is ready, one dies; then both are ready."""
        if timeout_ms and not stand.worker_table.epoch:
            assert stand.arena.ledger().in_flight == 4
            stand.worker_table.mark_dead(2)
            stand.worker_table.raise_epoch()
        elif timeout_ms and stand.worker._in_flight.awaiting_release is False:
            for worker in (1, 2):
                stand.worker_table.ready(worker)
        return receive(timeout_ms)

    stand.sockets.receive = look

    def give_back(of):
        worker = stand.sockets.frames[-1][0]
        stand.worker_table.count_done(worker, 0)
        body = encode(returned(of, stand.graph.leaves))
        stand.sockets.inbox.append(Message(Kind.RETURN, worker, 0, 0, body))

    stand.sockets.on_frame = give_back
    stand.worker.loop()
    assert [(sent.seq, sent.attempt) for sent in stand.sent] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 0),
    ]


def test_the_successor_of_capture_goes_on_behind_the_last_frame():
    SCRIPT[:] = [(4, 6)] * 12
    stand = Stand({"a": {"use": "note"}})

    def die_at_5(of, done):
        if of.seq == 5:
            raise SystemExit
        return True

    with pytest.raises(SystemExit):
        run(stand, die_at_5)
    stand.worker_table.mark_dead(0)
    stand.worker_table.raise_epoch()
    seen = {}

    def look(of, done):
        if of.status == Status.LIVE:
            seen[of.seq] = stand.frame(of)["image"][0, 0, 0]
        return True

    ledger = run(stand, look)
    assert calls("skip") == [("capture", "skip", 6)]
    assert (ledger.captured, ledger.delivered) == (12, 12)
    assert seen == {seq: seq + 1 for seq in sorted(seen)}
    assert max(seen) == 11
    assert 5 in seen


def test_the_successor_of_capture_does_not_open_an_ended_source():
    SCRIPT[:] = [(4, 6)] * 2
    stand = Stand({"a": {"use": "note"}})

    def die_at_the_end(of, done):
        if of.status == Status.END:
            raise SystemExit
        return True

    with pytest.raises(SystemExit):
        run(stand, die_at_the_end)
    stand.worker_table.mark_dead(0)
    SCRIPT.append((4, 6))
    ledger = run(stand)
    assert ledger.captured == 2
    assert stand.arena.finished
    assert calls("skip") == []


def test_a_stopped_capture_lends_no_more_and_drains():
    SCRIPT[:] = [(4, 6)] * 50
    stand = Stand({"a": {"use": "note"}})

    def stop_at_5(of, done):
        if of.seq == 5:
            stand.worker_table.stop()
        return True

    ledger = run(stand, stop_at_5)
    assert 6 <= ledger.captured <= 7
    assert ledger.delivered == ledger.captured
    assert stand.arena.finished


def test_an_image_larger_than_a_slot_ends_the_run_with_a_reason():
    SCRIPT[:] = [(4, 6), (400, 600)]
    stand = Stand({"a": {"use": "note"}}, max_frame="320x240")
    with pytest.raises(
        RunError,
        match=r"demo: an image is larger than `max_frame` \(found max_frame 320x240\); set",
    ):
        run(stand)


def test_images_that_shrink_release_memory_and_may_grow():
    sizes = [(100, 100)] * 8 + [(10, 10)] * 16 + [(140, 150)] * 8
    SCRIPT[:] = sizes
    stand = Stand({"a": {"use": "note"}}, streams={"demo": {"slots": 2}})
    resident = {}

    def look(of, done):
        resident[of.seq] = stand.arena.resident_bytes()
        return True

    ledger = run(stand, look)
    assert ledger.delivered == len(sizes)
    assert resident[20] < resident[7] - 2 * 20_000
    assert resident[31] > resident[7] + 2 * 30_000


def test_a_source_that_ended_too_early_is_reported_with_its_frames_kept(stand):
    said = stand
    SCRIPT[:] = [(4, 6)] * 3
    PROBLEM.append("the file is truncated")
    ledger = run(Stand({"a": {"use": "note"}}))
    assert ledger.delivered == 3
    assert [(r.kind, r.text) for r in said if r.kind == "broken"] == [
        ("broken", "demo: the file is truncated")
    ]


def test_stages_in_the_process_of_capture_return_without_a_message():
    SCRIPT[:] = [(4, 6)] * 5
    stages = {
        "capture": {"use": "pictures", "process": "x"},
        "a": {"use": "count", "process": "x", "fail_at": [3]},
        "b": {"use": "note", "process": "x"},
    }
    stand = Stand(stages)
    ledger = run(stand)
    assert (ledger.delivered, ledger.failed) == (4, {"failed:a": 1})
    assert calls("process", "end")[-1] == ("b", "end", "demo")
    assert [call[2] for call in calls() if call[0] == "b"] == [0, 1, 2, 4]
    assert stand.sockets.frames == []


@pytest.mark.parametrize(
    ("slots", "others", "most"), [("auto", 0, 3), ("auto", 1, 2), ("auto", 7, 1), (3, 7, 3)]
)
def test_live_streams_share_the_slots_beyond_one_each(slots, others, most):
    SCRIPT[:] = [(4, 6)] * 9
    demo = {"live": True, "slots": slots}
    stand = Stand({"a": {"use": "note"}, "b": {"use": "note"}}, streams={"demo": demo, "other": {}})
    stand.open("capture")
    assert stand.arena.slots == 3
    stand.worker_table.set_in_flight(1, others)  # those of another stream's capture worker
    while stand.worker._read():
        pass
    assert len(stand.sent) == most
    assert stand.worker_table.live_in_flight == others + most
    stand.worker_table.set_in_flight(1, 0)
    while stand.worker._read():
        pass
    assert len(stand.sent) == 3


def test_every_frame_is_in_the_trace(tmp_path):
    SCRIPT[:] = [(4, 6)] * 4
    with (tmp_path / "part").open("w+b") as file:
        stand = Stand({"a": {"use": "note"}}, trace_fds=[file.fileno()])
        run(stand, lambda of, done: setattr(done, "spans", of.spans) is None)
        file.seek(0)
        records = list(read_trace(file))
    assert [(r.seq, r.outcome) for r in records] == [(i, "") for i in range(4)]
    assert [[span.stage for span in r.spans] for r in records] == [[0]] * 4


# --- reports to the supervisor ---


def test_a_report_is_one_short_line_however_long_the_text():
    reader, writer = os.pipe()
    report = Report(3, "log", "ä" * 5000 + "\n")
    send_report(writer, report)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    assert data.count(b"\n") == 1
    assert len(data) < 4096
    found = msgspec.json.decode(data, type=Report)
    assert (found.worker, found.kind) == (3, "log")
    assert found.text.endswith(" ...")


def test_a_report_does_not_wait_for_a_supervisor_that_does_not_read():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for _ in range(200):
        send_report(writer, Report(0, "log", "x" * 1000))
    os.close(reader)
    os.close(writer)
