"""The HTTP server of the status page: who may ask for what, and how much of it at a time.

One thread with an event loop. Nothing that a client does, or does not do, is felt outside of it:
there are bounds for connections, viewers, sizes and times. An answer never tells of libraries,
paths or tracebacks.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from aiohttp import WSMsgType, hdrs, web

from pipeline.config import NAME
from pipeline.messages import one_line
from pipeline.status import Run, RunStatus
from stages.sinks.files.events import utc_ms
from stages.sinks.listen import is_loopback
from stages.sinks.web.activity import Feed
from stages.sinks.web.allowed_sources import NotAllowedError, Sources
from stages.sinks.web.connections import ACCEPTED_AT_ONCE, QUEUE, Door, Health, descriptors_per_kind
from stages.sinks.web.metrics import STEP_S, History, exposition, why_not_ready
from stages.sinks.web.web import WebSettings

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SEALED = {
    "Server": "Eyeline",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer."""

MOST_BODY = 64 << 10
MOST_MESSAGE = 16 << 10
"""Of what a viewer sends; it is a list of streams at most."""
MOST_WATCHED = 256
"""Streams of one viewer."""
SEND_BUFFER = 256 << 10
"""Of a connection: what lies in it when a viewer is slow is old when it comes."""
HEADERS_S = 15
"""For a request to come, the first or the next."""
REQUEST_S = 20
"""For a request's body to come and its answer to go."""
SLOW_S = 10
"""For one picture to go."""
SNAPSHOT_S = 3
"""For a stream to have a picture."""
FRESH_NS = 500_000_000
"""A picture no older than this is given at once to one more who asks."""
WRONG_TOKEN_S = 0.5
"""How long the answer to a wrong token takes."""
STATUS_S = 1.0
"""How often a viewer is told the status."""
FEED_S = 0.25
"""How often it is looked whether there is something new to tell a viewer."""
STATUS_KEPT_S = 0.25
METRICS_KEPT_S = 1.0
BOUNDARY = "eyeline-picture"
STREAM = re.compile(NAME.strip("^$"))
"""Name of a stream, as a whole."""

HEALTHY: Health = ("ok\n", 200)
READY: Health = ("ready\n", 200)
NOT_READY: Health = ("not ready\n", 503)

T = TypeVar("T")


class Picture(NamedTuple):
    """A picture that is drawn and encoded."""

    number: int
    """Counts up from 1, over all streams."""
    jpeg: bytes
    frame: int
    """Number of the frame in its stream."""
    wall_ns: int
    """Wall-clock time of capture."""
    made_ns: int
    """Monotonic time at which it was encoded."""


class Gallery:
    """The newest picture of each stream, and who waits for the next one.

    `wants` may be asked from any thread; all else is for that of the event loop.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Picture] = {}
        self._waiting: dict[str, set[asyncio.Future[Picture | None]]] = {}
        self._numbers = 0

    def wants(self, stream: str) -> bool:
        """Whether somebody waits for a picture of this stream."""
        return stream in self._waiting

    def put(self, stream: str, jpeg: bytes, frame: int, wall_ns: int) -> None:
        """Give a picture to all who wait for it."""
        self._numbers += 1
        picture = Picture(self._numbers, jpeg, frame, wall_ns, time.monotonic_ns())
        self._newest[stream] = picture
        self._give(stream, picture)

    def end(self, stream: str) -> None:
        """Tell those who wait for a picture of this stream that none comes."""
        self._newest.pop(stream, None)
        self._give(stream, None)

    def _give(self, stream: str, picture: Picture | None) -> None:
        for waiting in self._waiting.pop(stream, ()):
            if not waiting.done():
                waiting.set_result(picture)

    async def next(self, stream: str, after: int) -> Picture | None:
        """The first picture with a higher number than this; None: the stream is over."""
        newest = self._newest.get(stream)
        if (
            newest is not None
            and newest.number > after
            and time.monotonic_ns() - newest.made_ns < FRESH_NS
        ):
            return newest
        waiting: asyncio.Future[Picture | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(stream, set()).add(waiting)
        try:
            return await waiting
        finally:
            others = self._waiting.get(stream)
            if others is not None:
                others.discard(waiting)
                if not others:
                    del self._waiting[stream]


class Refusal(Exception):  # noqa: N818 - an answer like others
    """Answers a request with an error."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        """Say why.

        Args:
            status: of HTTP.
            text: for a person; names nothing that the asking side does not know.
            headers: further ones of the answer, with _ for -.
        """
        super().__init__(text)
        self.status, self.text = status, text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Kept(Generic[T]):
    """What takes time to make, made at most once in so many seconds however many ask.

    Args:
        make: called in the executor.
        seconds: how long it is kept.
        executor: of one thread.
    """

    def __init__(self, make: Callable[[], T], seconds: float, executor: ThreadPoolExecutor) -> None:
        self._make, self._seconds, self._executor = make, seconds, executor
        self._value: tuple[float, T] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """It, old or new."""
        async with self._lock:
            if self._value is None or time.monotonic() - self._value[0] > self._seconds:
                loop = asyncio.get_running_loop()
                made = await loop.run_in_executor(self._executor, self._make)
                self._value = (time.monotonic(), made)
            return self._value[1]


class _Status(NamedTuple):
    value: RunStatus
    json: bytes


Access = Literal["all", "read", "write"]
Answer = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class _Route(NamedTuple):
    method: str
    path: str
    """{name} stands for the name of a stream."""
    access: Access
    """all: no token needed; read: beyond a loopback address; write: always."""
    answer: Answer
    lasts: bool = False
    """Takes as long as the viewer stays."""


class WebServer:
    """Listens, and answers from a thread of its own.

    Args:
        settings: of the stage.
        run: to show.
        feed: of what happened.
    """

    def __init__(self, settings: WebSettings, run: Run, feed: Feed) -> None:
        self._settings, self._run, self._feed = settings, run, feed
        self._gallery = Gallery()
        self._history = History(run, feed)
        self._is_local = is_loopback(settings.address)
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.address.lower()}
        self._hosts |= {host.lower() for host in settings.hosts}
        self._page = {
            path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()
        }
        self._sources = Sources(settings.sources, settings.pipelines)
        self._viewers = 0
        self._door = Door(self._health_of, SEALED)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""
        """Where the page is, once open."""
        # One thread reads, since the view of the run is for one; requests wait for their answer.
        self._reader = ThreadPoolExecutor(1, "reader")
        self._asker = ThreadPoolExecutor(2, "asker")
        self._status = Kept(self._read_status, STATUS_KEPT_S, self._reader)
        self._metrics = tuple(
            Kept(partial(self._read_metrics, accept), METRICS_KEPT_S, self._reader)
            for accept in ("", "application/openmetrics-text; version=1.0.0")
        )
        self._routes = (
            _Route("GET", "/healthz", "all", self._health),
            _Route("GET", "/readyz", "all", self._ready),
            _Route("GET", "/metrics", "read", self._answer_metrics),
            _Route("GET", "/api/status", "read", self._answer_status),
            _Route("GET", "/api/events", "read", self._answer_events),
            _Route("GET", "/api/live", "read", self._live, lasts=True),
            _Route("POST", "/api/streams", "write", self._add),
            _Route("DELETE", "/api/streams/{name}", "write", self._change("remove")),
            _Route("POST", "/api/streams/{name}/pause", "write", self._change("pause")),
            _Route("POST", "/api/streams/{name}/resume", "write", self._change("resume")),
            _Route("POST", "/api/reload", "write", self._reload),
            _Route("GET", "/stream/{name}.mjpg", "read", self._mjpeg, lasts=True),
            _Route("GET", "/snapshot/{name}.jpg", "read", self._snapshot),
            *(_Route("GET", path, "all", self._answer_page) for path in PAGE_FILES),
        )
        self._patterns = [
            (re.compile(re.escape(route.path).replace(r"\{name\}", f"({STREAM.pattern})")), route)
            for route in self._routes
        ]

    # --- for the stage's thread ---

    def open(self) -> None:
        """Listen and begin to answer.

        Raises:
            OSError: the address or port cannot be had.
        """
        address, port = self._settings.address, int(self._settings.port)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family, backlog=QUEUE)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{listener.getsockname()[1]}/"
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve_in_thread, args=(listener, started), name="web", daemon=True
        )
        self._thread.start()
        started.wait()

    def wants(self, stream: str) -> bool:
        """Whether a picture of this stream is wanted now."""
        return self._gallery.wants(stream)

    def publish(self, stream: str, jpeg: bytes, frame: int, wall_ns: int) -> None:
        """Give a picture to those who wait for it."""
        self._call(self._gallery.put, stream, jpeg, frame, wall_ns)

    def end(self, stream: str) -> None:
        """No picture of this stream follows."""
        self._call(self._gallery.end, stream)

    def close(self) -> None:
        """End all connections and the thread. May be called twice."""
        if self._thread is not None:
            assert self._stop is not None
            self._call(self._stop.set)
            self._thread.join()
            self._thread = None
        # A request that waits for its answer is not waited for.
        self._asker.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop is closed: nobody watches

    # --- the thread ---

    def _serve_in_thread(self, listener: socket.socket, started: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, started))
        except Exception as error:
            logging.error("web: the status page has ended: %s: %s", type(error).__name__, error)
        finally:
            started.set()

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_note_exception)
        low = web.Server(self._answer, handler_cancellation=True)
        server = await self._loop.create_server(
            partial(self._door.protocol, partial(_connection, low)),
            sock=listener,
            backlog=min(ACCEPTED_AT_ONCE, descriptors_per_kind()),
        )
        listener.listen(QUEUE)  # asyncio has just made it as short as what it accepts at once
        samples = asyncio.create_task(self._take_samples())
        started.set()
        try:
            await self._stop.wait()
        finally:
            samples.cancel()
            server.close()
            self._door.close()
            await low.shutdown(0.2)

    async def _take_samples(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            took_s = await loop.run_in_executor(self._reader, self._take_sample)
            # With hundreds of streams it takes long: then less often, 2 % of a core at most.
            await asyncio.sleep(max(STEP_S, 50 * took_s))

    def _take_sample(self) -> float:
        started_s = time.thread_time()
        try:
            self._history.take()
        except Exception as error:
            logging.debug("web: no sample: %s: %s", type(error).__name__, error)
        return time.thread_time() - started_s

    def _read_status(self) -> _Status:
        status = self._run.status()
        return _Status(status, msgspec.json.encode(status))

    def _read_metrics(self, accept: str) -> tuple[bytes, str]:
        return exposition(self._run, self._viewers, accept)

    # --- one request ---

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it is."""
        connection = request.protocol
        self._door.busy.add(connection)
        try:
            route, name = self._route(request)
            if route.lasts:
                await self._admit(request, route.access)
                return await route.answer(request, name)
            async with asyncio.timeout(REQUEST_S):
                await self._admit(request, route.access)
                response = await route.answer(request, name)
                await response.prepare(request)
                await response.write_eof()
                return response
        except Refusal as refusal:
            return _refused(request, refusal)
        except web.HTTPException as error:
            return _refused(request, Refusal(error.status, "expected a WebSocket"))
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from None
        except ConnectionError:
            raise
        except Exception as error:
            logging.debug("web: %s %s: %r", request.method, request.path, error)
            if request.writer.output_size:
                raise ConnectionResetError from None  # half an answer cannot be mended
            return _refused(request, Refusal(500, "this could not be answered"))
        finally:
            self._door.busy.discard(connection)

    def _route(self, request: web.BaseRequest) -> tuple[_Route, str]:
        method = "GET" if request.method == "HEAD" else request.method
        allowed = []
        for pattern, route in self._patterns:
            match = pattern.fullmatch(request.path)
            if match and route.method == method:
                return route, match[1] if match.groups() else ""
            if match:
                allowed.append(route.method)
        if allowed:
            raise Refusal(405, f"expected {' or '.join(allowed)}", Allow=", ".join(allowed))
        raise Refusal(404, "there is no such page")

    async def _admit(self, request: web.BaseRequest, access: Access) -> None:
        """Let a request through.

        Raises:
            Refusal: it comes from another site, or without the token it needs.
        """
        self._refuse_other_sites(request)
        if access == "all" or (access == "read" and self._is_local):
            return
        if self._settings.token is None:
            raise Refusal(
                403,
                "streams cannot be changed from here: set a token in the settings of the web stage",
            )
        if not await self._has_token(request, basic=access == "read"):
            is_api = request.path.startswith("/api/")
            ways = "Bearer" if is_api or access == "write" else 'Basic realm="Eyeline", Bearer'
            raise Refusal(401, "expected the token", WWW_Authenticate=ways)

    async def _has_token(self, request: web.BaseRequest, basic: bool) -> bool:
        given = _token(request, basic)
        if given is None:
            return False
        assert self._settings.token is not None
        if hmac.compare_digest(given, self._settings.token.encode()):
            return True
        await self._door.penalise(request.protocol, WRONG_TOKEN_S)
        request.protocol.close()  # after the answer: one guess per connection
        return False

    def _refuse_other_sites(self, request: web.BaseRequest) -> None:
        """Keep out what the browser of someone who may look here does for another site.

        Raises:
            Refusal: this is such a request.
        """
        host = request.headers.get(hdrs.HOST, "").lower()
        # A name of another site may have been made to point here (DNS rebinding). Beyond
        # loopback the token keeps such a site out: it has none.
        if self._is_local and host and _host_name(host) not in self._hosts:
            raise Refusal(
                421, "this name is not known here: list it under `hosts` of the web stage"
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None:
            of = origin.lower().partition("://")[2]  # empty for "null"
            listed = {listed.lower() for listed in self._settings.hosts}
            if not of or (of != host and _host_name(of) not in listed):
                raise Refusal(403, "requests of other sites are not answered")
        if (
            request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            and request.headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            raise Refusal(403, "requests of other sites are not answered")

    # --- what can be asked for ---

    async def _answer_page(self, request: web.BaseRequest, name: str) -> web.Response:
        body, kind = self._page[request.path]
        return _sealed(web.Response(body=body, content_type=kind, charset="utf-8"))

    async def _health(self, request: web.BaseRequest, name: str) -> web.Response:
        return _text(*await self._health_of("/healthz"))

    async def _ready(self, request: web.BaseRequest, name: str) -> web.Response:
        status = (await self._status.get()).value
        answer = _readiness(status)
        # The reason names streams: not for everybody.
        if answer != READY and (self._is_local or await self._has_token(request, basic=True)):
            return _text(f"not ready: {why_not_ready(status)}\n", 503)
        return _text(*answer)

    async def _health_of(self, path: str) -> Health:
        """Answer a health check with what every client may know."""
        return HEALTHY if path == "/healthz" else _readiness((await self._status.get()).value)

    async def _answer_metrics(self, request: web.BaseRequest, name: str) -> web.Response:
        modern = "application/openmetrics-text" in request.headers.get(hdrs.ACCEPT, "")
        body, content_type = await self._metrics[modern].get()
        response = web.Response(body=body)
        response.headers[hdrs.CONTENT_TYPE] = content_type
        return _sealed(response)

    async def _answer_status(self, request: web.BaseRequest, name: str) -> web.Response:
        return _json((await self._status.get()).json)

    async def _answer_events(self, request: web.BaseRequest, name: str) -> web.Response:
        return _json(msgspec.json.encode(self._feed.after(0)))

    async def _add(self, request: web.BaseRequest, name: str) -> web.Response:
        body = await _body(request)
        stream = body.pop("name", None)
        if not isinstance(stream, str) or not STREAM.fullmatch(stream):
            raise Refusal(400, "name: expected letters, digits, - and _, beginning with a letter")
        try:
            # Not in the event loop, as a path may lead to a disk that is slow.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._asker, self._sources.check, body)
        except NotAllowedError as error:
            raise Refusal(403, str(error)) from None
        return await self._ask("add", 400, stream=stream, settings=body)

    def _change(self, request: str) -> Answer:
        async def answer(_: web.BaseRequest, name: str) -> web.Response:
            await self._refuse_unknown(name)
            return await self._ask(request, 409, stream=name)

        return answer

    async def _reload(self, request: web.BaseRequest, name: str) -> web.Response:
        return await self._ask("reload", 409)

    async def _ask(self, request: str, refused: int, **arguments: Any) -> web.Response:
        loop = asyncio.get_running_loop()
        told = await loop.run_in_executor(self._asker, lambda: self._run.ask(request, **arguments))
        if told:
            raise Refusal(504 if told.startswith("no answer") else refused, one_line(told))
        return _json(b'{"done":true}')

    async def _refuse_unknown(self, name: str) -> None:
        status = (await self._status.get()).value
        if all(stream.name != name for stream in status.streams):
            raise Refusal(404, f"there is no stream named {name}")

    async def _snapshot(self, request: web.BaseRequest, name: str) -> web.Response:
        await self._refuse_unknown(name)
        with self._seat():
            try:
                async with asyncio.timeout(SNAPSHOT_S):
                    picture = await self._gallery.next(name, 0)
            except TimeoutError:
                picture = None
        if picture is None:
            raise Refusal(503, f"{name} gives no picture at the moment", Retry_After="5")
        response = web.Response(body=picture.jpeg, content_type="image/jpeg")
        response.headers["X-Captured-At"] = utc_ms(picture.wall_ns)
        return _sealed(response)

    async def _mjpeg(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        await self._refuse_unknown(name)
        response = web.StreamResponse()
        response.content_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        _sealed(response)
        response.force_close()
        if request.method == "HEAD":
            return response
        with self._seat():
            await response.prepare(request)
            edge = f"--{BOUNDARY}\r\n".encode()
            await response.write(edge)
            async for picture in self._pictures(name):
                head = (
                    f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
                    f"X-Captured-At: {utc_ms(picture.wall_ns)}\r\n\r\n"
                )
                async with asyncio.timeout(SLOW_S):
                    # With the edge that follows: browsers show a picture when they see it.
                    await response.write(head.encode() + picture.jpeg + b"\r\n" + edge)
            return response

    async def _pictures(self, stream: str) -> AsyncIterator[Picture]:
        after = 0
        while (picture := await self._gallery.next(stream, after)) is not None:
            after = picture.number
            yield picture

    async def _live(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        socket_ = web.WebSocketResponse(
            protocols=("eyeline",), heartbeat=20, max_msg_size=MOST_MESSAGE, compress=False
        )
        _sealed(socket_)
        with self._seat():
            await socket_.prepare(request)
            assert request.transport is not None
            viewer = _Viewer(socket_, request.transport, self._gallery)
            tell = asyncio.create_task(self._tell(viewer))
            tell.add_done_callback(lambda _: viewer.close())
            try:
                await viewer.listen()
            finally:
                tell.cancel()
                viewer.close()
        return socket_

    async def _tell(self, viewer: _Viewer) -> None:
        """Tell a viewer the status and what happens, for as long as it is there."""
        events = self._feed.after(0)
        told = events[-1].number if events else 0
        history = {name: list(samples) for name, samples in self._history.samples.items()}
        hello = {
            "type": "hello",
            "writes": self._settings.token is not None,
            "adds": bool(self._sources),
            "history": history,
            "events": events,
        }
        await viewer.send(msgspec.json.encode(hello))
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            if self._feed.newest > told:
                events = self._feed.after(told)
                told = events[-1].number
                await viewer.send(msgspec.json.encode({"type": "events", "events": events}))
            if loop.time() >= due_s:
                due_s = loop.time() + STATUS_S
                status = (await self._status.get()).json
                samples = {name: of[-1] for name, of in self._history.samples.items() if of}
                message = {
                    "type": "status",
                    "status": msgspec.Raw(status),
                    "samples": samples,
                }
                await viewer.send(msgspec.json.encode(message))
            await asyncio.sleep(FEED_S)

    @contextmanager
    def _seat(self) -> Iterator[None]:
        if self._viewers >= self._settings.viewers:
            raise Refusal(
                503, f"{self._viewers} are watching already, as many as may", Retry_After="10"
            )
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1


class _Viewer:
    """One page that is open: it is sent the next picture of a stream when it has shown the last.

    Args:
        socket_: open.
        transport: below it.
        gallery: where the pictures come from.
    """

    def __init__(
        self, socket_: web.WebSocketResponse, transport: asyncio.Transport, gallery: Gallery
    ) -> None:
        self._socket, self._transport, self._gallery = socket_, transport, gallery
        self._sending = asyncio.Lock()
        self._following: dict[str, asyncio.Task[None]] = {}
        self._shown: dict[str, asyncio.Event] = {}

    async def send(self, data: bytes, binary: bool = False) -> None:
        """Send a message; one who does not take it in time is let go."""
        try:
            async with asyncio.timeout(SLOW_S), self._sending:
                await self._socket.send_frame(data, WSMsgType.BINARY if binary else WSMsgType.TEXT)
        except (TimeoutError, ConnectionError):
            self.close()
            raise asyncio.CancelledError from None

    async def listen(self) -> None:
        """Do as the viewer says until it goes."""
        async for message in self._socket:
            if message.type != WSMsgType.TEXT:
                return
            try:
                said = msgspec.json.decode(message.data, type=_Said)
            except (msgspec.MsgspecError, RecursionError):
                return
            if said.shown in self._shown:
                self._shown[said.shown].set()
            if said.watch is not None:
                self._watch({name for name in said.watch[:MOST_WATCHED] if STREAM.fullmatch(name)})

    def close(self) -> None:
        """Let go of the viewer. May be called twice."""
        self._watch(set())
        if not self._socket.closed:
            self._transport.abort()

    def _watch(self, streams: set[str]) -> None:
        for name in self._following.keys() - streams:
            self._following.pop(name).cancel()
            self._shown.pop(name, None)
        for name in streams - self._following.keys():
            self._shown[name] = asyncio.Event()
            self._following[name] = asyncio.create_task(self._follow(name, self._shown[name]))

    async def _follow(self, stream: str, shown: asyncio.Event) -> None:
        after = 0
        while True:
            picture = await self._gallery.next(stream, after)
            if picture is None:
                continue  # another may come by this name
            after = picture.number
            head = msgspec.json.encode(
                {"stream": stream, "frame": picture.frame, "captured_at": utc_ms(picture.wall_ns)}
            )
            await self.send(len(head).to_bytes(4, "big") + head + picture.jpeg, binary=True)
            await shown.wait()
            shown.clear()


class _Said(msgspec.Struct):
    """What a viewer says."""

    watch: list[str] | None = None
    """The streams that are on its screen now."""
    shown: str = ""
    """The stream whose last picture is on the screen."""


class _Connection(web.RequestHandler):
    """A connection whose errors tell nothing about what serves it."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A phone that left the house is found out in a minute and not in hours.
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
        if request.writer.output_size:
            raise ConnectionResetError  # half an answer cannot be mended
        text = "expected an HTTP request" if status == 400 else "this could not be answered"
        response = _text(f"{text}\n", status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        logging.debug("web: a connection failed: %s", args)


def _connection(low: web.Server) -> web.RequestHandler:
    return _Connection(
        low,
        loop=asyncio.get_running_loop(),
        keepalive_timeout=HEADERS_S,
        lingering_time=1.0,
        access_log=None,  # type: ignore[arg-type]
        auto_decompress=False,
        max_headers=64,
    )


def _note_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logging.debug("web: %s: %r", context.get("message"), context.get("exception"))


Response = TypeVar("Response", bound=web.StreamResponse)


def _sealed(response: Response) -> Response:
    response.headers.update(SEALED)
    return response


def _readiness(status: RunStatus) -> Health:
    return READY if status.ready and status.phase == "running" else NOT_READY


def _text(text: str, status: int = 200) -> web.Response:
    return _sealed(web.Response(text=text, status=status))


def _json(body: bytes, status: int = 200) -> web.Response:
    return _sealed(web.Response(body=body, status=status, content_type="application/json"))


def _refused(request: web.BaseRequest, refusal: Refusal) -> web.Response:
    if request.path.startswith("/api/"):
        response = _json(msgspec.json.encode({"error": refusal.text}), refusal.status)
    else:
        response = _text(f"{refusal.text}\n", refusal.status)
    response.headers.update(refusal.headers)
    if request.can_read_body:
        response.force_close()  # what follows on this connection may be the rest of the body
    return response


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        Refusal: it is too long, or something else.
    """
    body = bytearray()
    async for piece in request.content.iter_chunked(8192):
        body += piece
        if len(body) > MOST_BODY:
            raise Refusal(413, f"expected a body of {MOST_BODY} bytes at most")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise Refusal(400, 'expected a JSON object: {"name": ..., "source": ...}') from None


def _host_name(host: str) -> str:
    """The name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _token(request: web.BaseRequest, basic: bool) -> bytes | None:
    """The token that a request brings.

    As `Authorization: Bearer TOKEN`; where it only reads, also as the password of basic
    authentication, for players; of a WebSocket, for which a browser sets no headers, as a
    subprotocol `token.` with the token in base64url.
    """
    try:
        scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            return value.strip().encode()
        if scheme.lower() == "basic" and basic:
            return base64.b64decode(value).partition(b":")[2]
        for protocol in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
            marker, _, value = protocol.strip().partition(".")
            if marker == "token":
                return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (ValueError, UnicodeError):
        return b""
    return None
