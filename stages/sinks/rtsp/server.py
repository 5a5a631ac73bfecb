"""A small RTSP server: live pictures for a few readers, in plain Python.

RTSP 1.0 (RFC 2326) with RTP (RFC 3550) over the same connection or over UDP. One thread serves
everybody through a selector, so nothing here can wait for anybody: a viewer that reads too slowly
loses whole pictures, one that reads nothing is sent away, and memory is bounded by the number of
clients. Sender reports tie RTP time to the wall clock, so that a reader knows when each picture
was taken.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import hmac
import logging
import re
import secrets
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from stages.sinks.rtsp.rtp_jpeg import CLOCK_HZ, Media

NTP_EPOCH_S = 2_208_988_800
"""Unix time 0 in seconds since 1900, where NTP time begins."""

MAX_CLIENTS = 32
MAX_REQUEST_BYTES = 8192
"""Of a request's head, and of its body, which no request that is served here needs."""
MAX_REPLIES = 16
"""Of one client that waits for none of them: until it reads, no more requests are heard."""
MAX_WAITING_BYTES = 4 << 20
"""Of pictures that wait for one slow viewer."""
MAX_GIVEN = 256
"""Pictures that wait to be handed to the viewers of one mount."""
MAX_REFUSALS = 5
"""Wrong passwords on one connection."""

SETUP_S = 20.0
"""A connection that has set up no session by then is closed."""
SESSION_S = 60.0
"""So long may a viewer by UDP be silent, or one that has not begun to play."""
STALL_S = 10.0
"""A viewer that takes nothing for so long, though there is something to take, is sent away."""
REPORT_S = 5.0
"""Between two sender reports; the first one comes with the first picture."""
ACCEPT_PAUSE_S = 1.0
"""Without descriptors no client can be accepted; look again after so long."""

SEND_BUFFER_BYTES = 256 << 10
"""In the kernel, per viewer: more would hold old pictures."""
UDP_BURST = 24
"""Packets sent at once by UDP, as a large picture would overflow the reader's buffer ..."""
UDP_PAUSE_S = 0.001
"""... and the pause between two bursts."""

METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN", "GET_PARAMETER")
REALM = "Eyeline"
TRACK = "track1"

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    413: "Request Entity Too Large",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "RTSP Version not supported",
}

Transport = Literal["tcp", "udp"]
Scheme = Literal["digest", "basic"]
Start = Literal["key", "any", "after_key"]
"""Where a viewer's first picture may be: a key picture; whichever comes next, as with cameras that
let one in amid a group of pictures; or the one behind a key picture, which is always amid one."""


@dataclass(frozen=True)
class Credentials:
    """Who may look."""

    user: str
    password: str = field(repr=False)
    schemes: Sequence[Scheme] = ("digest", "basic")
    """What is offered; basic sends the password in the clear."""


_Answer = tuple[int, Mapping[str, str | list[str]], str]
"""Status, headers and body of a response."""


class _Picture(NamedTuple):
    payloads: list[bytes]
    size: int
    key: bool
    time_ns: int
    wall_ns: int


class Mount:
    """One path of a server. Pictures are put from any one thread."""

    def __init__(self, path: str, media: Media, start: Start, wake: Callable[[], None]) -> None:
        self.path, self.media, self.start = path, media, start
        self.viewers: list[_Client] = []
        """Those that play now. The server's own."""
        self.given: deque[_Picture | None] = deque()
        """Pictures on their way to the server's thread; None: some are missing. The server's."""
        self._wake = wake

    @property
    def watched(self) -> bool:
        """Whether anybody plays it: without, no picture need be made."""
        return bool(self.viewers)

    @property
    def key_wanted(self) -> bool:
        """Whether a viewer sees nothing until a key picture comes."""
        return any(viewer.key_wanted for viewer in list(self.viewers))

    def put(self, picture: bytes, time_ns: int, wall_ns: int) -> None:
        """Give the next picture to all viewers. Does not wait.

        Args:
            picture: as the mount's `Media` takes it.
            time_ns: when it is to be shown, by a clock that runs evenly, from anywhere.
            wall_ns: when it was taken, nanoseconds since the Unix epoch.

        Raises:
            ValueError: the picture cannot be sent.
        """
        if not self.viewers:
            return
        payloads = self.media.payloads(picture)
        size = sum(len(payload) for payload in payloads)
        if len(self.given) >= MAX_GIVEN:  # the server's thread gets no time
            self.given.clear()
            self.given.append(None)
        self.given.append(_Picture(payloads, size, self.media.is_key(picture), time_ns, wall_ns))
        self._wake()


class _Gone(Exception):  # noqa: N818 - no error: a client may go whenever it likes
    """A client is to be let go of; why, in words."""


class RtspServer:
    """Serves mounts to readers from a thread of its own, from `open` to `close`.

    Args:
        address: of the interface to listen at, IPv4 or IPv6.
        port: 0: a free one, see `port`.
        credentials: None: everybody may look.
        transports: how RTP may be sent.
        max_clients: connections at a time; further ones are answered with 503.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        credentials: Credentials | None = None,
        transports: Sequence[Transport] = ("tcp", "udp"),
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self.address, self.port = address, port
        self.credentials, self.transports = credentials, tuple(transports)
        self.mounts: dict[str, Mount] = {}
        self._max_clients = max_clients
        self._clients: set[_Client] = set()
        self._removed: deque[Mount] = deque()
        self._closing = False
        self._refused_log_s = float("-inf")
        self._listener: socket.socket | None = None
        self._accept_at_s = 0.0
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Listen, and start the thread.

        Raises:
            OSError: the address or port cannot be had.
        """
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        # Sets SO_REUSEADDR where that means: also while connections of a dead server linger.
        self._listener = socket.create_server((self.address, self.port), family=family)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._alarm, self._ear = socket.socketpair()
        self._alarm.setblocking(False)
        self._ear.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self.selector.register(self._ear, selectors.EVENT_READ, self._awake)
        self._thread = threading.Thread(target=self._run, name="rtsp", daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        """The address of a mount, without credentials."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"rtsp://{host}:{self.port}{path}"

    def add(self, path: str, media: Media, start: Start = "key") -> Mount:
        """Serve something under a path, beginning with a slash; at any time, from any thread.

        The path is of characters that need no escape in an address.
        """
        self.remove(path)
        mount = self.mounts[path] = Mount(path, media, start, self._wake)
        return mount

    def remove(self, path: str) -> None:
        """Serve it no more: its viewers are told that it is over. From any thread."""
        mount = self.mounts.pop(path, None)
        if mount is not None:
            self._removed.append(mount)
            self._wake()

    def find(self, url: str) -> Mount | None:
        """The mount that a request's address means, be it that of its track."""
        path = re.sub(r"^[a-zA-Z]+://[^/]*", "", url).partition("?")[0]
        path = "/" + path.strip("/")
        return self.mounts.get(path) or self.mounts.get(path.removesuffix(f"/{TRACK}"))

    def close(self) -> None:
        """Say goodbye to all, and end the thread. May be called twice, and before `open`."""
        if self._thread is None:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        self._thread = None

    # --- the thread ---

    def _wake(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # full: it wakes anyway; not open yet
            self._alarm.send(b"\0")

    def _awake(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)

    def _run(self) -> None:
        try:
            while not self._closing:
                hurry = any(client.hurry for client in self._clients)
                for key, events in self.selector.select(UDP_PAUSE_S if hurry else 0.5):
                    key.data(events)
                self._hand_out()
                self._tend(time.monotonic())
        finally:
            for client in list(self._clients):
                client.farewell()
                self._let_go(client, "the server closes")
            assert self._listener is not None
            self.selector.close()
            for end in (self._listener, self._alarm, self._ear):
                end.close()

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        try:
            connection, peer = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # It stays readable: to look at once would be to look all the time.
                self.selector.unregister(self._listener)
                self._accept_at_s = time.monotonic() + ACCEPT_PAUSE_S
            return
        connection.setblocking(False)
        try:
            if len(self._clients) >= self._max_clients:
                connection.send(reply(503))
                connection.close()
                return
            client = _Client(self, connection, peer[0])
        except OSError:  # it has gone already
            connection.close()
            return
        self._clients.add(client)
        self.watch(client, connection, client.serve)

    def watch(self, client: _Client, end: socket.socket, serve: Callable[[int], None]) -> None:
        """Call `serve` whenever there is something to read from one of a client's sockets."""

        def guarded(events: int) -> None:
            if client in self._clients:  # it may have been let go of since this was selected
                with self._guard(client):
                    serve(events)

        self.selector.register(end, selectors.EVENT_READ, guarded)

    def _hand_out(self) -> None:
        for mount in list(self.mounts.values()):
            while mount.given:
                picture = mount.given.popleft()
                for viewer in list(mount.viewers):
                    viewer.give(picture)
            for viewer in list(mount.viewers):
                with self._guard(viewer):
                    viewer.push()
        while self._removed:
            for viewer in list(self._removed.popleft().viewers):
                viewer.farewell()
                self._let_go(viewer, "the stream is over")

    def _tend(self, now_s: float) -> None:
        for client in list(self._clients):
            with self._guard(client):
                client.tend(now_s)
        if self._accept_at_s and now_s >= self._accept_at_s:
            assert self._listener is not None
            self._accept_at_s = 0.0
            self.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @contextlib.contextmanager
    def _guard(self, client: _Client) -> Iterator[None]:
        """Whatever goes wrong with one client is the end of that client only."""
        try:
            yield
        except _Gone as gone:
            self._let_go(client, str(gone))
        except OSError as error:
            self._let_go(client, error.strerror or type(error).__name__)
        except Exception as error:
            logging.exception("rtsp: a client is let go of")
            self._let_go(client, type(error).__name__)

    def _let_go(self, client: _Client, why: str) -> None:
        if client in self._clients:
            self._clients.remove(client)
            logging.debug("rtsp: %s: %s", client.peer, why)
            client.close()

    def refused(self, peer: str) -> None:
        """Note a wrong password; one line a minute, as somebody may be trying them all."""
        now_s = time.monotonic()
        if now_s - self._refused_log_s > 60:
            self._refused_log_s = now_s
            logging.warning("rtsp: wrong user or password from %s", peer)


class _Client:
    """One connection, and the session that it may have set up.

    Every method that talks to the client raises _Gone or OSError when that is over.
    """

    def __init__(self, server: RtspServer, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._server, self._connection = server, connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # also where so little is sent that nothing fills
            timeout_ms = round(2 * STALL_S * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        self._received = bytearray()
        self._skip = 0
        self._replies: deque[bytes] = deque()
        self._rest = memoryview(b"")
        self._ending = False
        self._nonce = secrets.token_hex(16)
        self._refusals = 0
        self._born_s = self._heard_s = self._moved_s = time.monotonic()
        # The session.
        self._session = ""
        self._mount: Mount | None = None
        self._channels: tuple[int, int] | None = None
        """Of RTP and RTCP in this connection; None: by UDP."""
        self._udp: tuple[socket.socket, socket.socket] | None = None
        """To the reader's RTP and RTCP ports."""
        self._playing = False
        self._started = False
        self._waiting: deque[_Picture] = deque()
        self._waiting_bytes = 0
        self._packets: deque[bytes] = deque()
        self._ssrc, self._sequence, self._base = (secrets.randbits(n) for n in (32, 16, 32))
        self._sent_packets = self._sent_bytes = 0
        self._newest: _Picture | None = None
        self._report_s = 0.0

    # --- pictures ---

    @property
    def hurry(self) -> bool:
        """Whether more packets go out by UDP in a moment."""
        return self._udp is not None and bool(self._packets or self._waiting)

    @property
    def key_wanted(self) -> bool:
        """Whether it waits for a key picture."""
        mount = self._mount  # asked for by any thread
        return not self._started and mount is not None and mount.start != "any"

    def give(self, picture: _Picture | None) -> None:
        """Let it have a picture, unless it is too slow or has to wait for another one.

        A picture that is on its way is not interrupted; those that wait behind it are replaced.
        """
        assert self._mount is not None
        if picture is None:
            self._started = False
            return
        if not self._started:
            if self._mount.start != "any" and not picture.key:
                return
            self._started = True
            if self._mount.start == "after_key":
                return
        if (
            len(self._waiting) >= self._mount.media.backlog
            or self._waiting_bytes + picture.size > MAX_WAITING_BYTES
        ):
            self._waiting.clear()
            self._waiting_bytes = 0
            if not picture.key:
                self._started = False
                return
        self._waiting.append(picture)
        self._waiting_bytes += picture.size

    def push(self) -> None:
        """Send what can be sent now."""
        self._send_packets()
        self._send()

    def _next_picture(self) -> list[bytes]:
        """The RTP packets of the picture that waits longest."""
        assert self._mount is not None
        picture = self._waiting.popleft()
        self._waiting_bytes -= picture.size
        self._newest = picture
        kind, stamp = self._mount.media.payload_type, self._rtp_time(picture)
        packets, last = [], len(picture.payloads) - 1
        for index, payload in enumerate(picture.payloads):
            marked = kind | 0x80 if index == last else kind
            head = struct.pack(">BBHII", 0x80, marked, self._sequence, stamp, self._ssrc)
            packets.append(head + payload)
            self._sequence = (self._sequence + 1) & 0xFFFF
        self._sent_packets += len(packets)
        self._sent_bytes += picture.size
        return packets

    def _rtp_time(self, picture: _Picture) -> int:
        return (self._base + picture.time_ns * CLOCK_HZ // 1_000_000_000) & 0xFFFFFFFF

    def _report_due(self) -> bool:
        return self._newest is not None and time.monotonic() >= self._report_s

    def _report(self, *more: bytes) -> bytes:
        """A sender report: when, by the wall clock, the newest picture was taken."""
        assert self._newest is not None
        self._report_s = time.monotonic() + REPORT_S
        seconds, rest_ns = divmod(self._newest.wall_ns, 1_000_000_000)
        report = struct.pack(
            ">BBHIIIIII",
            0x80,
            200,
            6,
            self._ssrc,
            (seconds + NTP_EPOCH_S) & 0xFFFFFFFF,
            (rest_ns << 32) // 1_000_000_000,
            self._rtp_time(self._newest),
            self._sent_packets & 0xFFFFFFFF,
            self._sent_bytes & 0xFFFFFFFF,
        )
        name = b"\x01\x07eyeline"
        name += bytes(4 - len(name) % 4)
        source = struct.pack(">BBHI", 0x81, 202, 1 + len(name) // 4, self._ssrc) + name
        return b"".join((report, source, *more))

    def _goodbye(self) -> bytes:
        return self._report(struct.pack(">BBHI", 0x81, 203, 1, self._ssrc))

    def farewell(self) -> None:
        """Tell a viewer, as far as that goes without waiting, that no more comes."""
        if not self._playing or self._newest is None:
            return
        with contextlib.suppress(OSError):
            if self._udp is not None:
                self._udp[1].send(self._goodbye())
            elif self._channels is not None and not self._rest:
                self._connection.send(interleaved(self._channels[1], [self._goodbye()]))

    # --- sending ---

    def _send_packets(self) -> None:
        """By UDP, a burst at a time."""
        if self._udp is None or not self._playing:
            return
        if not self._packets and self._waiting:
            self._packets.extend(self._next_picture())
        rtp, rtcp = self._udp
        try:
            if self._report_due():
                rtcp.send(self._report())
        except (BlockingIOError, ConnectionRefusedError):
            pass  # it does not listen to reports
        try:
            for _ in range(min(UDP_BURST, len(self._packets))):
                rtp.send(self._packets[0])
                self._packets.popleft()
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            raise _Gone("nobody listens at its port any more") from None

    def _send(self) -> None:
        """Over the connection, until it takes no more."""
        while True:
            if not self._rest:
                if self._replies:
                    self._rest = memoryview(b"".join(self._replies))
                    self._replies.clear()
                elif self._ending:
                    raise _Gone("sent away")
                elif self._playing and self._channels is not None and self._waiting:
                    blob = interleaved(self._channels[0], self._next_picture())
                    if self._report_due():
                        blob = interleaved(self._channels[1], [self._report()]) + blob
                    self._rest = memoryview(blob)
                elif self._playing and self._channels is not None and self._report_due():
                    self._rest = memoryview(interleaved(self._channels[1], [self._report()]))
                else:
                    break
                self._moved_s = time.monotonic()
            try:
                sent = self._connection.send(self._rest)
            except BlockingIOError:
                break
            self._rest = self._rest[sent:]
            self._moved_s = time.monotonic()
        listening = len(self._replies) < MAX_REPLIES and not self._ending
        events = selectors.EVENT_READ if listening or not self._rest else 0
        events |= selectors.EVENT_WRITE if self._rest else 0
        key = self._server.selector.get_key(self._connection)
        if key.events != events:
            self._server.selector.modify(self._connection, events, key.data)

    def tend(self, now_s: float) -> None:
        """Look after it now and then.

        Raises:
            _Gone: it takes nothing, or gives no sign of life.
        """
        if self._rest and now_s - self._moved_s > STALL_S:
            raise _Gone("takes nothing")
        if not self._session:
            if now_s - self._born_s > SETUP_S:
                raise _Gone("asks for nothing")
        elif (self._channels is None or not self._playing) and now_s - self._heard_s > SESSION_S:
            raise _Gone("gives no sign of life")
        if self._playing:
            self.push()

    def close(self) -> None:
        """Let go of everything."""
        self._end_session()
        self._server.selector.unregister(self._connection)
        self._connection.close()

    # --- requests ---

    def serve(self, events: int) -> None:
        """Send and hear as far as the connection is ready for it."""
        if events & selectors.EVENT_READ:
            try:
                received = self._connection.recv(65536)
            except BlockingIOError:
                received = None
            if received == b"":
                raise _Gone("has gone")
            if received is not None:
                self._heard_s = time.monotonic()
                if not self._ending:
                    self._received += received
        self._send()
        while self._hear():
            self._send()

    def _hear(self) -> bool:
        """Answer the requests that are whole, as long as the answers are read; whether any."""
        before = len(self._replies)
        while self._received and not self._ending and len(self._replies) < MAX_REPLIES:
            if self._skip:  # a reader's report, or a body
                skipped = min(self._skip, len(self._received))
                self._skip -= skipped
                del self._received[:skipped]
            elif self._received[0] == ord("$"):
                if len(self._received) < 4:
                    break
                self._skip = 4 + int.from_bytes(self._received[2:4], "big")
            elif self._received[0] in b"\r\n":
                self._received = self._received.lstrip(b"\r\n")
            else:
                end = self._received.find(b"\r\n\r\n", 0, MAX_REQUEST_BYTES)
                if end < 0:
                    if len(self._received) >= MAX_REQUEST_BYTES:
                        self._refuse(413)
                    break
                head = bytes(self._received[:end])
                del self._received[: end + 4]
                self._on_request(head)
        if self._ending:
            self._received.clear()
        return len(self._replies) > before

    def _on_request(self, head: bytes) -> None:
        lines = head.decode("utf-8", "replace").split("\r\n")
        words = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                return self._refuse(400)
            headers[name.strip().lower()] = value.strip()
        if len(words) != 3 or not words[2].startswith("RTSP/") or not lines[0].isprintable():
            return self._refuse(400)
        if words[2] != "RTSP/1.0":
            return self._refuse(505)
        body, cseq = headers.get("content-length", "0"), headers.get("cseq", "")
        if not re.fullmatch(r"[0-9]{1,9}", body) or not re.fullmatch(r"[0-9]{1,10}", cseq):
            return self._refuse(400)
        if int(body) > MAX_REQUEST_BYTES:
            return self._refuse(413)
        self._skip = int(body)
        code, answer, text = self._answer(words[0], words[1], headers)
        self._replies.append(reply(code, {"CSeq": cseq, **answer}, text))
        return None

    def _refuse(self, code: int) -> None:
        """Answer what is no request at all, and hear nothing more."""
        self._replies.append(reply(code))
        self._ending = True

    def _answer(self, method: str, url: str, headers: Mapping[str, str]) -> _Answer:
        """The status, headers and body that answer a request."""
        if method == "OPTIONS":
            return 200, {"Public": ", ".join(METHODS)}, ""
        if method not in METHODS:
            return 501, {"Public": ", ".join(METHODS)}, ""
        credentials = self._server.credentials
        given = headers.get("authorization")
        if credentials is not None and not authorized(given, method, self._nonce, credentials):
            if given is not None:
                self._server.refused(self.peer)
                self._refusals += 1
                self._ending = self._refusals >= MAX_REFUSALS
            return 401, {"WWW-Authenticate": challenges(self._nonce, credentials)}, ""
        session = headers.get("session", "").partition(";")[0].strip()
        if session and session != self._session:
            return 454, {}, ""
        if method == "DESCRIBE":
            return self._describe(url)
        if method == "SETUP":
            return self._set_up(url, headers.get("transport", ""))
        if method == "GET_PARAMETER":  # that it asks is all
            return 200, {"Session": self._session} if self._session else {}, ""
        if self._mount is None or not session:
            return 454, {}, ""
        if method == "PLAY":
            return self._play(url)
        self._end_session()
        return 200, {}, ""

    def _describe(self, url: str) -> _Answer:
        mount = self._server.find(url)
        if mount is None:
            return 404, {}, ""
        own = self._connection.getsockname()[0]
        lines = [
            "v=0",
            f"o=- {secrets.randbits(31)} 1 IN {'IP6' if ':' in own else 'IP4'} {own}",
            f"s={REALM}",
            f"c=IN {'IP6 ::' if ':' in own else 'IP4 0.0.0.0'}",
            "t=0 0",
            "a=range:npt=now-",
            "a=control:*",
            f"m=video 0 RTP/AVP {mount.media.payload_type}",
            *mount.media.sdp(),
            f"a=control:{TRACK}",
        ]
        base = url.partition("?")[0].rstrip("/") + "/"
        answer = {"Content-Base": base, "Content-Type": "application/sdp"}
        return 200, answer, "\r\n".join(lines) + "\r\n"

    def _set_up(self, url: str, transport: str) -> _Answer:
        mount = self._server.find(url)
        if mount is None:
            return 404, {}, ""
        if self._playing or (self._mount is not None and self._mount is not mount):
            return 455, {"Allow": "PLAY, TEARDOWN, GET_PARAMETER"}, ""
        for offer in transport.split(","):
            agreed = self._agree(offer.strip())
            if agreed is not None:
                self._mount = mount
                self._session = self._session or secrets.token_hex(8)
                answer = {
                    "Transport": f'{agreed};ssrc={self._ssrc:08X};mode="PLAY"',
                    "Session": f"{self._session};timeout={SESSION_S:.0f}",
                }
                return 200, answer, ""
        return 461, {}, ""

    def _agree(self, offer: str) -> str | None:
        """Set up one of the transports that a reader offers; None: that one does not do."""
        profile, *parameters = [part.strip() for part in offer.split(";")]
        given = dict(p.partition("=")[::2] for p in parameters)
        if "multicast" in given or given.get("mode", "PLAY").strip('"').upper() != "PLAY":
            return None
        allowed = self._server.transports
        if profile.upper() == "RTP/AVP/TCP" and "tcp" in allowed:
            channels = _pair(given.get("interleaved", "0-1"), 255)
            if channels is None:
                return None
            self._let_go_of_ports()
            self._channels = channels
            return f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
        if profile.upper() in ("RTP/AVP", "RTP/AVP/UDP") and "udp" in allowed:
            ports = _pair(given.get("client_port", ""), 65535)
            if ports is None or not ports[0]:
                return None
            # To the address that asks, never to one that it names: nobody is flooded on request.
            ours = self._take_ports(ports)
            self._channels = None
            return (
                f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]};server_port={ours}-{ours + 1}"
            )
        return None

    def _take_ports(self, theirs: tuple[int, int]) -> int:
        """Open a pair of neighbouring UDP ports towards the reader's; the first one's number."""
        self._let_go_of_ports()
        family, own = self._connection.family, self._connection.getsockname()[0]
        for _ in range(20):
            rtp = socket.socket(family, socket.SOCK_DGRAM)
            rtcp = socket.socket(family, socket.SOCK_DGRAM)
            try:
                rtp.bind((own, 0))
                first = int(rtp.getsockname()[1])
                if first % 2 or first == 65534:
                    raise OSError(errno.EADDRINUSE, "an odd port")
                rtcp.bind((own, first + 1))
                for end, port in zip((rtp, rtcp), theirs, strict=True):
                    end.connect((self.peer, port))
                    end.setblocking(False)
                rtp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            except OSError as error:
                rtp.close()
                rtcp.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._udp = rtp, rtcp
            for end in self._udp:
                self._server.watch(self, end, self._drain)
            return first
        raise _Gone("no pair of UDP ports is free")

    def _drain(self, events: int) -> None:
        """What a reader sends by UDP, reports and packets to open its firewall, is only heard."""
        for end in self._udp or ():
            try:
                end.recv(2048)
                self._heard_s = time.monotonic()
            except BlockingIOError:
                pass
            except ConnectionRefusedError:  # of something that was sent there
                if self._udp is not None and end is self._udp[0]:
                    raise _Gone("nobody listens at its port any more") from None

    def _play(self, url: str) -> _Answer:
        assert self._mount is not None
        if self._server.mounts.get(self._mount.path) is not self._mount:
            return 404, {}, ""  # it has gone meanwhile
        if not self._playing:
            self._playing, self._started = True, False
            self._mount.viewers.append(self)
        base = url.partition("?")[0].rstrip("/").removesuffix(f"/{TRACK}")
        answer = {
            "Session": self._session,
            "Range": "npt=now-",
            "RTP-Info": f"url={base}/{TRACK};seq={self._sequence}",
        }
        return 200, answer, ""

    def _end_session(self) -> None:
        if self._mount is not None and self in self._mount.viewers:
            self._mount.viewers.remove(self)
        self._let_go_of_ports()
        self._session, self._mount, self._channels, self._playing = "", None, None, False
        self._waiting.clear()
        self._waiting_bytes = 0
        self._newest, self._report_s = None, 0.0
        self._born_s = time.monotonic()

    def _let_go_of_ports(self) -> None:
        for end in self._udp or ():
            self._server.selector.unregister(end)
            end.close()
        self._udp = None
        self._packets.clear()


# --- what the protocols are made of ---


def reply(code: int, headers: Mapping[str, str | list[str]] | None = None, body: str = "") -> bytes:
    """An RTSP response. A header with several values is written several times."""
    lines = [f"RTSP/1.0 {code} {REASONS[code]}"]
    for name, values in (headers or {}).items():
        for value in [values] if isinstance(values, str) else values:
            lines.append(f"{name}: {value}")
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def interleaved(channel: int, packets: Sequence[bytes]) -> bytes:
    """RTP or RTCP packets as they go between the responses of a connection."""
    return b"".join(
        part
        for packet in packets
        for part in (struct.pack(">cBH", b"$", channel, len(packet)), packet)
    )


def _pair(text: str, largest: int) -> tuple[int, int] | None:
    """Two neighbouring numbers as in "4588-4589"; of one alone, the second follows from it."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2] or int(match[1]) + 1)
    return (first, second) if max(first, second) <= largest and first != second else None


def challenges(nonce: str, credentials: Credentials) -> list[str]:
    """What a reader is asked for, the better one first."""
    offers = {
        "digest": f'Digest realm="{REALM}", nonce="{nonce}", algorithm=MD5',
        "basic": f'Basic realm="{REALM}"',
    }
    return [offers[scheme] for scheme in credentials.schemes]


def authorized(given: str | None, method: str, nonce: str, credentials: Credentials) -> bool:
    """Whether an Authorization header (RFC 7616, RFC 7617) holds the right answer.

    The nonce is of this connection alone, so an answer overheard elsewhere is worth nothing.
    """
    scheme, _, text = (given or "").partition(" ")
    scheme = scheme.lower()
    if scheme not in credentials.schemes:
        return False
    if scheme == "basic":
        want = base64.b64encode(f"{credentials.user}:{credentials.password}".encode())
        return hmac.compare_digest(text.strip().encode(), want)
    fields = {
        name.lower(): quoted or bare
        for name, quoted, bare in re.findall(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))', text)
    }
    if fields.get("nonce") != nonce or fields.get("algorithm", "MD5").upper() != "MD5":
        return False
    middle = [nonce]
    if "qop" in fields:
        if fields["qop"] != "auth":
            return False
        middle += [fields.get("nc", ""), fields.get("cnonce", ""), "auth"]
    want_text = _md5(
        _md5(credentials.user, REALM, credentials.password),
        *middle,
        _md5(method, fields.get("uri", "")),
    )
    same_user = hmac.compare_digest(fields.get("username", "").encode(), credentials.user.encode())
    return same_user & hmac.compare_digest(fields.get("response", "").encode(), want_text.encode())


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
