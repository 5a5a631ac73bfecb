"""The status page: each stream live with its boxes, the ledger, the graph; metrics; an API.

It answers at `http://127.0.0.1:8080/`. Pictures are copied, drawn and encoded only while somebody
looks at them, once for all who do; a viewer gets the next one when it has shown the last. What is
served under which path is told in docs/api.md.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError
from pipeline.frame import ALIGN, Frame, Header
from pipeline.stage import Array, Stage
from stages.analytics.object_events import Presence
from stages.detections import OBJECTS, Objects, labels_of
from stages.drawing.annotator import Annotator
from stages.sinks.listen import is_loopback
from stages.sinks.web.activity import ActivityLog, to_objects
from stages.sinks.web.settings import WebSettings, check_settings

if TYPE_CHECKING:
    from stages.sinks.web.server import WebServer

SEEN_FRAMES = 3
"""In so many frames an object must have been seen to be told of."""
LEFT_AFTER_S = 2.0
"""An object that was not seen for so long has left."""


class Web(Stage):
    """Serves the page from a thread of its own, and gives it pictures and events.

    Frames may come out of order, and those that come behind a newer one are passed by.
    """

    Settings = WebSettings
    takes = (Array("image", "uint8", (None, None, 3)), *OBJECTS)
    apart = True

    settings: WebSettings

    def __init__(self, settings: WebSettings, facts: Mapping[str, Any]) -> None:
        super().__init__(settings, facts)
        self._labels = labels_of(facts)
        self._annotator = Annotator(self._labels)
        self._log = ActivityLog(settings.events)
        self._presence = Presence((), SEEN_FRAMES, LEFT_AFTER_S)
        self._streams: dict[str, _Stream] = {}
        self._taken: queue.SimpleQueue[_Taken | str | None] = queue.SimpleQueue()
        """At most one per stream; a name: that stream is over; None: no more come."""
        self._encoder: threading.Thread | None = None
        self._server: WebServer | None = None

    @classmethod
    def resolve(cls, settings: WebSettings) -> Mapping[str, Any]:
        """See that the address is one, and that not everybody may look from elsewhere.

        Raises:
            SetupError: it is not, or everybody may, or the token is too easy to guess, or an
                entry of `sources` cannot be used.
        """
        check_settings(settings)
        return {}

    def open(self) -> None:
        """Listen.

        Raises:
            SetupError: the address or port cannot be had, or a library is missing.
        """
        try:
            from stages.sinks.web.server import WebServer
        except ModuleNotFoundError as error:
            raise SetupError(
                f"web: {error.name} is not installed: pip install aiohttp prometheus-client"
            ) from None
        server = WebServer(self.settings, self.run, self._log)
        try:
            server.open()
        except OSError as error:
            raise SetupError(self._cannot(error)) from None
        self._server = server
        if is_loopback(self.settings.address):
            logging.info("web: status page at %s", server.url)
        else:
            logging.warning(
                "web: status page open to the network at %s, for whoever has the token; it is not "
                "encrypted",
                server.url,
            )
        self._encoder = threading.Thread(target=self._encode_all, name="encoder", daemon=True)
        self._encoder.start()

    def process(self, frame: Frame) -> None:
        """Note what is seen; take a copy for the encoder if somebody looks and it is time."""
        stream = self._streams.setdefault(frame.stream, _Stream())
        # Not by `seq`: a stream that is removed and added again begins anew.
        if frame.captured_ns <= stream.captured_ns:
            return
        stream.captured_ns = frame.captured_ns
        objects = Objects.of(frame)
        self._note(frame, objects)
        if stream.busy or self._server is None or not self._server.is_awaited(frame.stream):
            return
        if not self._is_due(stream, frame.captured_ns):
            return
        stream.busy = True
        copy = stream.scratch.copy(frame, objects, self.settings.width)
        self._taken.put(_Taken(stream, copy, frame.wall_ns))

    def end(self, stream: str) -> None:
        """Whoever watches only this stream is told so."""
        self._streams.pop(stream, None)
        for incident in self._presence.end(stream):
            self._log.add_object(incident, time.time_ns())
        self._taken.put(stream)

    def close(self) -> None:
        """Say goodbye to all viewers."""
        if self._encoder is not None:
            self._taken.put(None)
            self._encoder.join()
            self._encoder = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def report(self) -> Mapping[str, str]:
        """Where the page is."""
        return {"address": self._server.url if self._server is not None else ""}

    def _note(self, frame: Frame, objects: Objects) -> None:
        # By the clock of capture: that of a file that is played in a loop jumps back.
        at_s, listed = frame.captured_ns / 1e9, to_objects(objects, self._labels)
        for incident in self._presence.update(frame.stream, at_s, frame.wall_ns, listed):
            self._log.add_object(incident, frame.wall_ns)

    def _is_due(self, stream: _Stream, captured_ns: int) -> bool:
        interval_ns = round(1e9 / self.settings.fps)
        # A frame a little early is taken: where the source's rate is the limit, or a multiple of
        # it, its jitter must not cost every second picture.
        if captured_ns < stream.due_ns - interval_ns // 4:
            return False
        missed = captured_ns >= stream.due_ns + interval_ns
        stream.due_ns = (captured_ns if missed else stream.due_ns) + interval_ns
        return True

    def _encode_all(self) -> None:
        """The encoder's thread: OpenCV lets others work meanwhile."""
        assert self._server is not None
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality]
        while (taken := self._taken.get()) is not None:
            if isinstance(taken, str):
                self._annotator.forget(taken)
                self._server.end(taken)
                continue
            name = taken.frame.stream
            try:
                jpeg = cv2.imencode(".jpg", self._annotator.draw(taken.frame), quality)[1]
                self._server.publish(name, jpeg.tobytes(), taken.frame.seq, taken.wall_ns)
            except (ValueError, cv2.error) as error:
                if not taken.stream.failed:
                    taken.stream.failed = True
                    logging.warning("web: %s: cannot show its pictures: %s", name, error)
            finally:
                taken.stream.busy = False

    def _cannot(self, error: OSError) -> str:
        address, port = self.settings.address, self.settings.port
        if error.errno == errno.EADDRINUSE:
            return f"web: port {port} is taken by another program; set another port"
        if error.errno == errno.EACCES:
            return f"web: port {port} needs privileges; set one from 1024 up"
        if error.errno == errno.EADDRNOTAVAIL:
            return (
                f"web: this machine has no address {address}; set 127.0.0.1, one of its own, or "
                "0.0.0.0 for all"
            )
        return f"web: cannot listen at {address} port {port} ({error.strerror})"


class Scratch:
    """Memory for the copy of a frame, used again, as fresh memory costs more than the copy."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def copy(self, frame: Frame, objects: Objects, width: int) -> Frame:
        """A copy of a frame, no wider than `width`, with its objects where they are in the picture.

        Args:
            frame: with `image` (H, W, 3) uint8 BGR.
            objects: those of the frame.
            width: largest, in pixels; tall pictures are no higher than twice that.

        Returns:
            A frame that is valid until the next call.
        """
        image = frame["image"]
        tall, wide = image.shape[:2]
        shrink = min(1.0, width / wide, 2 * width / tall)
        size = (max(1, round(wide * shrink)), max(1, round(tall * shrink)))
        boxes = objects.boxes * np.array((size[0] / wide, size[1] / tall) * 2, np.float32)
        arrays: dict[str, NDArray[Any]] = {
            "boxes": boxes,
            "scores": objects.scores,
            "classes": objects.classes,
            "ids": objects.ids,
        }
        room = 3 * size[0] * size[1] + sum(array.nbytes + ALIGN for array in arrays.values())
        if len(self._memory) < room:
            self._memory = np.empty(2 * room, np.uint8)
        header = Header(
            frame.header.stream, frame.seq, attempt=0, slot=0, generation=1, limit=len(self._memory)
        )
        copy = Frame(header, frame.stream, self._memory.data)
        # Made small before it is drawn on, which is less work, and leaves tags their size. Linear:
        # 1 to 3 ms up to 4K, where averaging areas takes up to 60.
        cv2.resize(image, size, dst=copy.empty("image", (size[1], size[0], 3), np.uint8))
        for name, array in arrays.items():
            copy.put(name, array)
        return copy


@dataclass(eq=False)
class _Stream:
    """What the stage keeps of a stream."""

    captured_ns: int = -1
    """Of the newest frame."""
    due_ns: int = -(1 << 62)
    """When the next picture may be taken, by the capture clock."""
    busy: bool = False
    """Its last picture is not encoded yet."""
    failed: bool = False
    scratch: Scratch = field(default_factory=Scratch)


@dataclass
class _Taken:
    """A copy of a frame, to be drawn on and encoded."""

    stream: _Stream
    frame: Frame
    wall_ns: int
