"""Pictures over HTTP that need no video decoder: snapshot addresses, and MJPEG streams.

A snapshot address answers with one picture, so it is asked again and again. An MJPEG stream
(multipart/x-mixed-replace) is one answer that holds picture after picture. Neither has time stamps:
FFmpeg would invent some, by 25 pictures per second; here the time of arrival counts. Each picture
has its own size.
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
from stages.capture.http_client import HttpClient, NotHttpError
from stages.capture.live_reader import FIRST_PICTURE_S
from stages.capture.opencv_live import OPEN_TIMEOUT_S, OpenCVVideo
from stages.capture.reader import Pictures
from stages.capture.source import WEB_PAGE, Trouble, connection_trouble, host_of, scheme_of

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from stages.capture.capture import CaptureSettings

DEFAULT_FPS = 5.0
"""How often a snapshot address is asked, where `fps` does not say: most cameras make no more."""
MAX_PICTURE_BYTES = 64 << 20
MAX_PART_HEADERS = 64
MAX_BEHIND_JPEG_BYTES = 4096
"""Some cameras fill a picture up with zeros, or add data of their own behind its end."""
MAX_LINE_BYTES = 4096
READ_BYTES = 1 << 16

_TIMED = ("mpegurl", "mp2t", "mp4", "flv", "webm", "matroska", "quicktime", "ogg")
"""Parts of content types whose containers hold real time stamps."""
_TIMED_ENDINGS = (".m3u8", ".ts", ".mp4", ".flv", ".webm", ".mkv", ".mov")
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"


def open_http(settings: CaptureSettings) -> Pictures:
    """Open an http:// or https:// address with the reader that suits what it answers.

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
        if kind.startswith("multipart/") or _is_picture(kind, response):
            return HttpPictures(settings, client, response, kind)
    except NotHttpError:
        kind = ""
    except (SourceError, OSError, HTTPException) as error:
        late = not deadline.is_alive()
        raise _in_words(TimeoutError() if late else error, address) from None
    finally:
        deadline.cancel()
    client.close()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SourceError(WEB_PAGE, "failed")
    path = address.partition("?")[0].lower()
    rate_known = any(part in kind for part in _TIMED) or path.endswith(_TIMED_ENDINGS)
    # It has answered: its first picture may take as long as that of any camera.
    return OpenCVVideo(settings, rate_known, max(FIRST_PICTURE_S, settings.stall_timeout_s))


def _has_proxy(address: str) -> bool:
    from urllib.request import getproxies, proxy_bypass

    return scheme_of(address) in getproxies() and not proxy_bypass(host_of(address)[0])


def _in_words(error: Exception, address: str) -> SourceError:
    if isinstance(error, SourceError):
        return error
    kind, text = connection_trouble(error, address) or (
        "closed",
        "the other side has closed the connection",
    )
    return SourceError(text, kind)


def _is_picture(kind: str, response: HTTPResponse) -> bool:
    """Whether an answer is one picture: it says so, or it has an end and begins as a JPEG does."""
    if kind.startswith("image/"):
        return True
    if kind.startswith(("video/", "audio/", "text/")) or not response.length:
        return False
    return response.length <= MAX_PICTURE_BYTES and response.peek(3)[:3] == _JPEG


class HttpPictures(Pictures):
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
        """Take over an answer of which the body has not been read.

        Args:
            settings: of the stream.
            client: that has asked for it.
            response: the answer.
            kind: its content type.
        """
        self._address, self._client = str(settings.source), client
        self._interval_s = 1.0 / (settings.fps or DEFAULT_FPS)
        self._stall_s = settings.stall_timeout_s
        self._trouble: Trouble = ("", "")
        self._over = threading.Event()
        self._body = b""
        self._count = 0
        client.set_timeout(max(FIRST_PICTURE_S, self._stall_s))
        if kind.startswith("multipart/"):
            self._bodies = _parts(response)
            self.decoder = "OpenCV imdecode (MJPEG over HTTP)"
        else:
            self._bodies = self._snapshots(response)
            self.decoder = "OpenCV imdecode (HTTP snapshots)"

    def grab(self) -> bool:
        """Wait for the next picture and take it."""
        from http.client import HTTPException

        try:
            self._body = next(self._bodies, b"")
        except SourceError as error:
            self._body, self._trouble = b"", (error.kind, str(error))
        except (OSError, ValueError, HTTPException) as error:
            frozen = ("frozen", f"no new picture has come for {self._stall_s:g} s")
            closed = ("closed", "the other side has closed the connection")
            self._body = b""
            self._trouble = frozen if isinstance(error, TimeoutError) else closed
        if not self._body:
            if not self._trouble[0]:
                self._trouble = "closed", "the other side has ended the stream"
            return False
        if not self._count:
            self._client.set_timeout(self._stall_s)
        self._count += 1
        return not self._over.is_set()

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last picture into the frame; False: it is damaged, or no picture."""
        body = self._body
        if body.startswith(_JPEG) and _JPEG_END not in body[-MAX_BEHIND_JPEG_BYTES:]:
            return False  # cut off: it would be decoded, with its lower part grey
        try:
            picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            return False
        if picture is None:
            return False
        frame.put("image", picture)
        return True

    def trouble(self) -> Trouble:
        """Kind and words of what ended it."""
        return self._trouble

    def interrupt(self) -> None:
        """Have a grab that waits return at once."""
        self._over.set()
        self._client.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._over.set()
        self._bodies.close()
        self._client.close()

    def _snapshots(self, response: HTTPResponse) -> Generator[bytes, None, None]:
        """The picture of an answer, and of all that are asked for later."""
        due = time.monotonic()
        while True:
            yield _whole(response)
            # A camera that is slower than asked for is asked again at once, but not twice.
            due = max(due + self._interval_s, time.monotonic())
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            response = self._client.get()


def _whole(response: HTTPResponse) -> bytes:
    """Read the body of an answer.

    Raises:
        SourceError: it is larger than any picture.
    """
    body = response.read(MAX_PICTURE_BYTES + 1)
    if len(body) > MAX_PICTURE_BYTES:
        raise _too_large()
    return body


def _too_large() -> SourceError:
    return SourceError(f"sends a picture of more than {MAX_PICTURE_BYTES >> 20} MiB", "unsupported")


def _parts(response: HTTPResponse) -> Generator[bytes, None, None]:
    """The pictures of a multipart answer, in the order in which they come.

    The line between two parts is the one that is seen first: some cameras announce another one.
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
    """Read so many bytes; none at an end amid them."""
    if length > MAX_PICTURE_BYTES:
        raise _too_large()
    body = response.read(length)
    return body if len(body) == length else b""


def _until(response: HTTPResponse, boundary: bytes) -> tuple[bytes, bool]:
    """Read a part without a length, and the line that ends it; false: the stream has ended."""
    body = bytearray()
    while line := response.readline(READ_BYTES):
        body += line
        end = line.rstrip(b"\r\n")
        for last in (boundary, boundary + b"--"):
            if end.endswith(last):
                del body[len(body) - len(line) + len(end) - len(last) :]
                return bytes(body.rstrip(b"\r\n")), last == boundary
        if len(body) > MAX_PICTURE_BYTES:
            raise _too_large()
    return bytes(body), False
