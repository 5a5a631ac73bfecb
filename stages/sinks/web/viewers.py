"""Viewers of the live images, each of which gets them at its own pace."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
from aiohttp import WSMsgType, web

from pipeline.config import NAME
from stages.sinks.web.responses import HttpError

MAX_MESSAGE_BYTES = 16 << 10
"""Length of a message of a viewer, which is at most a list of streams."""
MAX_WATCHED = 256
"""Streams of one viewer."""
SEND_TIMEOUT_S = 10
"""Time in which a viewer must take an image or a message, seconds."""
MAX_IMAGE_AGE_NS = 500_000_000
"""Age up to which an encoded image is given at once to one more viewer."""
STREAM_NAME = re.compile(NAME.strip("^$"))
"""Name of a stream; to be matched as a whole."""


class EncodedFrame(NamedTuple):
    """A frame with its objects drawn, as JPEG."""

    number: int
    """Number over all streams, from 1."""
    jpeg: bytes
    wall_ns: int
    """Wall-clock time of capture."""
    event: bytes
    """What the frame shows: JSON of the events sink, without masks."""
    encoded_ns: int
    """Monotonic time of encoding."""


class FrameBroadcaster:
    """Gives the newest encoded frame of each stream to all viewers that wait for it.

    `is_awaited` may be called from any thread, all else only from the event loop's.
    """

    def __init__(self) -> None:
        self._newest: dict[str, EncodedFrame] = {}
        self._waiting: dict[str, set[asyncio.Future[EncodedFrame | None]]] = {}
        self._count = 0

    def is_awaited(self, stream: str) -> bool:
        """Return whether a viewer waits for a frame of this stream."""
        return stream in self._waiting

    def publish(self, stream: str, jpeg: bytes, wall_ns: int, event: bytes) -> None:
        """Give a frame to all viewers that wait for it."""
        self._count += 1
        frame = EncodedFrame(self._count, jpeg, wall_ns, event, time.monotonic_ns())
        self._newest[stream] = frame
        self._release(stream, frame)

    def end(self, stream: str) -> None:
        """Report to all viewers of a stream that it has ended."""
        self._newest.pop(stream, None)
        self._release(stream, None)

    async def next(self, stream: str, after: int) -> EncodedFrame | None:
        """Wait for the first frame with a higher number than this; None if the stream ends."""
        newest = self._newest.get(stream)
        if (
            newest is not None
            and newest.number > after
            and time.monotonic_ns() - newest.encoded_ns < MAX_IMAGE_AGE_NS
        ):
            return newest
        waiting: asyncio.Future[EncodedFrame | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(stream, set()).add(waiting)
        try:
            return await waiting
        finally:
            others = self._waiting.get(stream)
            if others is not None:
                others.discard(waiting)
                if not others:
                    del self._waiting[stream]

    async def frames(self, stream: str) -> AsyncIterator[EncodedFrame]:
        """Yield the frames of a stream until it ends, as fast as they are taken."""
        number = 0
        while (frame := await self.next(stream, number)) is not None:
            number = frame.number
            yield frame

    def _release(self, stream: str, frame: EncodedFrame | None) -> None:
        for waiting in self._waiting.pop(stream, ()):
            if not waiting.done():
                waiting.set_result(frame)


class ServerFull(HttpError):  # noqa: N818 - an answer like others
    """Refuses a viewer, since as many as are allowed are there."""

    def __init__(self, count: int) -> None:
        super().__init__(
            503, f"all {count} viewer slots are in use; try again later", Retry_After="10"
        )


class ViewerSlots:
    """Limits the number of viewers.

    Args:
        limit: maximum number of viewers at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        """Number of viewers now."""

    @contextmanager
    def viewer_slot(self) -> Iterator[None]:
        """Count a viewer while the context is open.

        Raises:
            ServerFull: all slots are in use.
        """
        if self.used >= self._limit:
            raise ServerFull(self.used)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


class ViewerMessage(msgspec.Struct):
    """A message of a viewer."""

    watch: list[str] | None = None
    """Streams that are on its screen now."""
    shown: str = ""
    """Stream whose last image is on the screen."""


class Viewer:
    """An open page: the next image of a stream is sent when the last one has been shown.

    Args:
        websocket: prepared.
        transport: transport of the WebSocket.
        broadcaster: gives the images.
    """

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport,
        broadcaster: FrameBroadcaster,
    ) -> None:
        self._websocket, self._transport = websocket, transport
        self._broadcaster = broadcaster
        self._sending = asyncio.Lock()
        self._following: dict[str, asyncio.Task[None]] = {}
        """Stream -> task that sends its images."""
        self._shown: dict[str, asyncio.Event] = {}
        """Stream -> set when its last image is on the screen."""

    async def send(self, data: bytes, binary: bool = False) -> None:
        """Send a message; close a viewer that does not take it in time."""
        kind = WSMsgType.BINARY if binary else WSMsgType.TEXT
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S), self._sending:
                await self._websocket.send_frame(data, kind)
        except (TimeoutError, ConnectionError):
            self.close()
            raise asyncio.CancelledError from None

    async def receive(self) -> None:
        """Handle the messages of the viewer until it disconnects or sends an invalid one."""
        async for received in self._websocket:
            if received.type != WSMsgType.TEXT:
                return
            try:
                message = msgspec.json.decode(received.data, type=ViewerMessage)
            except (msgspec.MsgspecError, RecursionError):
                return
            if message.shown in self._shown:
                self._shown[message.shown].set()
            if message.watch is not None:
                watched = message.watch[:MAX_WATCHED]
                self._watch({name for name in watched if STREAM_NAME.fullmatch(name)})

    def close(self) -> None:
        """Disconnect the viewer. May be called twice."""
        self._watch(set())
        if not self._websocket.closed:
            self._transport.abort()

    def _watch(self, streams: set[str]) -> None:
        for name in self._following.keys() - streams:
            self._following.pop(name).cancel()
            self._shown.pop(name, None)
        for name in streams - self._following.keys():
            self._shown[name] = asyncio.Event()
            self._following[name] = asyncio.create_task(self._follow(name, self._shown[name]))

    async def _follow(self, stream: str, shown: asyncio.Event) -> None:
        number = 0
        while True:
            frame = await self._broadcaster.next(stream, number)
            if frame is None:
                continue  # a stream of the same name may be added
            number = frame.number
            await self.send(
                len(frame.event).to_bytes(4, "big") + frame.event + frame.jpeg, binary=True
            )
            await shown.wait()
            shown.clear()
