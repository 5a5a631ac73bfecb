"""A path of the RTSP server: how its images become RTP, and the viewers that play it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

TRACK = "track1"
"""Name of the only track of a mount."""
MAX_PENDING = 256
"""Images of one mount that may wait for the server's thread."""


class Media(Protocol):
    """A kind of video."""

    payload_type: int
    backlog: int
    """Images that may wait for a slow viewer; beyond, all that wait are dropped."""

    def sdp(self) -> list[str]:
        """Return the `a=` lines that describe it to a viewer."""

    def payloads(self, image: bytes) -> list[bytes]:
        """Return the RTP payloads of one encoded image, each of at most `PAYLOAD_BYTES`.

        Raises:
            ValueError: the image is not of this kind, or cannot be sent.
        """


class MediaImage(NamedTuple):
    """An encoded image, cut into RTP payloads."""

    payloads: list[bytes]
    size_bytes: int
    time_ns: int
    wall_ns: int
    is_key: bool = True
    """Whether a decoder can begin with it, as with every JPEG."""


class Viewer(Protocol):
    """A session that plays a mount."""

    def give(self, image: MediaImage | None) -> None:
        """Queue an image; None: some images before the next one are missing."""


class Mount:
    """One path of a server. Any one thread may put images.

    Args:
        path: beginning with a slash, of characters that need no escape in an address.
        media: kind of its video.
        wake: wakes the server's thread.
    """

    def __init__(self, path: str, media: Media, wake: Callable[[], None]) -> None:
        self.path, self.media = path, media
        self.viewers: list[Viewer] = []
        """Sessions that play now. For the server's thread alone."""
        self.pending: deque[MediaImage | None] = deque()
        """Images for the server's thread; None: some are missing."""
        self._wake = wake

    @property
    def watched(self) -> bool:
        """Whether a viewer plays it: if not, no image needs to be encoded."""
        return bool(self.viewers)

    def put(self, image: bytes, time_ns: int, wall_ns: int) -> None:
        """Send the next image to all viewers. Does not wait.

        Args:
            image: encoded as the mount's `Media` takes it.
            time_ns: time to show it, by any clock that runs evenly.
            wall_ns: time of capture, nanoseconds since the Unix epoch.

        Raises:
            ValueError: the image cannot be sent.
        """
        if not self.viewers:
            return
        if len(self.pending) >= MAX_PENDING:  # the server's thread gets no time
            self.pending.clear()
            self.pending.append(None)
        self.pending.append(self.encode(image, time_ns, wall_ns))
        self._wake()

    def encode(self, image: bytes, time_ns: int, wall_ns: int) -> MediaImage:
        """Cut an encoded image into RTP payloads; see `put`."""
        payloads = self.media.payloads(image)
        return MediaImage(payloads, sum(map(len, payloads)), time_ns, wall_ns)

    def sdp(self, own: str) -> str:
        """Return the session description (RFC 4566).

        Args:
            own: address of this machine that the viewer is connected to.
        """
        is_ip6 = ":" in own
        lines = [
            "v=0",
            f"o=- {secrets.randbits(31)} 1 IN {'IP6' if is_ip6 else 'IP4'} {own}",
            "s=Eyeline",
            f"c=IN {'IP6 ::' if is_ip6 else 'IP4 0.0.0.0'}",
            "t=0 0",
            "a=range:npt=now-",
            "a=control:*",
            f"m=video 0 RTP/AVP {self.media.payload_type}",
            *self.media.sdp(),
            f"a=control:{TRACK}",
        ]
        return "\r\n".join(lines) + "\r\n"

    def admits_first(self, image: MediaImage) -> tuple[bool, bool]:
        """Decide on an image for a viewer that has had none, or has lost some.

        Returns:
            Whether the viewer has begun from now on, and whether it gets this image.
        """
        return image.is_key, image.is_key
