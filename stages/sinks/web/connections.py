"""Which connections of the status page are served: bounds, penalties, a lane for health checks.

Something outside watches `/healthz`, and restarts the run if it does not answer; clients that flood
the port must not bring that about. So connections are of three kinds, each with a bound of its own:

- served: by the HTTP server. If all are taken, one without a request is closed for a new one.
- penalised: has brought a wrong token and waits for the answer. It is not counted as served.
- reserve: comes while all are taken, or from an address of which many are penalised. It may ask
  for `/healthz` and `/readyz` and nothing else, and is read by a few lines of code and no HTTP
  server. If all are taken, the oldest is closed for a new one, so one that asks at once is
  answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

HEALTH = ("/healthz", "/readyz")
"""Paths that are answered whatever else is going on."""

MAX_CONNECTIONS = 256
"""Served at a time; beyond that, one that asks for nothing gives way to a new one."""
MAX_PENALISED = 256
"""Connections that wait for the answer to a wrong token; one more, and the oldest gets it."""
MAX_PENALISED_PER_ADDRESS = 64
"""From so many on, what else comes from the address goes to the reserve."""
MAX_RESERVE = 256
"""More than are accepted at once, so that one that asks at once is answered."""
MAX_HEAD_BYTES = 8192
"""Length of a request in the reserve."""
RESERVE_S = 5.0
"""How long a connection of the reserve may take to send its request."""
REFUSED_S = 1.0
"""How long a connection of the reserve that asks for something else waits for the refusal, so that
clients that try again at once cost little."""
ACCEPTED_AT_ONCE = 32
"""Connections. Few, as it takes some rounds of the event loop until a new one is read: by then no
more may have come than there is room for, or it would be closed unread."""
QUEUE = 1024
"""Connections that wait to be accepted; where they are too many, a client tries again after 1 s."""
OTHER_DESCRIPTORS = 64
"""What the process needs beside connections."""

PHRASES = {
    200: "OK",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

Health = tuple[str, int]
"""Text and status of the answer to a health check."""
Serve = Callable[[], web.RequestHandler]
"""Makes the protocol of a connection that is served."""


class Door:
    """Decides what becomes of each new connection.

    Args:
        health: answers the paths of `HEALTH`.
        headers: of every answer.
    """

    def __init__(
        self, health: Callable[[str], Awaitable[Health]], headers: Mapping[str, str]
    ) -> None:
        self.health, self.headers = health, headers
        self.busy: set[web.RequestHandler] = set()
        """Connections with a request that is being answered."""
        self._share = descriptors_per_kind()
        self._served: list[web.RequestHandler] = []
        """Oldest first; some of them may be closed."""
        self._penalised: dict[web.RequestHandler, asyncio.Event] = {}
        self._wrong: Counter[str] = Counter()
        """Address -> how many of it are penalised."""
        self._reading: dict[_Reserve, None] = {}
        """Of the reserve: have not asked for health, oldest first."""
        self._answering: dict[_Reserve, None] = {}
        """Of the reserve: have asked for health."""

    def protocol(self, serve: Serve) -> asyncio.Protocol:
        """Make the protocol of a new connection, whose address is not known yet."""
        return _Visitor(self, serve)

    def admit(self, transport: asyncio.BaseTransport, serve: Serve) -> asyncio.Protocol:
        """Choose what a new connection is."""
        if self._wrong[address_of(transport)] >= MAX_PENALISED_PER_ADDRESS:
            return _Reserve(self, 429)
        self._served = [one for one in self._served if one.transport is not None]
        count = sum(one not in self._penalised for one in self._served)
        if count >= min(MAX_CONNECTIONS, self._share):
            idle = next((one for one in self._served if one not in self.busy), None)
            if idle is None:
                return _Reserve(self, 503)
            idle.force_close()
        self._served.append(serve())
        return self._served[-1]

    async def penalise(self, connection: web.RequestHandler, seconds: float) -> None:
        """Have a connection wait that has brought a wrong token."""
        released = asyncio.Event()
        address = address_of(connection.transport)
        if len(self._penalised) >= min(MAX_PENALISED, self._share):
            next(iter(self._penalised.values())).set()
        self._penalised[connection] = released
        self._wrong[address] += 1
        try:
            async with asyncio.timeout(seconds):
                await released.wait()
        except TimeoutError:
            pass
        finally:
            del self._penalised[connection]
            self._wrong[address] -= 1
            if not self._wrong[address]:
                del self._wrong[address]

    def enter(self, one: _Reserve, answering: bool = False) -> None:
        """Count a connection of the reserve; close the oldest of its kind if there are too many."""
        self.leave(one)
        others = self._answering if answering else self._reading
        if len(others) >= min(MAX_RESERVE, self._share):
            next(iter(others)).finish()
        others[one] = None

    def leave(self, one: _Reserve) -> None:
        """Count a connection of the reserve no more."""
        self._reading.pop(one, None)
        self._answering.pop(one, None)

    def close(self) -> None:
        """Close the reserve."""
        for one in [*self._reading, *self._answering]:
            one.abort()


class _Visitor(asyncio.Protocol):
    """A connection until it is known from where it comes."""

    def __init__(self, door: Door, serve: Serve) -> None:
        self._door, self._serve = door, serve

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._door.admit(transport, self._serve)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Reserve(asyncio.Protocol):
    """A connection that may ask for the health of the run and nothing else.

    Args:
        door: that it came through.
        refusal: status of the answer to anything else.
    """

    def __init__(self, door: Door, refusal: int) -> None:
        self._door, self._refusal = door, refusal
        self._head = b""
        self._asked = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.enter(self)
        self._timer = asyncio.get_running_loop().call_later(RESERVE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return  # read and dropped: unread data would make the end of the connection a reset
        self._head += data[: MAX_HEAD_BYTES + 1]
        if b"\r\n\r\n" not in self._head and len(self._head) <= MAX_HEAD_BYTES:
            return
        self._asked = True
        method, _, rest = self._head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method in ("GET", "HEAD") and path in HEALTH:
            self._door.enter(self, answering=True)
            self._answering = asyncio.create_task(self._answer(path, method == "GET"))
        else:
            self._wait(REFUSED_S, self.finish)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()

    def finish(self) -> None:
        """End the connection, with the refusal if it has asked for something else than health."""
        if not self._asked or self._answering is not None:
            self.abort()
        else:
            self._send(f"{PHRASES[self._refusal]}\n", self._refusal, Retry_After="5")

    def abort(self) -> None:
        """End the connection without an answer."""
        self._door.leave(self)
        if self._transport is not None:
            self._transport.abort()

    async def _answer(self, path: str, body: bool) -> None:
        try:
            text, status = await self._door.health(path)
        except Exception as error:
            logging.debug("web: %s: %r", path, error)
            text, status = "this could not be answered\n", 500
        self._send(text, status, body)

    def _send(self, text: str, status: int, body: bool = True, **headers: str) -> None:
        head = {
            **self._door.headers,
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(text.encode())),
            "Connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [
            f"HTTP/1.1 {status} {PHRASES[status]}",
            *(f"{k}: {v}" for k, v in head.items()),
        ]
        assert self._transport is not None
        self._door.leave(self)
        self._transport.write(("\r\n".join(lines) + "\r\n\r\n" + (text if body else "")).encode())
        self._transport.close()

    def _wait(self, seconds: float, call: Callable[[], None]) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, call)


def descriptors_per_kind() -> int:
    """How many connections of each kind the limit of this process allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, (soft - OTHER_DESCRIPTORS) // 4)


def address_of(transport: asyncio.BaseTransport | None) -> str:
    """Name the address behind a connection; of IPv6 the network of 64 bits that a client has."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if not peer:
        return ""
    host = str(peer[0]).partition("%")[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
