"""Workers without processes and sockets: the stages, the sockets and the run of their tests."""

import logging
import os
import signal

import numpy as np
import pytest

from pipeline.edge import Kind, Message, decode_header, decode_return, encode
from pipeline.errors import EndRun, RunError
from pipeline.frame import Frame
from pipeline.memory.run_info import SharedRunInfo
from pipeline.memory.stream_table import StreamEntry, StreamTable
from pipeline.stage import Array, BatchSettings, Resolved, Source, SourceInfo, Stage
from pipeline.telemetry.counters import Counters
from pipeline.worker import reports
from pipeline.worker import worker as worker_file
from pipeline.worker.capture_worker import CaptureWorker
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
        if frame.seq in self.settings.fail_at and self.settings.error != "derive":
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


class Paint(Count):
    """Makes a picture of the number of each frame."""

    gives = (Array("count"), Array("picture", "uint8", (None, None)))
    derived = ("picture",)

    def derive(self, frame):
        CALLS.append((self.name, "derive", frame.seq))
        if "derive" in self.settings.error and frame.seq in self.settings.fail_at:
            raise ValueError(f"set to fail at {frame.seq}")
        frame.put("picture", np.full((40, 50), frame[self.name], np.uint8))


class Veil(Note):
    """Puts another image in the place of the captured one."""

    takes = gives = (IMAGE,)
    hides = ("image",)

    def process(self, frame):
        super().process(frame)
        frame.put("image", np.zeros((2, 2, 3), np.uint8))


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
    name: f"tests.pipeline.worker.stand:{name.capitalize()}"
    for name in ("note", "add", "batch", "count", "paint", "twins", "veil", "pictures")
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
            counters=Counters(len(names), len(self.graph.workers), len(self.graph.streams)),
            run_info=SharedRunInfo(),
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
