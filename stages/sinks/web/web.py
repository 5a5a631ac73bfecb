"""The status page: each stream live with its boxes, the ledger, the graph; metrics; an API.

It answers at `http://127.0.0.1:8080/`. Images are copied, drawn and encoded only while there are
viewers, once for all of them; a viewer gets the next image when it has shown the last. docs/api.md
lists the paths.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from pipeline.errors import SetupError
from pipeline.frame import ALIGN, Frame, Header
from pipeline.stage import Array, Context, Listen, Resolved, Resources, Stage
from stages.analytics.object_events import OBJECT_EVENTS, ChangeReader
from stages.analytics.presence import Presence
from stages.detections import RESULTS, labels_of
from stages.drawing.annotator import annotator_of
from stages.drawing.copies import copy_detections
from stages.drawing.rate_limit import RateLimit
from stages.sinks.files.events import event_of
from stages.sinks.listen import bind_error, is_loopback
from stages.sinks.web.activity import ActivityLog, to_objects
from stages.sinks.web.settings import WebSettings, check_settings

if TYPE_CHECKING:
    from stages.sinks.web.server import WebServer

SEEN_FRAMES = 3
"""Frames in which an object must be seen before it is logged."""
LEFT_AFTER_S = 2.0
"""Time without a detection after which an object has left, seconds."""


class Web(Stage):
    """Serves the page in a thread of its own, and gives it images and activities.

    Frames may arrive out of order; one that arrives after a newer one is skipped.
    """

    Settings = WebSettings
    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS, OBJECT_EVENTS)
    isolated = True

    settings: WebSettings

    def __init__(self, settings: WebSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels_of(context)
        self._annotator = annotator_of(context)
        self._log = ActivityLog(settings.events)
        self._changes = ChangeReader(Presence((), SEEN_FRAMES, LEFT_AFTER_S), self._labels)
        self._streams: dict[str, _Stream] = {}
        self._to_encode: queue.SimpleQueue[_Copy | str | None] = queue.SimpleQueue()
        """Copies to encode, at most one per stream; the name of a stream that has ended; None at
        the end."""
        self._encoder: threading.Thread | None = None
        self._server: WebServer | None = None

    @classmethod
    def resolve(cls, settings: WebSettings) -> Resolved:
        """Check the settings.

        Raises:
            SetupError: a setting is invalid, or the page would be open to the network without a
                token.
        """
        check_settings(settings)
        return Resolved()

    @classmethod
    def resources(cls, settings: WebSettings) -> Resources:
        """Declare the address at which the page listens."""
        return Resources(listens=(Listen(settings.address, int(settings.port), "readyz"),))

    def open(self) -> None:
        """Listen.

        Raises:
            SetupError: cannot listen at the address or port, or a library is missing.
        """
        try:
            from stages.sinks.web.server import WebServer
        except ModuleNotFoundError as error:
            raise SetupError(
                f"{error.name} is not installed: pip install aiohttp prometheus-client"
            ) from None
        assert self.run is not None, "set by the worker"
        server = WebServer(self.settings, self.run, self._log, self.context.log)
        try:
            server.open()
        except OSError as error:
            own = self.settings
            raise SetupError(bind_error(error, own.address, int(own.port))) from None
        self._server = server
        if is_loopback(self.settings.address):
            self.context.log.info("status page at %s", server.url)
        else:
            self.context.log.warning(
                "status page reachable from the network at %s (token required, no TLS)",
                server.url,
            )
        self._encoder = threading.Thread(target=self._encode_copies, name="encoder", daemon=True)
        self._encoder.start()

    def process(self, frame: Frame) -> None:
        """Log the objects; copy the frame for the encoder if a viewer waits and it is due."""
        stream = self._streams.get(frame.stream)
        if stream is None:
            stream = self._streams[frame.stream] = _Stream(RateLimit(self.settings.fps))
        # Not by `seq`, which starts over when a stream is removed and added again.
        if frame.captured_ns <= stream.captured_ns:
            return
        stream.captured_ns = frame.captured_ns
        self._log_objects(frame)
        if stream.busy or self._server is None or not self._server.is_awaited(frame.stream):
            return
        if not stream.rate.is_due(frame.captured_ns):
            return
        stream.busy = True
        copy = stream.scratch.copy(frame, self.settings.width)
        event = msgspec.json.encode(event_of(frame, self._labels, with_masks=False))
        self._to_encode.put(_Copy(stream, copy, frame.wall_ns, event))

    def end(self, stream: str) -> None:
        """Report the end of a stream to its viewers."""
        self._streams.pop(stream, None)
        for change in self._changes.end(stream):
            self._log.add_object(change, time.time_ns())
        self._to_encode.put(stream)

    def close(self) -> None:
        """Disconnect all viewers."""
        if self._encoder is not None:
            self._to_encode.put(None)
            self._encoder.join()
            self._encoder = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def info(self) -> Mapping[str, str]:
        """Report the address of the page."""
        return {"address": self._server.url if self._server is not None else ""}

    def _log_objects(self, frame: Frame) -> None:
        # By the clock of capture, as the timestamps of a file that is played in a loop jump back.
        at_s, found = frame.captured_ns / 1e9, to_objects(frame, self._labels)
        for change in self._changes.update(frame, found, at_s):
            self._log.add_object(change, frame.wall_ns)

    def _encode_copies(self) -> None:
        """Draw and encode copies, in a thread: OpenCV releases the GIL."""
        assert self._server is not None
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality]
        while (copy := self._to_encode.get()) is not None:
            if isinstance(copy, str):
                self._annotator.forget(copy)
                self._server.end(copy)
                continue
            name = copy.frame.stream
            try:
                jpeg = cv2.imencode(".jpg", self._annotator.draw(copy.frame), quality)[1]
                self._server.publish(name, jpeg.tobytes(), copy.wall_ns, copy.event)
            except (ValueError, cv2.error) as error:
                if not copy.stream.failed:
                    copy.stream.failed = True
                    self.context.log.warning("stream %s: cannot show its images: %s", name, error)
            finally:
                copy.stream.busy = False


class Scratch:
    """Memory for the copy of a frame, reused, as new memory costs more than the copy."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def copy(self, frame: Frame, width: int) -> Frame:
        """Copy a frame, scaled down to a width, with what is drawn on it.

        Args:
            frame: with `image` (H, W, 3) uint8 BGR.
            width: maximum width, pixels; the maximum height is twice that.

        Returns:
            The copy, valid until the next call.
        """
        image = frame["image"]
        tall, wide = image.shape[:2]
        shrink = min(1.0, width / wide, 2 * width / tall)
        size = (max(1, round(wide * shrink)), max(1, round(tall * shrink)))
        arrays = copy_detections(frame, size[0] / wide, size[1] / tall)
        room = 3 * size[0] * size[1] + sum(array.nbytes + ALIGN for array in arrays.values())
        if len(self._memory) < room:
            self._memory = np.empty(2 * room, np.uint8)
        header = Header(
            frame.header.stream, frame.seq, attempt=0, slot=0, generation=1, limit=len(self._memory)
        )
        header.width, header.height = wide, tall
        copy = Frame(header, frame.stream, self._memory.data)
        # Scaled before drawing, which is less work and leaves labels their size. Linear: 1 to 3 ms
        # up to 4K, while averaging areas takes up to 60.
        cv2.resize(image, size, dst=copy.empty("image", (size[1], size[0], 3), np.uint8))
        for name, array in arrays.items():
            copy.put(name, array)
        return copy


@dataclass(eq=False)
class _Stream:
    """State of a stream."""

    rate: RateLimit
    """Decides whether a frame is copied."""
    captured_ns: int = -1
    """Capture time of the newest frame."""
    busy: bool = False
    """Whether its last copy is not encoded yet."""
    failed: bool = False
    """Whether a failure to encode has been logged."""
    scratch: Scratch = field(default_factory=Scratch)


@dataclass
class _Copy:
    """A copy of a frame, to be drawn on and encoded."""

    stream: _Stream
    frame: Frame
    wall_ns: int
    event: bytes
    """JSON of the events sink, without masks."""
