"""The annotated streams served again, as MJPEG over RTSP: for a player, or another program.

`ffplay rtsp://127.0.0.1:8554/yard` shows the stream `yard` with its boxes. Nothing is drawn or
encoded while nobody watches, and a viewer that is too slow loses pictures: it costs the pipeline
nothing. Each viewer can tell when a picture was captured, see RTCP sender reports.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Listen, Resolved, Resources, Settings, Stage
from stages.detections import DETECTIONS, labels_of
from stages.drawing.annotator import Annotator
from stages.sinks.listen import check_own, is_loopback
from stages.sinks.rtsp.rtp_jpeg import Jpeg
from stages.sinks.rtsp.server import Credentials, Mount, RtspServer

LARGEST_PX = 2040
"""Of each side: RTP counts the sides of JPEG pictures in eights, in one byte."""


class RtspSettings(Settings, frozen=True):
    """Settings of the RTSP sink."""

    address: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Of the interface to listen at; 0.0.0.0: all of them. Anything but a loopback address needs
    `user` and `password`."""
    port: Annotated[int, Meta(ge=0, le=65535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")] = (
        8554
    )
    """0: a free one, which the log tells."""
    mount: Annotated[str, Meta(pattern=r"^/[A-Za-z0-9._~/-]*\{stream\}[A-Za-z0-9._~/-]*$")] = (
        "/{stream}"
    )
    """Path of a stream in its address; {stream} stands for the stream's name."""
    user: Annotated[str, Meta(pattern=r'^[^:"\\]*$')] = ""
    """Who may look; with `password`."""
    password: str = ""
    """Asked of viewers if set; it never goes over the network itself (digest authentication), but
    the pictures do, for anybody on the way to see."""
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    """No more pictures per second than this; null: all of them."""
    width: Annotated[int, Meta(ge=64, le=LARGEST_PX)] = 1280
    """Wider pictures are made smaller; so are those higher than 2040."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 80
    """Of the JPEG pictures."""
    viewers: Annotated[int, Meta(ge=1, le=256)] = 16
    """Connections at a time."""
    annotate: bool = True
    """Draw boxes, tags and trails."""


class Rtsp(Stage):
    """Serves each stream under a path of its own.

    Frames may come out of order, and those that come behind a newer one are passed by: a viewer
    wants the newest picture, and to be ordered would mean to wait for others and to have a state
    saved after each.
    """

    Settings = RtspSettings
    takes = (Array("image", "uint8", (None, None, 3)), *DETECTIONS)
    isolated = True

    settings: RtspSettings

    def __init__(self, settings: RtspSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._annotator = Annotator(labels_of(context))
        self._streams: dict[str, _Stream] = {}
        credentials = None
        if settings.user:
            credentials = Credentials(settings.user, settings.password, ("digest",))
        self._server = RtspServer(
            settings.address, int(settings.port), credentials, max_clients=settings.viewers
        )
        self._drawn: queue.SimpleQueue[_Drawn | None] = queue.SimpleQueue()
        """At most one per stream; None: no more come."""
        self._encoder: threading.Thread | None = None

    @classmethod
    def resolve(cls, settings: RtspSettings) -> Resolved:
        """See that the address is one, and that not everybody may look from elsewhere.

        Raises:
            SetupError: it is not, or everybody may.
        """
        if int(settings.port) > 65535:
            raise SetupError(f"port: expected a number up to 65535, found {settings.port}")
        if bool(settings.user) != bool(settings.password):
            raise SetupError("user, password: expected both or neither, found one of them")
        check_own(settings.address, "user and password")
        if not is_loopback(settings.address) and not settings.user:
            raise SetupError(
                f"address: {settings.address} lets others see the streams; set user and password, "
                "or use 127.0.0.1"
            )
        return Resolved()

    @classmethod
    def resources(cls, settings: RtspSettings) -> Resources:
        """Declare the address it listens on."""
        return Resources(listens=(Listen(settings.address, int(settings.port)),))

    def open(self) -> None:
        """Listen.

        Raises:
            SetupError: the address or port cannot be had.
        """
        try:
            self._server.open()
        except OSError as error:
            raise SetupError(self._cannot(error)) from None
        for stream in self.context.streams:
            self._stream(stream)
        where = self.info()["address"]
        if is_loopback(self.settings.address):
            logging.info("rtsp: annotated streams at %s", where)
        else:
            logging.warning(
                "rtsp: open to the network at %s, for whoever has user and password", where
            )
        self._encoder = threading.Thread(target=self._encode_all, name="encoder", daemon=True)
        self._encoder.start()

    def process(self, frame: Frame) -> None:
        """Draw the frame and leave it to the encoder, if somebody watches and it is time."""
        stream = self._stream(frame.stream)
        if frame.seq <= stream.seq:
            return
        stream.seq = frame.seq
        if stream.busy or not stream.mount.watched or not self._is_due(stream, frame.captured_ns):
            return
        if self.settings.annotate:
            picture = self._annotator.draw(frame)  # not drawn on again before it is encoded
        else:
            picture = np.array(frame["image"])
        stream.busy = True
        self._drawn.put(_Drawn(stream, picture, frame.captured_ns, frame.wall_ns))

    def end(self, stream: str) -> None:
        """Its path is gone, and its viewers are told so."""
        self._streams.pop(stream, None)
        self._server.remove(self._path(stream))
        self._annotator.forget(stream)

    def close(self) -> None:
        """Say goodbye to all viewers."""
        if self._encoder is not None:
            self._drawn.put(None)
            self._encoder.join()
            self._encoder = None
        self._server.close()

    def info(self) -> Mapping[str, str]:
        """Where the streams are served."""
        return {"address": self._server.url(self.settings.mount)}

    def counters(self) -> Mapping[str, int]:
        """Who watches now."""
        return {"viewers": sum(len(stream.mount.viewers) for stream in self._streams.values())}

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            self._streams[name] = _Stream(self._server.add(self._path(name), Jpeg()))
        return self._streams[name]

    def _path(self, stream: str) -> str:
        return self.settings.mount.replace("{stream}", stream)

    def _is_due(self, stream: _Stream, captured_ns: int) -> bool:
        if self.settings.fps is None:
            return True
        interval_ns = round(1e9 / self.settings.fps)
        # A frame a little early is taken: where the source's rate is the limit, or a multiple of
        # it, its jitter must not cost every second picture.
        if captured_ns < stream.due_ns - interval_ns // 4:
            return False
        stream.due_ns = max(stream.due_ns + interval_ns, captured_ns)
        return True

    def _encode_all(self) -> None:
        """The encoder's thread: OpenCV lets others work meanwhile."""
        while (drawn := self._drawn.get()) is not None:
            stream = drawn.stream
            try:
                jpeg = encode(drawn.picture, self.settings.width, self.settings.quality)
                stream.mount.put(jpeg, drawn.captured_ns, drawn.wall_ns)
            except (ValueError, cv2.error) as error:
                if not stream.failed:
                    stream.failed = True
                    logging.warning(
                        "rtsp: %s: cannot send its pictures: %s", stream.mount.path, error
                    )
            finally:
                stream.busy = False

    def _cannot(self, error: OSError) -> str:
        address, port = self.settings.address, self.settings.port
        if error.errno == errno.EADDRINUSE:
            return f"rtsp: port {port} is taken by another program; set another port"
        if error.errno == errno.EACCES:
            return f"rtsp: port {port} needs privileges; set one from 1024 up"
        if error.errno == errno.EADDRNOTAVAIL:
            return (
                f"rtsp: this machine has no address {address}; set 127.0.0.1, one of its own, or "
                "0.0.0.0 for all"
            )
        return f"rtsp: cannot listen at {address} port {port} ({error.strerror})"


@dataclass(eq=False)
class _Stream:
    """What the sink keeps of a stream."""

    mount: Mount
    seq: int = -1
    """Of the newest frame."""
    due_ns: int = 0
    """When the next picture may be taken, by the capture clock."""
    busy: bool = False
    """Its last picture is not encoded yet."""
    failed: bool = False


@dataclass
class _Drawn:
    """A picture to be encoded."""

    stream: _Stream
    picture: NDArray[np.uint8]
    captured_ns: int
    wall_ns: int


def encode(picture: NDArray[np.uint8], width: int, quality: int) -> bytes:
    """A picture as a JPEG file that RTP can carry.

    Args:
        picture: (H, W, 3) uint8 BGR.
        width: largest, in pixels.
        quality: from 1 to 100.
    """
    tall, wide = picture.shape[:2]
    shrink = min(1.0, width / wide, LARGEST_PX / tall)
    if shrink < 1.0:
        # Whole blocks of 8, so that no edge needs filling.
        size = (max(8, int(wide * shrink) // 8 * 8), max(8, round(tall * shrink / 8) * 8))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(
            np.uint8, copy=False
        )
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return jpeg.tobytes()
