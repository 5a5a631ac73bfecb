"""Edges: how headers get from one worker to the next. The one file here that imports zmq.

Every worker has one inbox, a PULL socket that it binds; its senders connect PUSH sockets to it. No
queue needs a bound of its own, since there are never more frames in flight than slots.

Among **replicas**, a frame goes to the one with the least in hand, and only while that one has
credit; other frames wait at the sender, so a slow replica never holds work that a free one could
do. Credit costs no message: receivers count finished frames in shared memory (`WorkerTable.done`),
and a receiver wakes only a sender that waits.

The address of an inbox contains the worker's incarnation, so messages to a dead worker never reach
its successor; the supervisor announces the successor at the moment of death, and messages sent from
then on wait in the sender's socket. Messages may be lost with a worker: the capture worker resends
frames that do not return (`pipeline/worker/in_flight.py`).

Addresses are abstract Unix sockets: they have no file, so none is left behind, and peers of other
users are refused (IPC_FILTER_UID).
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import msgspec
import zmq

from pipeline.frame import Header, Span
from pipeline.memory.worker_table import WorkerTable

RECONNECT_MS = 10


class Return(msgspec.Struct, array_like=True, gc=False):
    """The message by which a last stage returns a frame to its capture worker."""

    slot: int
    generation: int
    attempt: int
    leaves: int
    """Bit set of the last stages that have finished with it."""
    cause: str
    """"" if all of them received a live frame, else the cause in the ledger."""
    returned_ns: int
    spans: list[Span]


class Kind(IntEnum):
    """First byte of a message."""

    FRAME = 0
    RETURN = 1
    WAKE = 2


class Message(msgspec.Struct):
    """A message as received."""

    kind: Kind
    sender: int
    """Index of the sending worker."""
    incarnation: int
    """Incarnation of the sender; its successor has another."""
    stage: int
    """Index of the stage that the frame comes from."""
    body: bytes


_header_decoder = msgspec.msgpack.Decoder(Header)
_return_decoder = msgspec.msgpack.Decoder(Return)
_encoder = msgspec.msgpack.Encoder()

decode_header: Callable[[bytes], Header] = _header_decoder.decode
decode_return: Callable[[bytes], Return] = _return_decoder.decode
encode: Callable[[Header | Return], bytes] = _encoder.encode

_PREFIX = struct.Struct("<BBHI")
"""Kind, stage, sender, incarnation of the sender."""


class Sockets:
    """All sockets of one worker: its inbox, and one PUSH socket per worker it sends to."""

    def __init__(self, run: str, worker: int, worker_table: WorkerTable) -> None:
        self._run, self._worker, self._worker_table = run, worker, worker_table
        self._incarnation = worker_table.incarnation(worker)
        self._context = zmq.Context(io_threads=1)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.LINGER, 0)
        self._inbox.setsockopt(zmq.RCVHWM, 0)
        self._inbox.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        self._inbox.bind(self._address(worker, self._incarnation))
        self._inbox.bind("inproc://inbox")
        self._peers: dict[int, tuple[int, zmq.Socket[bytes]]] = {}
        self._wake = self._pack(Kind.WAKE)
        self.blocked: set[Edge] = set()
        """Edges of this worker that wait for credit; receivers wake it while there is one."""

    def _address(self, worker: int, incarnation: int) -> str:
        return f"ipc://@eyeline.{self._run}.{worker}.{incarnation}"

    def receive(self, timeout_ms: int) -> Message | None:
        """Return the next message, of all senders in turn; None if none came in time."""
        # Reading its events makes a socket look at new connections and new messages. Receiving
        # alone does so only at every hundredth message while there always is one: a stage that is
        # overloaded by one stream would not see the other streams for that long.
        if not int(self._inbox.getsockopt(zmq.EVENTS)) & zmq.POLLIN and (
            timeout_ms == 0 or not self._inbox.poll(timeout_ms)
        ):
            return None
        data = self._inbox.recv(zmq.NOBLOCK)
        kind, stage, sender, incarnation = _PREFIX.unpack_from(data)
        return Message(Kind(kind), sender, incarnation, stage, data[_PREFIX.size :])

    def send_frame(self, worker: int, stage: int, body: bytes) -> None:
        """Send an encoded header to a worker."""
        self._push(worker, self._pack(Kind.FRAME, stage, body))

    def send_return(self, worker: int, done: Return) -> None:
        """Send a frame's return to its capture worker."""
        self._push(worker, self._pack(Kind.RETURN, 0, encode(done)))

    def wake(self, worker: int) -> None:
        """Wake a worker: there is credit again."""
        self._push(worker, self._wake)

    def own_wake(self) -> Callable[[], None]:
        """Return a function by which another thread of this process wakes the reader."""
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect("inproc://inbox")
        message = self._wake

        def notify() -> None:
            socket.send(message)

        return notify

    def close(self) -> None:
        """Close all sockets at once; messages in transit are lost and their frames resent."""
        self._context.destroy(linger=0)

    def _pack(self, kind: Kind, stage: int = 0, body: bytes = b"") -> bytes:
        return _PREFIX.pack(kind, stage, self._worker, self._incarnation) + body

    def _push(self, worker: int, data: bytes) -> None:
        incarnation = self._worker_table.incarnation(worker)
        peer = self._peers.get(worker)
        if peer is None or peer[0] != incarnation:
            if peer is not None:
                peer[1].close(0)
            socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.connect(self._address(worker, incarnation))
            peer = self._peers[worker] = incarnation, socket
        peer[1].send(data, zmq.NOBLOCK)


class Edge:
    """The way from one stage to the workers of a following one."""

    def __init__(
        self,
        sockets: Sockets,
        worker_table: WorkerTable,
        sender: int,
        stage: int,
        receivers: Sequence[int],
        credit: int,
    ) -> None:
        """Make an edge.

        Args:
            sockets: sockets of the sending worker.
            worker_table: worker table of the run.
            sender: index of the sending worker.
            stage: index of the stage that the frames come from.
            receivers: indices of the receiving workers: one, or the replicas.
            credit: frames that a replica may have in hand; a single receiver takes all.
        """
        self._sockets, self._worker_table = sockets, worker_table
        self._sender, self._stage, self._credit = sender, stage, credit
        self._receivers = tuple(receivers)
        self._backlog: deque[bytes] = deque()
        self._sent = dict.fromkeys(self._receivers, 0)
        self._base = {r: worker_table.done(r, sender) for r in self._receivers}
        self._incarnation = {r: worker_table.incarnation(r) for r in self._receivers}

    def send(self, header: Header) -> None:
        """Send a header, now or as soon as a replica has credit."""
        if len(self._receivers) == 1:
            self._sockets.send_frame(self._receivers[0], self._stage, encode(header))
            return
        self._backlog.append(encode(header))
        self.flush()

    def flush(self) -> None:
        """Send the waiting headers for which there is credit."""
        while self._backlog:
            receiver = self._free()
            if receiver is None:
                # First publish that this worker waits, then look again: a replica that became free
                # between the two would otherwise not wake it.
                self._sockets.blocked.add(self)
                self._worker_table.set_sender_waiting(self._sender, waiting=True)
                receiver = self._free()
                if receiver is None:
                    return
            self._sent[receiver] += 1
            self._sockets.send_frame(receiver, self._stage, self._backlog.popleft())
        if self in self._sockets.blocked:
            self._sockets.blocked.discard(self)
            self._worker_table.set_sender_waiting(self._sender, waiting=bool(self._sockets.blocked))

    def forget(self) -> None:
        """Drop the waiting headers: they are about to be resent."""
        self._backlog.clear()
        self.flush()

    @property
    def waiting(self) -> int:
        """Number of frames that wait for credit."""
        return len(self._backlog)

    def _free(self) -> int | None:
        """Return the receiver with the least in hand; None if none has credit."""
        best, least = None, self._credit
        for receiver in self._receivers:
            if not self._worker_table.is_ready(receiver):
                continue
            incarnation = self._worker_table.incarnation(receiver)
            done = self._worker_table.done(receiver, self._sender)
            if incarnation != self._incarnation[receiver]:
                self._incarnation[receiver] = incarnation
                self._sent[receiver], self._base[receiver] = 0, done
            in_hand = self._sent[receiver] - (done - self._base[receiver])
            if in_hand < least:
                best, least = receiver, in_hand
        return best


class Reorder:
    """The frames of one stream that arrive from several replicas, put back into `seq` order.

    Bounded by the slots: the next frame is lent, and so are all that wait behind it.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        """`seq` of the next frame in order."""
        self._early: dict[int, Header] = {}

    def add(self, header: Header) -> None:
        """Keep a frame until its turn; of several attempts, the newest."""
        known = self._early.get(header.seq)
        if known is None or (known.generation, known.attempt) < (header.generation, header.attempt):
            self._early[header.seq] = header

    def due(self) -> Iterator[Header]:
        """Yield the frames whose turn it is; the caller raises `expected` past each processed one.

        A frame that turns out to be void is not counted: it is resent.
        """
        while True:
            header = self._early.pop(self.expected, None)
            if header is None:
                return
            yield header

    def __len__(self) -> int:
        return len(self._early)
