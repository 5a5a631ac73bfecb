"""One connection to the RTSP server, and the session that its viewer has set up."""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from stages.sinks.rtsp.auth import Credentials, Login
from stages.sinks.rtsp.mount import TRACK, MediaImage, Mount
from stages.sinks.rtsp.requests import (
    Headers,
    Malformed,
    Request,
    RequestParser,
    Transport,
    interleaved,
    parse_transport,
    response,
)
from stages.sinks.rtsp.rtp_sender import RtpSender
from stages.sinks.rtsp.udp import SEND_BUFFER_BYTES, UdpPorts

METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "TEARDOWN", "GET_PARAMETER")
MAX_RESPONSES = 16
"""Responses that a viewer has not read yet; then no more requests are read."""
MAX_REFUSALS = 5
"""Wrong passwords on one connection; then it is closed."""
SETUP_S = 20.0
"""A connection without a session is closed after this time."""
SESSION_TIMEOUT_S = 60.0
"""Timeout of a viewer by UDP, or of one that has not begun to play."""
STALL_S = 10.0
"""A viewer that reads nothing for this time, though there is something to read, is disconnected."""

Answer = tuple[int, Headers, str]
"""Status, headers and body of a response."""


class Disconnected(Exception):  # noqa: N818 - normal: a viewer may leave at any time
    """The connection has to be closed; the text says why."""


class Host(Protocol):
    """The part of the server that a session needs."""

    @property
    def credentials(self) -> Credentials | None:
        """Credentials that viewers need."""

    @property
    def transports(self) -> Sequence[Transport]:
        """Ways to send RTP."""

    def find(self, url: str) -> Mount | None:
        """Return the mount of a request's address."""

    def is_served(self, mount: Mount) -> bool:
        """Return whether a mount has not been removed."""

    def count_refusal(self, peer: str) -> None:
        """Note a wrong password."""

    def watch(self, session: Session, end: socket.socket, serve: Callable[[int], None]) -> None:
        """Call `serve` when there is something to read from a socket of a session."""

    def set_events(self, end: socket.socket, events: int) -> None:
        """Wait for other events of a watched socket."""

    def unwatch(self, end: socket.socket) -> None:
        """Stop watching a socket."""


class Session:
    """One connection, and the session that its viewer may have set up.

    Methods that send or receive raise Disconnected or OSError when the connection is over.
    """

    def __init__(self, host: Host, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._host, self._connection = host, connection
        _tune(connection)
        self._parser = RequestParser()
        self._responses: deque[bytes] = deque()
        self._unsent = memoryview(b"")
        self._ending = False
        self._login = Login()
        self._began_s = self.received_s = self._sent_s = time.monotonic()
        self._id = ""
        self._mount: Mount | None = None
        self._channels: tuple[int, int] | None = None
        """RTP and RTCP channel in this connection; None: by UDP."""
        self._udp: UdpPorts | None = None
        self._playing = False
        self.sender = RtpSender()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the connection has not taken yet."""
        return len(self._unsent)

    @property
    def has_burst(self) -> bool:
        """Whether more packets are sent by UDP after a pause."""
        return self._udp is not None and bool(self._udp.packets or self.sender.waiting)

    # --- images ---

    def give(self, image: MediaImage | None) -> None:
        """Queue an image; None: some images before the next one are missing."""
        assert self._mount is not None
        self.sender.give(image, self._mount)

    def send_pending(self) -> None:
        """Send as much as can be sent now."""
        self._send_by_udp()
        self._send()

    def send_bye(self) -> None:
        """Send BYE to a viewer that plays, if that is possible without waiting."""
        if not self._playing or not self.sender.has_sent:
            return
        with contextlib.suppress(OSError):
            if self._udp is not None:
                self._udp.send_report(self.sender.goodbye())
            elif self._channels is not None and not self._unsent:
                self._connection.send(interleaved(self._channels[1], [self.sender.goodbye()]))

    def _send_by_udp(self) -> None:
        """Send one burst."""
        udp = self._udp
        if udp is None or not self._playing or self._mount is None:
            return
        if not udp.packets and self.sender.waiting:
            udp.packets.extend(self.sender.next_packets(self._mount.media.payload_type))
        if self.sender.is_report_due:
            udp.send_report(self.sender.report())
        try:
            udp.send_burst()
        except ConnectionRefusedError:
            raise Disconnected("its UDP port is closed") from None

    def _send(self) -> None:
        """Send over the connection until it takes no more."""
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._next_bytes())
                if not self._unsent:
                    break
                self._sent_s = time.monotonic()
            try:
                sent = self._connection.send(self._unsent)
            except BlockingIOError:
                break
            self._unsent = self._unsent[sent:]
            self._sent_s = time.monotonic()
        is_reading = len(self._responses) < MAX_RESPONSES and not self._ending
        events = selectors.EVENT_READ if is_reading or not self._unsent else 0
        events |= selectors.EVENT_WRITE if self._unsent else 0
        self._host.set_events(self._connection, events)

    def _next_bytes(self) -> bytes:
        """Return the next bytes for the connection: responses first, then an image, a report."""
        if self._responses:
            data = b"".join(self._responses)
            self._responses.clear()
            return data
        if self._ending:
            raise Disconnected("refused")
        if not self._playing or self._channels is None or self._mount is None:
            return b""
        rtp, rtcp = self._channels
        data = b""
        if self.sender.waiting:
            packets = self.sender.next_packets(self._mount.media.payload_type)
            data = interleaved(rtp, packets)
        if self.sender.is_report_due:
            data = interleaved(rtcp, [self.sender.report()]) + data
        return data

    # --- life ---

    def housekeep(self, now_s: float) -> None:
        """Send what is due, and check the timeouts.

        Raises:
            Disconnected: the viewer reads nothing, or sends no sign of life.
        """
        if self._unsent and now_s - self._sent_s > STALL_S:
            raise Disconnected(f"has read nothing for {STALL_S:g} s")
        if not self._id:
            if now_s - self._began_s > SETUP_S:
                raise Disconnected(f"has set up no session for {SETUP_S:g} s")
        elif (
            self._channels is None or not self._playing
        ) and now_s - self.received_s > SESSION_TIMEOUT_S:
            raise Disconnected(f"has sent nothing for {SESSION_TIMEOUT_S:g} s")
        if self._playing:
            self.send_pending()

    def close(self) -> None:
        """Release the session, its ports and the connection."""
        self._end_session()
        self._host.unwatch(self._connection)
        self._connection.close()

    # --- requests ---

    def serve(self, events: int) -> None:
        """Send and receive as much as the connection is ready for."""
        if events & selectors.EVENT_READ:
            try:
                received = self._connection.recv(65536)
            except BlockingIOError:
                received = None
            if received == b"":
                raise Disconnected("closed by the viewer")
            if received is not None:
                self.received_s = time.monotonic()
                if not self._ending:
                    self._parser.feed(received)
        self._send()
        while self._answer_requests():
            self._send()

    def _answer_requests(self) -> bool:
        """Answer the complete requests while responses are read; whether there was one."""
        before = len(self._responses)
        while not self._ending and len(self._responses) < MAX_RESPONSES:
            try:
                request = self._parser.next()
            except Malformed as error:
                self._responses.append(response(error.status))
                self._ending = True
                break
            if request is None:
                break
            code, headers, body = self._answer(request)
            self._responses.append(response(code, {"CSeq": request.cseq, **headers}, body))
        if self._ending:
            self._parser.clear()
        return len(self._responses) > before

    def _answer(self, request: Request) -> Answer:
        """Return status, headers and body of the response to a request."""
        method, headers = request.method, request.headers
        if method == "OPTIONS":
            return 200, {"Public": ", ".join(METHODS)}, ""
        if method not in METHODS:
            return 501, {"Public": ", ".join(METHODS)}, ""
        refusal = self._check_login(method, headers)
        if refusal is not None:
            return refusal
        session = headers.get("session", "").partition(";")[0].strip()
        if session and session != self._id:
            return 454, {}, ""
        if method == "DESCRIBE":
            return self._describe(request.url)
        if method == "SETUP":
            return self._set_up(request.url, headers.get("transport", ""))
        if method == "GET_PARAMETER":  # a keep-alive
            return 200, {"Session": self._id} if self._id else {}, ""
        if self._mount is None or not session:
            return 454, {}, ""
        if method == "PLAY":
            return self._play(request.url, self._mount)
        self._end_session()
        return 200, {}, ""

    def _check_login(self, method: str, headers: Mapping[str, str]) -> Answer | None:
        credentials, header = self._host.credentials, headers.get("authorization")
        if credentials is None:
            return None
        challenges = self._login.challenges(credentials, header, method)
        if challenges is None:
            return None
        if header is not None:
            self._host.count_refusal(self.peer)
            self._ending = self._login.refusals >= MAX_REFUSALS
        return 401, {"WWW-Authenticate": challenges}, ""

    def _describe(self, url: str) -> Answer:
        mount = self._host.find(url)
        if mount is None:
            return 404, {}, ""
        base = url.partition("?")[0].rstrip("/") + "/"
        headers = {"Content-Base": base, "Content-Type": "application/sdp"}
        return 200, headers, mount.sdp(self._connection.getsockname()[0])

    def _set_up(self, url: str, transport: str) -> Answer:
        mount = self._host.find(url)
        if mount is None:
            return 404, {}, ""
        if self._playing or (self._mount is not None and self._mount is not mount):
            return 455, {"Allow": "PLAY, TEARDOWN, GET_PARAMETER"}, ""
        for offer in transport.split(","):
            agreed = self._agree(offer.strip())
            if agreed is not None:
                self._mount = mount
                self._id = self._id or secrets.token_hex(8)
                headers = {
                    "Transport": f'{agreed};ssrc={self.sender.ssrc:08X};mode="PLAY"',
                    "Session": f"{self._id};timeout={SESSION_TIMEOUT_S:.0f}",
                }
                return 200, headers, ""
        return 461, {}, ""

    def _agree(self, offer: str) -> str | None:
        """Set up one of the transports that a viewer offers; None: it is not supported."""
        parsed = parse_transport(offer)
        if parsed is None or parsed[0] not in self._host.transports:
            return None
        transport, (first, second) = parsed
        if transport == "tcp":
            self._release_ports()
            self._channels = first, second
            return f"RTP/AVP/TCP;unicast;interleaved={first}-{second}"
        own = self._take_ports((first, second))
        self._channels = None
        return f"RTP/AVP;unicast;client_port={first}-{second};server_port={own}-{own + 1}"

    def _take_ports(self, ports: tuple[int, int]) -> int:
        """Open UDP ports towards the viewer's, and return the number of the first one.

        Packets go to the address of the connection, never to one that a request names: no third
        party can be flooded.
        """
        self._release_ports()
        own = self._connection.getsockname()[0]
        self._udp = UdpPorts(self._connection.family, own, self.peer, ports)
        for end in (self._udp.rtp, self._udp.rtcp):
            self._host.watch(self, end, self._receive_by_udp)
        return self._udp.first

    def _receive_by_udp(self, events: int) -> None:
        """Read reports, and packets that open the viewer's firewall: a sign of life."""
        try:
            if self._udp is not None and self._udp.receive():
                self.received_s = time.monotonic()
        except ConnectionRefusedError:
            raise Disconnected("its UDP port is closed") from None

    def _play(self, url: str, mount: Mount) -> Answer:
        if not self._host.is_served(mount):
            return 404, {}, ""
        if not self._playing:
            self._playing, self.sender.started = True, False
            mount.viewers.append(self)
        base = url.partition("?")[0].rstrip("/").removesuffix(f"/{TRACK}")
        headers = {
            "Session": self._id,
            "Range": "npt=now-",
            "RTP-Info": f"url={base}/{TRACK};seq={self.sender.sequence}",
        }
        return 200, headers, ""

    def _end_session(self) -> None:
        if self._mount is not None and self in self._mount.viewers:
            self._mount.viewers.remove(self)
        self._release_ports()
        self._id, self._mount, self._channels, self._playing = "", None, None, False
        self.sender.reset()
        self._began_s = time.monotonic()

    def _release_ports(self) -> None:
        if self._udp is not None:
            self._host.unwatch(self._udp.rtp)
            self._host.unwatch(self._udp.rtcp)
            self._udp.close()
        self._udp = None


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Ends also a dead connection to which so little is sent that no buffer fills. Linux only.
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:
        connection.setsockopt(socket.IPPROTO_TCP, user_timeout, round(2 * STALL_S * 1000))
