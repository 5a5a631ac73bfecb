"""Requests and responses of RTSP 1.0 (RFC 2326), as bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

MAX_REQUEST_BYTES = 8192
"""Limit of a request's head, and of its body, which no request that is answered here needs."""

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
Headers = Mapping[str, str | list[str]]


class Request(NamedTuple):
    """A request; header names in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]
    cseq: str


class Malformed(Exception):  # noqa: N818 - the peer's fault, answered with a status
    """The received bytes are no request; `status` answers them, and the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status


class RequestParser:
    """Cuts the received bytes of a connection into requests; passes over RTCP and bodies."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._skip_bytes = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._received += data

    def clear(self) -> None:
        """Drop all received bytes."""
        self._received.clear()

    def next(self) -> Request | None:
        """Return the next request; None: none is complete.

        Raises:
            Malformed: the bytes are no request.
        """
        while self._received:
            if self._skip_bytes:  # a viewer's RTCP, or a body
                skipped = min(self._skip_bytes, len(self._received))
                self._skip_bytes -= skipped
                del self._received[:skipped]
            elif self._received[0] == ord("$"):
                if len(self._received) < 4:
                    return None
                self._skip_bytes = 4 + int.from_bytes(self._received[2:4], "big")
            elif self._received[0] in b"\r\n":
                self._received = self._received.lstrip(b"\r\n")
            else:
                return self._next_head()
        return None

    def _next_head(self) -> Request | None:
        end = self._received.find(b"\r\n\r\n", 0, MAX_REQUEST_BYTES)
        if end < 0:
            if len(self._received) >= MAX_REQUEST_BYTES:
                raise Malformed(413)
            return None
        head = self._received[:end].decode("utf-8", "replace")
        del self._received[: end + 4]
        lines = head.split("\r\n")
        words = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise Malformed(400)
            headers[name.strip().lower()] = value.strip()
        if len(words) != 3 or not words[2].startswith("RTSP/") or not lines[0].isprintable():
            raise Malformed(400)
        if words[2] != "RTSP/1.0":
            raise Malformed(505)
        body, cseq = headers.get("content-length", "0"), headers.get("cseq", "")
        if not re.fullmatch(r"[0-9]{1,9}", body) or not re.fullmatch(r"[0-9]{1,10}", cseq):
            raise Malformed(400)
        if int(body) > MAX_REQUEST_BYTES:
            raise Malformed(413)
        self._skip_bytes = int(body)
        return Request(words[0], words[1], headers, cseq)


def response(code: int, headers: Headers | None = None, body: str = "") -> bytes:
    """Return an RTSP response. A header with several values is written several times."""
    lines = [f"RTSP/1.0 {code} {REASONS[code]}"]
    for name, values in (headers or {}).items():
        for value in [values] if isinstance(values, str) else values:
            lines.append(f"{name}: {value}")
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def interleaved(channel: int, packets: Sequence[bytes]) -> bytes:
    """Return RTP or RTCP packets as they are sent between the responses of a connection."""
    return b"".join(
        part
        for packet in packets
        for part in (struct.pack(">cBH", b"$", channel, len(packet)), packet)
    )


def parse_transport(offer: str) -> tuple[Transport, tuple[int, int]] | None:
    """Parse one of the transports that a SETUP request offers.

    Returns:
        The transport, and the numbers of its channels (tcp) or of the viewer's ports (udp); None:
        it is not one that is served here.
    """
    profile, *parameters = [part.strip() for part in offer.split(";")]
    given = dict(p.partition("=")[::2] for p in parameters)
    if "multicast" in given or given.get("mode", "PLAY").strip('"').upper() != "PLAY":
        return None
    if profile.upper() == "RTP/AVP/TCP":
        channels = number_pair(given.get("interleaved", "0-1"), 255)
        return None if channels is None else ("tcp", channels)
    if profile.upper() in ("RTP/AVP", "RTP/AVP/UDP"):
        ports = number_pair(given.get("client_port", ""), 65535)
        return ("udp", ports) if ports is not None and ports[0] else None
    return None


def number_pair(text: str, largest: int) -> tuple[int, int] | None:
    """Parse two neighbouring numbers such as "4588-4589"; a single one is followed by the next."""
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2] or int(match[1]) + 1)
    return (first, second) if max(first, second) <= largest and first != second else None
