"""The paths of the server and what each of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import hdrs, web

from pipeline.messages import one_line
from stages.sinks.files.events import utc_ms
from stages.sinks.web.activity import ActivityLog
from stages.sinks.web.allowed_sources import AllowedSources, NotAllowedError
from stages.sinks.web.auth import Access, Authorizer
from stages.sinks.web.health import READY, readiness, why_not_ready
from stages.sinks.web.responses import HttpError, json_response, text_response
from stages.sinks.web.run_reader import RunReader
from stages.sinks.web.settings import WebSettings
from stages.sinks.web.viewers import (
    MAX_MESSAGE_BYTES,
    SEND_TIMEOUT_S,
    STREAM_NAME,
    FrameBroadcaster,
    Viewer,
    ViewerSlots,
)

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("dom", "dialogs", "connection", "streams", "graph", "events", "app")
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
"""Path -> file of the page and its content type."""
SNAPSHOT_TIMEOUT_S = 3
"""Time in which a stream must give an image for a snapshot, seconds."""
STATUS_INTERVAL_S = 1.0
"""Time between two status messages to a viewer, seconds."""
ACTIVITY_INTERVAL_S = 0.25
"""Time between two checks for activities that a viewer has not been sent, seconds."""
BOUNDARY = "eyeline-picture"
"""Boundary between the images of a multipart answer."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """A line of the table of routes."""

    method: str
    path: str
    """Path; {name} stands for the name of a stream."""
    access: Access
    handler: Handler
    is_stream: bool = False
    """Whether the answer takes as long as the viewer stays."""


class Routes:
    """Handles the requests of each path.

    Args:
        settings: settings of the stage.
        reader: reads the run.
        log: activities to show.
        broadcaster: gives the images.
        slots: limits the viewers.
        authorizer: tells whether a client may see the streams.
    """

    def __init__(
        self,
        settings: WebSettings,
        reader: RunReader,
        log: ActivityLog,
        broadcaster: FrameBroadcaster,
        slots: ViewerSlots,
        authorizer: Authorizer,
    ) -> None:
        self._has_token = settings.token is not None
        self._sources = AllowedSources(settings.sources, settings.pipelines)
        self._reader, self._log = reader, log
        self._broadcaster, self._slots = broadcaster, slots
        self._authorizer = authorizer
        self._page = {
            path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()
        }

    def table(self) -> tuple[Route, ...]:
        """Return all routes."""
        return (
            Route("GET", "/healthz", "all", self._health),
            Route("GET", "/readyz", "all", self._ready),
            Route("GET", "/metrics", "read", self._metrics),
            Route("GET", "/api/status", "read", self._status),
            Route("GET", "/api/events", "read", self._events),
            Route("GET", "/api/live", "read", self._live, is_stream=True),
            Route("POST", "/api/streams", "write", self._add),
            Route("DELETE", "/api/streams/{name}", "write", self._change("remove")),
            Route("POST", "/api/streams/{name}/pause", "write", self._change("pause")),
            Route("POST", "/api/streams/{name}/resume", "write", self._change("resume")),
            Route("POST", "/api/reload", "write", self._reload),
            Route("GET", "/stream/{name}.mjpg", "read", self._mjpeg, is_stream=True),
            Route("GET", "/snapshot/{name}.jpg", "read", self._snapshot),
            *(Route("GET", path, "all", self._page_file) for path in PAGE_FILES),
        )

    # --- page and health ---

    async def _page_file(self, request: web.Request) -> web.Response:
        body, kind = self._page[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _health(self, request: web.Request) -> web.Response:
        return text_response(*await self._reader.health("/healthz"))

    async def _ready(self, request: web.Request) -> web.Response:
        status = (await self._reader.status.get()).value
        answer = readiness(status)
        # The reason names streams, which not every client may see.
        if answer != READY and await self._authorizer.can_read(request):
            return text_response(f"not ready: {why_not_ready(status)}\n", 503)
        return text_response(*answer)

    # --- the run ---

    async def _metrics(self, request: web.Request) -> web.Response:
        is_open = "application/openmetrics-text" in request.headers.get(hdrs.ACCEPT, "")
        cache = self._reader.openmetrics if is_open else self._reader.metrics
        body, content_type = await cache.get()
        response = web.Response(body=body)
        response.headers[hdrs.CONTENT_TYPE] = content_type
        return response

    async def _status(self, request: web.Request) -> web.Response:
        return json_response((await self._reader.status.get()).json)

    async def _events(self, request: web.Request) -> web.Response:
        return json_response(msgspec.json.encode(self._log.after(0)))

    async def _add(self, request: web.Request) -> web.Response:
        body = await _json_body(request)
        stream = body.pop("name", None)
        if not isinstance(stream, str) or not STREAM_NAME.fullmatch(stream):
            raise HttpError(400, "name: expected letters, digits, - and _, starting with a letter")
        try:
            # Not in the event loop, as a path may be on a slow disk.
            await self._reader.call(lambda: self._sources.check(body))
        except NotAllowedError as error:
            raise HttpError(403, str(error)) from None
        return await self._request("add", 400, stream=stream, settings=body)

    def _change(self, request_name: str) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            stream = await self._known_stream(request)
            return await self._request(request_name, 409, stream=stream)

        return handle

    async def _reload(self, request: web.Request) -> web.Response:
        return await self._request("reload", 409)

    async def _request(self, name: str, refused: int, **arguments: Any) -> web.Response:
        reason = await self._reader.request(name, **arguments)
        if reason:
            raise HttpError(504 if reason.startswith("no answer") else refused, one_line(reason))
        return json_response(b'{"done":true}')

    async def _known_stream(self, request: web.Request) -> str:
        name = request.match_info["name"]
        status = (await self._reader.status.get()).value
        if all(stream.name != name for stream in status.streams):
            raise HttpError(404, f"no stream named {name}")
        return name

    # --- images ---

    async def _snapshot(self, request: web.Request) -> web.Response:
        name = await self._known_stream(request)
        with self._slots.viewer_slot():
            try:
                async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                    frame = await self._broadcaster.next(name, 0)
            except TimeoutError:
                frame = None
        if frame is None:
            raise HttpError(
                503, f"no image of {name} within {SNAPSHOT_TIMEOUT_S:g} s", Retry_After="5"
            )
        response = web.Response(body=frame.jpeg, content_type="image/jpeg")
        response.headers["X-Captured-At"] = utc_ms(frame.wall_ns)
        return response

    async def _mjpeg(self, request: web.Request) -> web.StreamResponse:
        name = await self._known_stream(request)
        response = web.StreamResponse()
        response.content_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        response.force_close()
        if request.method == hdrs.METH_HEAD:
            return response
        with self._slots.viewer_slot():
            await response.prepare(request)
            edge = f"--{BOUNDARY}\r\n".encode()
            await response.write(edge)
            async for frame in self._broadcaster.frames(name):
                head = (
                    f"Content-Type: image/jpeg\r\nContent-Length: {len(frame.jpeg)}\r\n"
                    f"X-Captured-At: {utc_ms(frame.wall_ns)}\r\n\r\n"
                )
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    # With the edge that follows: browsers show an image when they see it.
                    await response.write(head.encode() + frame.jpeg + b"\r\n" + edge)
            return response

    # --- the page's WebSocket ---

    async def _live(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(
            protocols=("eyeline",), heartbeat=20, max_msg_size=MAX_MESSAGE_BYTES, compress=False
        )
        with self._slots.viewer_slot():
            try:
                await websocket.prepare(request)
            except web.HTTPException as error:
                raise HttpError(error.status, "expected a WebSocket handshake") from None
            assert request.transport is not None
            viewer = Viewer(websocket, request.transport, self._broadcaster)
            updates = asyncio.create_task(self._send_updates(viewer))
            updates.add_done_callback(lambda _: viewer.close())
            try:
                await viewer.receive()
            finally:
                updates.cancel()
                viewer.close()
        return websocket

    async def _send_updates(self, viewer: Viewer) -> None:
        """Send a viewer the status and all activities, until cancelled."""
        events = self._log.after(0)
        sent = events[-1].number if events else 0
        hello = {
            "type": "hello",
            "writes": self._has_token,
            "adds": bool(self._sources),
            "history": {name: list(samples) for name, samples in self._reader.samples.items()},
            "events": events,
        }
        await viewer.send(msgspec.json.encode(hello))
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            if self._log.newest > sent:
                events = self._log.after(sent)
                sent = events[-1].number
                await viewer.send(msgspec.json.encode({"type": "events", "events": events}))
            if loop.time() >= due_s:
                due_s = loop.time() + STATUS_INTERVAL_S
                status = msgspec.Raw((await self._reader.status.get()).json)
                samples = {name: of[-1] for name, of in self._reader.samples.items() if of}
                message = {"type": "status", "status": status, "samples": samples}
                await viewer.send(msgspec.json.encode(message))
            await asyncio.sleep(ACTIVITY_INTERVAL_S)


async def _json_body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request.

    Raises:
        HttpError: the body is something else.
        web.HTTPRequestEntityTooLarge: the body is too long.
    """
    body = await request.read()
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise HttpError(400, 'expected a JSON object: {"name": ..., "source": ...}') from None
