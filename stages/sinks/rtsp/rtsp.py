"""The annotated streams as MJPEG over RTSP: for a player, or another program.

`ffplay rtsp://127.0.0.1:8554/yard` shows the stream `yard` with its boxes. No frame is drawn or
encoded while no viewer plays the stream. A viewer that is too slow loses images: it never delays
the pipeline. Sender reports (RTCP) give viewers the capture time of each image.
"""

from __future__ import annotations

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
from stages.detections import RESULTS
from stages.drawing.annotator import annotator_of
from stages.drawing.rate_limit import RateLimit
from stages.sinks.listen import bind_error, check_bind_address, is_loopback
from stages.sinks.rtsp.auth import Credentials
from stages.sinks.rtsp.mount import Mount
from stages.sinks.rtsp.rtp_jpeg import Jpeg
from stages.sinks.rtsp.server import RtspServer

MAX_SIDE_PX = 2040
"""Longest side of an image: RTP has one byte for the sides of a JPEG, in units of 8 pixels."""


class RtspSettings(Settings, frozen=True):
    """Settings of the RTSP sink."""

    address: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Address of the interface to listen on; 0.0.0.0: all of them. All but loopback addresses need
    `user` and `password`."""
    port: Annotated[int, Meta(ge=0, le=65535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")] = (
        8554
    )
    """Port to listen on; 0: a free one, which the log shows."""
    mount: Annotated[str, Meta(pattern=r"^/[A-Za-z0-9._~/-]*\{stream\}[A-Za-z0-9._~/-]*$")] = (
        "/{stream}"
    )
    """Path of a stream in its address; {stream} stands for the stream's name."""
    user: Annotated[str, Meta(pattern=r'^[^:"\\]*$')] = ""
    """User name that viewers need; set it together with `password`."""
    password: str = ""
    """Password that viewers need. It is never sent over the network (digest authentication), but
    the images are, unencrypted."""
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    """Most images per second; null: no limit."""
    width: Annotated[int, Meta(ge=64, le=MAX_SIDE_PX)] = 1280
    """Largest width of an image, in pixels; larger ones are scaled down, as are those higher than
    2040."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 80
    """Quality of the JPEG images."""
    viewers: Annotated[int, Meta(ge=1, le=256)] = 16
    """Most connections at a time."""
    annotate: bool = True
    """Draw boxes, tags and trails."""


class Rtsp(Stage):
    """Serves each stream under a path of its own.

    Frames may arrive out of order, and those older than the newest are left out: a viewer needs
    the newest image, and an ordered stage would wait for others and save its state after each.
    """

    Settings = RtspSettings
    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS)
    isolated = True

    settings: RtspSettings

    def __init__(self, settings: RtspSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._annotator = annotator_of(context)
        self._streams: dict[str, _Stream] = {}
        credentials = None
        if settings.user:
            credentials = Credentials(settings.user, settings.password)
        self._server = RtspServer(
            settings.address,
            int(settings.port),
            credentials,
            max_clients=settings.viewers,
            log=context.log,
        )
        self._drawn: queue.SimpleQueue[_Drawn | None] = queue.SimpleQueue()
        """Images to encode, at most one per stream; None: the end."""
        self._encoder: threading.Thread | None = None

    @classmethod
    def resolve(cls, settings: RtspSettings) -> Resolved:
        """Check the address, and that viewers from the network need a password.

        Raises:
            SetupError: a setting is wrong, or the streams would be open to the network.
        """
        if int(settings.port) > 65535:
            raise SetupError(
                f"port: expected a number up to 65535, found {settings.port}; choose a smaller one"
            )
        if bool(settings.user) != bool(settings.password):
            raise SetupError(
                "user, password: expected both or neither (found one); set the other one too"
            )
        check_bind_address(settings.address, "user and password")
        if not is_loopback(settings.address) and not settings.user:
            raise SetupError(
                f"address: {settings.address} is reachable from the network; set user and "
                "password, or use 127.0.0.1"
            )
        return Resolved()

    @classmethod
    def resources(cls, settings: RtspSettings) -> Resources:
        """Declare the address it listens on."""
        return Resources(listens=(Listen(settings.address, int(settings.port)),))

    def open(self) -> None:
        """Listen, and start the encoder.

        Raises:
            SetupError: the address or port is not available.
        """
        try:
            self._server.open()
        except OSError as error:
            own = self.settings
            raise SetupError(bind_error(error, own.address, int(own.port))) from None
        for stream in self.context.streams:
            self._stream(stream)
        where = self.info()["address"]
        if is_loopback(self.settings.address):
            self.context.log.info("annotated streams at %s", where)
        else:
            self.context.log.warning(
                "streams reachable from the network at %s (password required, no encryption)", where
            )
        self._encoder = threading.Thread(target=self._encode_all, name="encoder", daemon=True)
        self._encoder.start()

    def process(self, frame: Frame) -> None:
        """Draw the frame for the encoder, if a viewer plays the stream and it is due."""
        stream = self._stream(frame.stream)
        if frame.seq <= stream.seq:
            return
        stream.seq = frame.seq
        if stream.busy or not stream.mount.watched or not stream.rate.is_due(frame.captured_ns):
            return
        # The annotator does not draw on its image again before it is encoded.
        annotate = self.settings.annotate
        image = self._annotator.draw(frame) if annotate else np.array(frame["image"])
        stream.busy = True
        self._drawn.put(_Drawn(stream, image, frame.captured_ns, frame.wall_ns))

    def end(self, stream: str) -> None:
        """Remove the path, and disconnect its viewers."""
        self._streams.pop(stream, None)
        self._server.remove(self._path(stream))
        self._annotator.forget(stream)

    def close(self) -> None:
        """Disconnect all viewers."""
        if self._encoder is not None:
            self._drawn.put(None)
            self._encoder.join()
            self._encoder = None
        self._server.close()

    def info(self) -> Mapping[str, str]:
        """Return the address of the streams."""
        return {"address": self._server.url(self.settings.mount)}

    def counters(self) -> Mapping[str, int]:
        """Return the number of viewers that play a stream."""
        return {"viewers": sum(len(stream.mount.viewers) for stream in self._streams.values())}

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            self._streams[name] = _Stream(
                self._server.add(self._path(name), Jpeg()), RateLimit(self.settings.fps)
            )
        return self._streams[name]

    def _path(self, stream: str) -> str:
        return self.settings.mount.replace("{stream}", stream)

    def _encode_all(self) -> None:
        """Encode images, in a thread: OpenCV releases the GIL."""
        while (drawn := self._drawn.get()) is not None:
            stream = drawn.stream
            try:
                jpeg = encode(drawn.image, self.settings.width, self.settings.quality)
                stream.mount.put(jpeg, drawn.captured_ns, drawn.wall_ns)
            except (ValueError, cv2.error) as error:
                if not stream.failed:
                    stream.failed = True
                    self.context.log.warning(
                        "%s: images cannot be sent: %s", stream.mount.path, error
                    )
            finally:
                stream.busy = False


@dataclass(eq=False)
class _Stream:
    """State of a stream in the sink."""

    mount: Mount
    rate: RateLimit
    seq: int = -1
    """Number of the newest frame."""
    busy: bool = False
    """Whether its last image is not encoded yet."""
    failed: bool = False
    """Whether it was logged that an image cannot be sent."""


@dataclass
class _Drawn:
    """An image to be encoded."""

    stream: _Stream
    image: NDArray[np.uint8]
    captured_ns: int
    wall_ns: int


def encode(image: NDArray[np.uint8], width: int, quality: int) -> bytes:
    """Encode an image as a JPEG file that RTP can carry.

    Args:
        image: (H, W, 3) uint8 BGR.
        width: largest width, in pixels.
        quality: from 1 to 100.
    """
    tall, wide = image.shape[:2]
    shrink = min(1.0, width / wide, MAX_SIDE_PX / tall)
    if shrink < 1.0:
        # Whole blocks of 8, so that no edge needs filling.
        size = (max(8, int(wide * shrink) // 8 * 8), max(8, round(tall * shrink / 8) * 8))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return jpeg.tobytes()
