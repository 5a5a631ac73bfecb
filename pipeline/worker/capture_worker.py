"""The worker of one stream's source: lends slots, takes frames back, resends after a death."""

from __future__ import annotations

import logging
import math
import time

import msgspec

from pipeline.edge import Kind, Return, decode_return
from pipeline.errors import RunError
from pipeline.frame import Frame, Header, SlotFullError, Span
from pipeline.graph.graph import Graph, Node, StreamSpec, WorkerSpec
from pipeline.memory.arena import Arena
from pipeline.stage import Source, Stage
from pipeline.status import SourceState
from pipeline.telemetry.counters import StreamRow
from pipeline.telemetry.trace import TraceRecord, TraceWriter
from pipeline.worker.in_flight import InFlight
from pipeline.worker.pacing import Pacer
from pipeline.worker.reports import Reporter
from pipeline.worker.worker import Shared, Worker, make_stage, max_batch

HELD_MS = 2
"""Interval at which capture asks whether workers have released the frames to be resent."""
RESTART_TOO_OLD_NS = 1_000_000_000
"""A live frame older than this is not resent after a death, unless `max_age_ms` is longer."""


class CaptureWorker(Worker):
    """The worker of one stream's source."""

    def __init__(self, shared: Shared, spec: WorkerSpec, stream: StreamSpec) -> None:
        super().__init__(shared, spec)
        self._stream = stream
        self._arena = shared.arenas[stream.index]
        self._watch = _SourceWatch(self._arena, spec.nodes[0].name, self._reporter)
        self._returned = _ReturnedFrames(shared, stream)
        max_age_ms = stream.settings.max_age_ms or 0
        too_old_ns = max(RESTART_TOO_OLD_NS, round(max_age_ms * 1e6))
        self._in_flight = InFlight(
            self._arena,
            self._worker_table,
            stream.index,
            shared.graph.leaves,
            too_old_ns if stream.live else None,
        )
        self._pacer = _make_pacer(shared.graph, stream)
        self._shares = stream.live and stream.settings.slots == "auto"
        """Whether the stream shares its slots in flight with the other live streams."""
        self._offered: Header | None = None
        """Frame that the source is filling."""
        self._offered_ns = self._offered_cpu_ns = 0
        """Monotonic and processor time at which it was offered."""
        self._offer_ns = 0.0
        """Monotonic time at which the next image is due."""
        self._missed = 0
        """Images since the latest that became a frame."""
        self._sizes: dict[int, int] = {}
        """Slot -> bytes of its image."""

    @property
    def _source(self) -> Source:
        source = self._chain.stages[self._spec.nodes[0]]
        assert isinstance(source, Source)
        return source

    def open(self) -> None:
        """Open the source and continue where the predecessor was killed."""
        super().open()
        self._in_flight.resume(time.monotonic_ns())
        self._publish_in_flight()

    def _make(self, node: Node) -> Stage:
        if issubclass(node.kind, Source):
            restarted = self._worker_table.incarnation(self._index) > 0 or self._stream.added
            context = msgspec.structs.replace(
                node.context, stream=self._stream.name, restarted=restarted
            )
            return make_stage(node.kind, self._stream.capture, context)
        return super()._make(node)

    def _open_stage(self, node: Node, stage: Stage) -> None:
        if isinstance(stage, Source) and (self._arena.ended or self._must_end()):
            # The source is not needed any more, and may not be there any more either.
            self._arena.ended = True
            return
        super()._open_stage(node, stage)
        if isinstance(stage, Source) and self._arena.position:
            stage.skip(self._arena.position, self._arena.last_source_ns)

    # --- the loop ---

    def loop(self) -> None:
        """Lend and take back until the stream has ended and its end has been everywhere."""
        if not self._arena.ended:
            self._source.start(self._sockets.own_wake())
        while not self._terminated and not self._arena.finished:
            now_ns = time.monotonic_ns()
            self._serve_stages()
            self._watch.check(self._source, now_ns)
            self._resend(now_ns)
            self._chain.flush()
            wait_ms = 0 if self._read() else self._until_due_ms()
            if self._in_flight.awaiting_release:
                wait_ms = min(wait_ms, HELD_MS)
            self._receive(wait_ms)

    def _must_end(self) -> bool:
        return self._worker_table.stopping or self._arena.removed

    def _receive(self, wait_ms: int) -> None:
        """Take back returned frames; wait for the first message only."""
        message = self._sockets.receive(wait_ms)
        while message is not None:
            if message.kind == Kind.RETURN:
                self._take_back(decode_return(message.body))
            message = self._sockets.receive(0)

    def _resend(self, now_ns: int) -> None:
        """Resend the frames in flight after a death, or after a timeout without returns."""
        cause = self._in_flight.watch(now_ns)
        if cause is not None:
            self._chain.forget_waiting()
        if cause == "unreturned":
            logging.warning(
                "stream %s: %d frames not returned, resending",
                self._stream.name,
                self._in_flight.count,
            )
        for header in self._in_flight.due(now_ns, in_order=bool(self._ordered)):
            self._launch(header)

    # --- from the source into flight ---

    def _read(self) -> bool:
        """Lend the next image if there is one; return whether to come back at once."""
        if self._arena.ended or self._must_end():
            self._arena.ended = True
            if not self._in_flight.count and not self._arena.generation(self._arena.end_slot):
                self._launch(self._in_flight.lend_end(time.monotonic_ns(), time.time_ns()))
            return False
        if self._watch.paused and not self._stream.live:
            return False
        if self._ordered and self._in_flight.awaiting_release:
            return False  # ordered stages of this worker get the older frames first
        if self._offered is None and not (self._may_lend() and self._is_due()):
            self._count_missed()
            return False
        try:
            if self._offered is None:
                self._offer(self._in_flight.blank())
            assert self._offered is not None
            filled = self._source.collect()
        except SlotFullError:
            raise self._too_large() from None
        self._count_missed()
        if filled is None:
            return False
        if not filled:
            self._arena.ended = True
            problem = self._source.problem()
            if problem:
                self._reporter.send("broken", f"{self._stream.name}: {problem}")
            return True
        header, self._offered = self._offered, None
        self._lend(header)
        return True

    def _may_lend(self) -> bool:
        """Return whether one more frame may be in flight.

        The frames that live streams have in flight beyond one each are shared among them: more
        than keeps the stages busy would only wait before them, and each frame for all the others.
        """
        if not self._in_flight.has_free_slot:
            return False
        if not (self._shares and self._in_flight.count):
            return True
        return self._worker_table.live_in_flight < self._stream.slots

    def _publish_in_flight(self) -> None:
        if self._stream.live:
            self._worker_table.set_in_flight(self._index, self._in_flight.count)

    def _is_due(self) -> bool:
        """Return whether it is time for the next image."""
        if self._pacer is None:
            return True
        self._offer_ns = self._pacer.due_ns(self._in_flight.next_seq)
        return time.monotonic_ns() >= self._offer_ns

    def _until_due_ms(self) -> int:
        """Return how long to wait for messages."""
        left_ms = (self._offer_ns - time.monotonic_ns()) / 1e6
        return min(self._poll_ms, math.ceil(left_ms)) if left_ms > 0 else self._poll_ms

    def _offer(self, header: Header) -> None:
        self._offered = header
        self._offered_ns, self._offered_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._source.offer(Frame(header, self._stream.name, self._arena.memory(header.slot)))

    def _count_captured(self, header: Header) -> None:
        """Count the work of the source, without the time that a live one waits for an image."""
        end_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns() - self._offered_cpu_ns
        start_ns = header.captured_ns if self._stream.live else self._offered_ns
        source = self._spec.nodes[0]
        self._rows[source].count(end_ns - start_ns, cpu_ns)
        header.spans.append(Span(source.index, self._index, start_ns, start_ns, end_ns))

    def _lend(self, header: Header) -> None:
        self._count_captured(header)
        offset, dtype, (height, width, channels) = header.arrays["image"]
        assert (offset, dtype, channels) == (0, "|u1", 3), "image must come first, as BGR uint8"
        header.width, header.height = width, height
        self._fit_memory(header)
        if self._pacer is not None:
            alone = not self._in_flight.count
            self._pacer.lent(header.seq, header.captured_ns, self._missed, alone)
        self._in_flight.lend(header)
        self._publish_in_flight()
        self._missed = 0
        self._launch(header)

    def _too_large(self) -> RunError:
        return RunError(
            f"streams.{self._stream.name}: an image is larger than `max_frame` "
            f"(found max_frame {self._shared.graph.config.max_frame}); set a larger `max_frame`"
        )

    def _fit_memory(self, header: Header) -> None:
        """Touch memory before it is needed when images grow; release it when they shrink.

        Raises:
            RunError: there is too little memory, or the slot has no room for the images of a frame.
        """
        size = header.width * header.height * 3 * self._shared.graph.images
        if size > self._arena.slot_bytes:
            raise self._too_large()
        known = self._sizes.get(header.slot)
        if known == size:
            return
        if not self._sizes or size > max(self._sizes.values()):
            self._arena.make_room(size, header.slot)
        elif known is not None and size < known:
            self._arena.shrink(header.slot, max(size, header.used))
        self._sizes[header.slot] = size

    def _launch(self, header: Header) -> None:
        """Send a lent frame through the stages of this worker, then to the next workers."""
        self._chain.taken_ns = time.monotonic_ns()
        self._worker_table.hold(self._index, 0, header)
        source = self._spec.nodes[0]
        self._chain.send(source, [header])
        self._chain.enter(source, [header])
        self._worker_table.release(self._index, 0)
        self._send_returns()

    def _count_missed(self) -> None:
        busy, decode = self._source.missed()
        self._missed += busy + decode
        if busy:
            self._arena.count_busy(busy)
        if decode:
            self._arena.count_decode(decode)

    # --- back from the last stages ---

    def _send_return(self, stream: int, done: Return) -> None:
        if stream == self._stream.index:
            self._take_back(done)
        else:
            super()._send_return(stream, done)

    def _take_back(self, done: Return) -> None:
        # Read before the slot can be lent again.
        again = self._arena.header_again(done.slot, self._stream.index)
        taken = self._in_flight.take_back(done, time.monotonic_ns())
        if taken is None or done.slot == self._arena.end_slot:
            return
        self._publish_in_flight()
        outcome, spans = taken
        if not outcome and self._pacer is not None:
            self._pacer.returned(again.seq, again.captured_ns, spans)
        self._returned.record(again, done.returned_ns, outcome, spans)


class _SourceWatch:
    """Pauses and resumes a source as requested, and reports each change of its state."""

    def __init__(self, arena: Arena, stage: str, reporter: Reporter) -> None:
        self.paused = False
        self._arena, self._stage, self._reporter = arena, stage, reporter
        self._condition: SourceState | None = None
        self._seen_ns = time.monotonic_ns()

    def check(self, source: Source, now_ns: int) -> None:
        """Look at the source; call it all the time.

        Args:
            source: the source of the stream.
            now_ns: monotonic time.
        """
        if self._arena.ended:
            condition = SourceState("ended")
        else:
            if self._arena.paused != self.paused:
                self.paused = self._arena.paused
                (source.pause if self.paused else source.resume)()
            condition = SourceState("paused") if self.paused else source.condition
        if condition.state == "waiting":
            self._arena.count_away(now_ns - self._seen_ns)
        self._seen_ns = now_ns
        if condition == self._condition:
            return
        was, self._condition = self._condition, condition
        if was is not None and was.state == "waiting" and condition.state == "live":
            self._arena.count_reconnect()
        info = {self._stage: dict(source.info())}
        self._reporter.send("condition", condition=condition, info=info)


class _ReturnedFrames:
    """Counters and trace of the frames of one stream that have been returned."""

    def __init__(self, shared: Shared, stream: StreamSpec) -> None:
        self._stream, self._nodes = stream.index, shared.graph.nodes
        self._row: StreamRow = shared.counters.stream(stream.index)
        trace_fd = shared.trace_fds.get(stream.index)
        self._trace = None if trace_fd is None else TraceWriter(trace_fd)

    def record(self, header: Header, returned_ns: int, outcome: str, spans: list[Span]) -> None:
        """Record a frame whose loan has ended.

        Args:
            header: its header, without arrays.
            returned_ns: monotonic time at which the last stage returned it.
            outcome: cause in the ledger; "" if it was delivered.
            spans: work of the stages on it.
        """
        if not outcome:
            self._row.count(header.captured_ns, returned_ns, spans)
            self._count_waits(spans)
        if self._trace is not None:
            self._trace.write(
                TraceRecord(
                    self._stream,
                    header.seq,
                    header.attempt,
                    header.captured_ns,
                    header.wall_ns,
                    header.source_ns,
                    returned_ns,
                    outcome,
                    spans,
                    header.ntp_ns,
                )
            )

    def _count_waits(self, spans: list[Span]) -> None:
        """Count how long the frame waited between the stages."""
        through_ns = {span.stage: span.end_ns for span in spans}
        for span in spans:
            after = self._nodes[span.stage].after
            if after is not None and after.index in through_ns:
                self._row.count_wait(span.stage, span.start_ns - through_ns[after.index])


def _make_pacer(graph: Graph, stream: StreamSpec) -> Pacer | None:
    """Return None where frames may wait: every frame of a file counts, and batches must fill."""
    if not stream.live or max_batch(graph.nodes) > 1:
        return None
    return Pacer({n.index: n.after.index for n in graph.nodes if n.after is not None})
