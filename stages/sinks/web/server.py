"""The HTTP server of the status page.

One thread with an event loop. Nothing that a client does, or does not do, affects the pipeline:
connections, viewers, sizes and times are limited.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from pipeline.context import Log
from pipeline.status import RunHandle
from stages.sinks.web.activity import ActivityLog
from stages.sinks.web.auth import Authorizer
from stages.sinks.web.connections import (
    ACCEPT_BATCH,
    LISTEN_BACKLOG,
    ConnectionLimiter,
    connections_per_kind,
)
from stages.sinks.web.middleware import make_application
from stages.sinks.web.responses import INTERNAL_ERROR, SECURITY_HEADERS, text_response
from stages.sinks.web.routes import Routes
from stages.sinks.web.run_reader import RunReader
from stages.sinks.web.settings import WebSettings
from stages.sinks.web.viewers import FrameBroadcaster, ViewerSlots

SEND_BUFFER_BYTES = 256 << 10
"""Send buffer of a connection. Images in the buffer of a slow viewer are old when it shows them."""
KEEPALIVE_TIMEOUT_S = 15
"""Time in which a client must send its first or its next request, seconds."""
SHUTDOWN_TIMEOUT_S = 0.2


class WebServer:
    """Listens, and answers in a thread of its own.

    Args:
        settings: settings of the stage.
        run: run to show.
        activity: activities to show.
        log: logger of the stage.
    """

    def __init__(
        self, settings: WebSettings, run: RunHandle, activity: ActivityLog, log: Log
    ) -> None:
        self._log = log
        self._address, self._port = settings.address, int(settings.port)
        self._broadcaster = FrameBroadcaster()
        self._slots = ViewerSlots(settings.viewers)
        self._reader = RunReader(run, activity, lambda: self._slots.used, log)
        self._limiter = ConnectionLimiter(self._reader.health, SECURITY_HEADERS, log)
        self._authorizer = Authorizer(settings, self._limiter.penalise)
        self._routes = Routes(
            settings, self._reader, activity, self._broadcaster, self._slots, self._authorizer
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""
        """Address of the page, once open."""

    # --- called by the stage ---

    def open(self) -> None:
        """Listen and begin to answer.

        Raises:
            OSError: cannot listen at the address or port.
        """
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        listener = socket.create_server(
            (self._address, self._port), family=family, backlog=LISTEN_BACKLOG
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        host = f"[{self._address}]" if ":" in self._address else self._address
        self.url = f"http://{host}:{listener.getsockname()[1]}/"
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve_in_thread, args=(listener, started), name="web", daemon=True
        )
        self._thread.start()
        started.wait()

    def is_awaited(self, stream: str) -> bool:
        """Return whether a viewer waits for a frame of this stream."""
        return self._broadcaster.is_awaited(stream)

    def publish(self, stream: str, jpeg: bytes, wall_ns: int, event: bytes) -> None:
        """Give a frame to all viewers that wait for it."""
        self._call(self._broadcaster.publish, stream, jpeg, wall_ns, event)

    def end(self, stream: str) -> None:
        """Report to all viewers of a stream that it has ended."""
        self._call(self._broadcaster.end, stream)

    def close(self) -> None:
        """Close all connections and end the thread. May be called twice."""
        if self._thread is not None:
            assert self._stop is not None
            self._call(self._stop.set)
            self._thread.join()
            self._thread = None
        self._reader.close()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop is closed: there are no viewers

    # --- the thread ---

    def _serve_in_thread(self, listener: socket.socket, started: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, started))
        except Exception as error:
            self._log.error("status page failed: %s: %s", type(error).__name__, error)
        finally:
            started.set()

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._log_exception)
        application = make_application(
            self._routes.table(), self._authorizer, self._limiter, self._log
        )
        runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await runner.setup()
        assert runner.server is not None
        # Not through a site of aiohttp, as the limiter makes the protocol of each connection.
        server = await self._loop.create_server(
            partial(self._limiter.protocol, partial(_make_connection, runner.server, self._log)),
            sock=listener,
            backlog=min(ACCEPT_BATCH, connections_per_kind()),
        )
        listener.listen(LISTEN_BACKLOG)  # asyncio has set its backlog to what it accepts at once
        samples = asyncio.create_task(self._reader.sample())
        started.set()
        try:
            await self._stop.wait()
        finally:
            samples.cancel()
            server.close()
            self._limiter.close()
            await runner.cleanup()

    def _log_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.debug("%s: %r", context.get("message"), context.get("exception"))


class _Connection(web.RequestHandler):
    """A connection whose errors name no library, path or traceback."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # So that a phone which left the network is noticed within a minute, not hours.
        connection = transport.get_extra_info("socket")
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer an error outside of the middlewares, for example invalid HTTP."""
        if request.writer.output_size:
            raise ConnectionResetError  # part of the answer is sent already
        text = "expected an HTTP request" if status == 400 else INTERNAL_ERROR
        response = text_response(f"{text}\n", status)
        response.headers.update(SECURITY_HEADERS)  # no signal is sent for such a request
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        self.logger.debug("a connection failed: %s", args)


def _make_connection(server: web.Server, log: Log) -> web.RequestHandler:
    return _Connection(
        server,
        loop=asyncio.get_running_loop(),
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        lingering_time=1.0,
        logger=log,  # type: ignore[arg-type]
        access_log=None,  # type: ignore[arg-type]
        auto_decompress=False,
        max_headers=64,
    )
