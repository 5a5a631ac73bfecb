"""Images over HTTP that need no video decoder: snapshot addresses, and MJPEG streams.

A snapshot address answers with one image, so it is polled. An MJPEG stream
(multipart/x-mixed-replace) is one response that holds image after image. Neither has timestamps:
FFmpeg would invent some, by 25 images per second; here the time of arrival counts. Each image has
its own size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.addresses import host_of, scheme_of
from stages.capture.http_client import HttpClient, NotHttpError
from stages.capture.opencv_live import OPEN_TIMEOUT_S, OpenCVVideo
from stages.capture.reader import Reader
from stages.capture.settings import CaptureSettings
from stages.capture.source import CLOSED, ENDED, WEB_PAGE, SourceProblem, connection_problem
from stages.capture.watchdog import FIRST_IMAGE_S

if TYPE_CHECKING:
    from http.client import HTTPResponse

DEFAULT_FPS = 5.0
"""Requests per second to a snapshot address, where `fps` is not set; most cameras make no more."""
MAX_IMAGE_BYTES = 64 << 20
MAX_PART_HEADERS = 64
MAX_BEHIND_JPEG_BYTES = 4096
"""Bytes behind the end of an image: some cameras add zeros, or data of their own."""
MAX_LINE_BYTES = 4096
READ_BYTES = 1 << 16

_TIMED = ("mpegurl", "mp2t", "mp4", "flv", "webm", "matroska", "quicktime", "ogg")
"""Parts of content types whose containers hold real timestamps."""
_TIMED_ENDINGS = (".m3u8", ".ts", ".mp4", ".flv", ".webm", ".mkv", ".mov")
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"


def open_http(settings: CaptureSettings) -> Reader:
    """Open an http:// or https:// address with the reader that suits its response.

    Raises:
        SourceError: it cannot be opened.
    """
    from http.client import HTTPException

    address = str(settings.source)
    if _has_proxy(address):
        return OpenCVVideo(settings)  # FFmpeg knows how to use one
    client = HttpClient(address, OPEN_TIMEOUT_S)
    deadline = threading.Timer(OPEN_TIMEOUT_S, client.interrupt)
    deadline.daemon = True
    deadline.start()
    try:
        response = client.get()
        kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
        if kind.startswith("multipart/") or _is_image(kind, response):
            return HttpImages(settings, client, response, kind)
    except NotHttpError:
        kind = ""
    except (SourceError, OSError, HTTPException) as error:
        late = not deadline.is_alive()
        raise _source_error(TimeoutError() if late else error, address) from None
    finally:
        deadline.cancel()
    client.close()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SourceError(WEB_PAGE, "failed")
    path = address.partition("?")[0].lower()
    rate_known = any(part in kind for part in _TIMED) or path.endswith(_TIMED_ENDINGS)
    # It has answered: its first image may take as long as that of any camera.
    return OpenCVVideo(settings, rate_known, max(FIRST_IMAGE_S, settings.stall_timeout_s))


def _has_proxy(address: str) -> bool:
    from urllib.request import getproxies, proxy_bypass

    return scheme_of(address) in getproxies() and not proxy_bypass(host_of(address)[0])


def _source_error(error: Exception, address: str) -> SourceError:
    if isinstance(error, SourceError):
        return error
    kind, text = connection_problem(error, address) or CLOSED
    return SourceError(text, kind)


def _is_image(kind: str, response: HTTPResponse) -> bool:
    """Return whether a response is one image: by its type, or its length and first bytes."""
    if kind.startswith("image/"):
        return True
    if kind.startswith(("video/", "audio/", "text/")) or not response.length:
        return False
    return response.length <= MAX_IMAGE_BYTES and response.peek(3)[:3] == _JPEG


class HttpImages(Reader):
    """A snapshot address, or an MJPEG stream."""

    finite = False
    source_ns = -1

    def __init__(
        self,
        settings: CaptureSettings,
        client: HttpClient,
        response: HTTPResponse,
        kind: str,
    ) -> None:
        """Take over a response of which the body has not been read.

        Args:
            settings: settings of the stream.
            client: that has sent the request.
            response: to be read.
            kind: its content type.
        """
        self._address, self._client = str(settings.source), client
        self._interval_s = 1.0 / (settings.fps or DEFAULT_FPS)
        self._stall_s = settings.stall_timeout_s
        self._problem: SourceProblem = ("", "")
        self._stopped = threading.Event()
        self._body = b""
        self._count = 0
        client.set_timeout(max(FIRST_IMAGE_S, self._stall_s))
        if kind.startswith("multipart/"):
            self._bodies = _parts(response)
            self.decoder = "OpenCV imdecode (MJPEG over HTTP)"
        else:
            self._bodies = self._snapshots(response)
            self.decoder = "OpenCV imdecode (HTTP snapshots)"

    def grab(self) -> bool:
        """Wait for the next image and take it."""
        from http.client import HTTPException

        try:
            self._body = next(self._bodies, b"")
        except SourceError as error:
            self._body, self._problem = b"", (error.kind, str(error))
        except (OSError, ValueError, HTTPException) as error:
            frozen = ("frozen", f"no new image for {self._stall_s:g} s")
            self._body = b""
            self._problem = frozen if isinstance(error, TimeoutError) else CLOSED
        if not self._body:
            if not self._problem[0]:
                self._problem = ENDED
            return False
        if not self._count:
            self._client.set_timeout(self._stall_s)
        self._count += 1
        return not self._stopped.is_set()

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it is damaged, or not an image."""
        body = self._body
        if body.startswith(_JPEG) and _JPEG_END not in body[-MAX_BEHIND_JPEG_BYTES:]:
            return False  # cut off: OpenCV would decode it, with its lower part grey
        try:
            image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            return False
        if image is None:
            return False
        frame.put("image", image)
        return True

    def end_reason(self) -> SourceProblem:
        """Return why it ended."""
        return self._problem

    def interrupt(self) -> None:
        """Make a waiting grab return at once."""
        self._stopped.set()
        self._client.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._stopped.set()
        self._bodies.close()
        self._client.close()

    def _snapshots(self, response: HTTPResponse) -> Generator[bytes, None, None]:
        """Yield the image of a response, then those of further requests."""
        due = time.monotonic()
        while True:
            yield _whole(response)
            # A camera that is slower than requested is polled again at once, but only once.
            due = max(due + self._interval_s, time.monotonic())
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            response = self._client.get()


def _whole(response: HTTPResponse) -> bytes:
    """Read the body of a response.

    Raises:
        SourceError: it is too large.
    """
    body = response.read(MAX_IMAGE_BYTES + 1)
    if len(body) > MAX_IMAGE_BYTES:
        raise _too_large()
    return body


def _too_large() -> SourceError:
    return SourceError(f"the image is larger than {MAX_IMAGE_BYTES >> 20} MiB", "unsupported")


def _parts(response: HTTPResponse) -> Generator[bytes, None, None]:
    """Yield the images of a multipart response, in the order in which they come.

    The boundary is the first one in the body: some cameras announce another one.
    """
    boundary = b""
    while line := response.readline(MAX_LINE_BYTES):
        line = line.strip()
        if not boundary and line.startswith(b"--") and len(line) > 2:
            boundary = line
        at_part = bool(boundary) and line == boundary
        while at_part:
            kind, length = _part_headers(response)
            if length is None:
                body, at_part = _until(response, boundary)
            else:
                body, at_part = _exactly(response, length), False
            if body and kind in ("", "image"):
                yield body


def _part_headers(response: HTTPResponse) -> tuple[str, int | None]:
    """Read the headers of a part: the first word of its type, and its length if it has one."""
    kind, length = "", None
    for _ in range(MAX_PART_HEADERS):
        line = response.readline(MAX_LINE_BYTES)
        name, _, value = line.decode("latin-1").partition(":")
        if not line.strip():
            break
        if name.strip().lower() == "content-length" and value.strip().isdecimal():
            length = int(value) or None
        elif name.strip().lower() == "content-type":
            kind = value.strip().lower().partition("/")[0]
    return kind, length


def _exactly(response: HTTPResponse, length: int) -> bytes:
    """Read so many bytes; return none if the stream ends among them."""
    if length > MAX_IMAGE_BYTES:
        raise _too_large()
    body = response.read(length)
    return body if len(body) == length else b""


def _until(response: HTTPResponse, boundary: bytes) -> tuple[bytes, bool]:
    """Read a part without a length, and its boundary; False: the stream has ended."""
    body = bytearray()
    while line := response.readline(READ_BYTES):
        body += line
        end = line.rstrip(b"\r\n")
        for last in (boundary, boundary + b"--"):
            if end.endswith(last):
                del body[len(body) - len(line) + len(end) - len(last) :]
                return bytes(body.rstrip(b"\r\n")), last == boundary
        if len(body) > MAX_IMAGE_BYTES:
            raise _too_large()
    return bytes(body), False
