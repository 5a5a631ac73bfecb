"""Connections of the status page: how many of each kind are open at a time.

A monitor polls `/healthz` and restarts the run if there is no answer; clients that flood the port
must not cause that. So there are three kinds of connections, each with a limit of its own:

- served: handled by the HTTP server. At the limit, an idle one is closed for a new one.
- penalised: has sent a wrong token and waits for the answer. Does not count as served.
- health-only: accepted while all served ones are busy, or from an address with many penalised
  ones. Only `/healthz` and `/readyz` are answered, by a few lines of code and no HTTP server. At
  the limit, the oldest is closed for a new one, so a client that asks at once is answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from pipeline.context import Log
from stages.sinks.web.health import HEALTH_PATHS, Health
from stages.sinks.web.responses import INTERNAL_ERROR

MAX_SERVED = 256
"""Served connections."""
MAX_PENALISED = 256
"""Penalised connections; for one more, the oldest is answered at once."""
MAX_PENALISED_PER_ADDRESS = 64
"""Penalised connections of an address, from which on its new connections are health-only."""
MAX_HEALTH_ONLY = 256
"""Health-only connections. More than `ACCEPT_BATCH`, so that a client that asks at once is
answered before its connection is the oldest."""
MAX_HEALTH_REQUEST_BYTES = 8192
"""Length of a request on a health-only connection."""
HEALTH_REQUEST_TIMEOUT_S = 5.0
"""Time in which a health-only connection must send its request, seconds."""
REFUSAL_DELAY_S = 1.0
"""Delay before another request on a health-only connection is refused, seconds, so that clients
that retry at once cost little."""
ACCEPT_BATCH = 32
"""Connections that are accepted at once. A new connection is read a few rounds of the event loop
later: until then no more than fit may have come, or it would be closed unread."""
LISTEN_BACKLOG = 1024
"""Connections that wait to be accepted; when it is full, a client retries after 1 s."""
OTHER_DESCRIPTORS = 64
"""File descriptors that the process needs for other things than connections."""

REASONS = {
    200: "OK",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

MakeHandler = Callable[[], web.RequestHandler]
"""Makes the protocol of a served connection."""


class ConnectionLimiter:
    """Decides the kind of each new connection, and closes old ones.

    Args:
        health: answers the paths of `HEALTH_PATHS`.
        headers: headers of every answer.
        log: logger of the stage.
    """

    def __init__(
        self, health: Callable[[str], Awaitable[Health]], headers: Mapping[str, str], log: Log
    ) -> None:
        self.health, self.headers, self.log = health, headers, log
        self.busy: set[web.RequestHandler] = set()
        """Connections with a request that is being answered."""
        self._limit = connections_per_kind()
        self._served: list[web.RequestHandler] = []
        """Oldest first; some may be closed."""
        self._penalised: dict[web.RequestHandler, asyncio.Event] = {}
        """Connection -> event that ends its delay, oldest first."""
        self._penalised_of: Counter[str] = Counter()
        """Address -> number of its penalised connections."""
        self._reading: dict[_HealthOnly, None] = {}
        """Health-only connections that have not sent a health check yet, oldest first."""
        self._answering: dict[_HealthOnly, None] = {}
        """Health-only connections with a health check that is being answered, oldest first."""

    def protocol(self, make_handler: MakeHandler) -> asyncio.Protocol:
        """Make the protocol of a new connection, whose address is not known yet."""
        return _Accepted(self, make_handler)

    def admit(
        self, transport: asyncio.BaseTransport, make_handler: MakeHandler
    ) -> asyncio.Protocol:
        """Choose the kind of a new connection and make its protocol."""
        if self._penalised_of[client_address(transport)] >= MAX_PENALISED_PER_ADDRESS:
            return _HealthOnly(self, 429)
        self._served = [one for one in self._served if one.transport is not None]
        count = sum(one not in self._penalised for one in self._served)
        if count >= min(MAX_SERVED, self._limit):
            idle = next((one for one in self._served if one not in self.busy), None)
            if idle is None:
                return _HealthOnly(self, 503)
            idle.force_close()
        self._served.append(make_handler())
        return self._served[-1]

    async def penalise(self, connection: web.RequestHandler, seconds: float) -> None:
        """Delay a connection that has sent a wrong token."""
        released = asyncio.Event()
        address = client_address(connection.transport)
        if len(self._penalised) >= min(MAX_PENALISED, self._limit):
            next(iter(self._penalised.values())).set()
        self._penalised[connection] = released
        self._penalised_of[address] += 1
        try:
            async with asyncio.timeout(seconds):
                await released.wait()
        except TimeoutError:
            pass
        finally:
            del self._penalised[connection]
            self._penalised_of[address] -= 1
            if not self._penalised_of[address]:
                del self._penalised_of[address]

    def add(self, connection: _HealthOnly, answering: bool = False) -> None:
        """Count a health-only connection; at the limit of its kind, close the oldest."""
        self.remove(connection)
        others = self._answering if answering else self._reading
        if len(others) >= min(MAX_HEALTH_ONLY, self._limit):
            next(iter(others)).finish()
        others[connection] = None

    def remove(self, connection: _HealthOnly) -> None:
        """Stop counting a health-only connection."""
        self._reading.pop(connection, None)
        self._answering.pop(connection, None)

    def close(self) -> None:
        """Close all health-only connections."""
        for connection in [*self._reading, *self._answering]:
            connection.abort()


class _Accepted(asyncio.Protocol):
    """A new connection until its address is known.

    Args:
        limiter: decides the kind of the connection.
        make_handler: makes the protocol of a served connection.
    """

    def __init__(self, limiter: ConnectionLimiter, make_handler: MakeHandler) -> None:
        self._limiter, self._make_handler = limiter, make_handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._limiter.admit(transport, self._make_handler)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _HealthOnly(asyncio.Protocol):
    """A connection on which only health checks are answered.

    Args:
        limiter: counts the connection.
        refusal: HTTP status of the answer to any other request.
    """

    def __init__(self, limiter: ConnectionLimiter, refusal: int) -> None:
        self._limiter, self._refusal = limiter, refusal
        self._request = b""
        self._is_complete = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._limiter.add(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEALTH_REQUEST_TIMEOUT_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            return  # read and dropped: unread data would make the end of the connection a reset
        self._request += data[: MAX_HEALTH_REQUEST_BYTES + 1]
        is_too_long = len(self._request) > MAX_HEALTH_REQUEST_BYTES
        if b"\r\n\r\n" not in self._request and not is_too_long:
            return
        self._is_complete = True
        method, _, rest = self._request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method in ("GET", "HEAD") and path in HEALTH_PATHS:
            self._limiter.add(self, answering=True)
            self._answering = asyncio.create_task(self._answer(path, method == "GET"))
        else:
            assert self._timer is not None
            self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(REFUSAL_DELAY_S, self.finish)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limiter.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()

    def finish(self) -> None:
        """Close the connection; refuse its request if it is complete and no health check."""
        if not self._is_complete or self._answering is not None:
            self.abort()
        else:
            self._send(f"{REASONS[self._refusal]}\n", self._refusal, Retry_After="5")

    def abort(self) -> None:
        """Close the connection without an answer."""
        self._limiter.remove(self)
        if self._transport is not None:
            self._transport.abort()

    async def _answer(self, path: str, body: bool) -> None:
        try:
            text, status = await self._limiter.health(path)
        except Exception as error:
            self._limiter.log.debug("%s: %r", path, error)
            text, status = f"{INTERNAL_ERROR}\n", 500
        self._send(text, status, body)

    def _send(self, text: str, status: int, body: bool = True, **headers: str) -> None:
        head = {
            **self._limiter.headers,
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(text.encode())),
            "Connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [
            f"HTTP/1.1 {status} {REASONS[status]}",
            *(f"{name}: {value}" for name, value in head.items()),
        ]
        assert self._transport is not None
        self._limiter.remove(self)
        answer = "\r\n".join(lines) + "\r\n\r\n" + (text if body else "")
        self._transport.write(answer.encode())
        self._transport.close()


def connections_per_kind() -> int:
    """Return how many connections of each kind the descriptor limit of this process allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, (soft - OTHER_DESCRIPTORS) // 4)


def client_address(transport: asyncio.BaseTransport | None) -> str:
    """Return the address of a client; of IPv6 its network of 64 bits, which one client has."""
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
