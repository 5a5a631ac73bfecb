"""H.264 and basic authentication for the RTSP server of the tests' camera.

The server itself serves JPEG with digest authentication.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.sinks.rtsp.auth import REALM, Credentials
from stages.sinks.rtsp.mount import MediaImage, Mount
from stages.sinks.rtsp.rtp_jpeg import CLOCK_HZ, PAYLOAD_BYTES
from stages.sinks.rtsp.session import Session

Start = Literal["key", "any", "after_key"]
"""First image of a viewer: a key image; any, as of cameras that let a viewer begin amid a group of
images; or the one after a key image, which is always amid a group."""


class H264:
    """Access units of H.264 (RFC 6184), each NAL unit behind its length in 4 bytes, as in mp4.

    Args:
        sps: sequence parameter set, a NAL unit.
        pps: picture parameter set, a NAL unit.
        fps: frames per second, for the session description.
    """

    payload_type = 96
    backlog = 120

    def __init__(self, sps: bytes, pps: bytes, fps: float | None = None) -> None:
        self._sps, self._pps, self._fps = sps, pps, fps

    def sdp(self) -> list[str]:
        """Codec and parameter sets."""
        sets = ",".join(base64.b64encode(nal).decode() for nal in (self._sps, self._pps))
        return [
            f"a=rtpmap:{self.payload_type} H264/{CLOCK_HZ}",
            f"a=fmtp:{self.payload_type} packetization-mode=1;"
            f"profile-level-id={self._sps[1:4].hex()};sprop-parameter-sets={sets}",
            *([] if self._fps is None else [f"a=framerate:{self._fps:g}"]),
        ]

    def payloads(self, picture: bytes) -> list[bytes]:
        """Cut an access unit into RTP payloads; the parameter sets go before each IDR picture."""
        nals = list(nal_units(picture))
        kinds = {nal[0] & 31 for nal in nals}
        if 5 in kinds and 7 not in kinds:
            nals[:0] = [self._sps, self._pps]
        return [payload for nal in nals for payload in h264_payloads(nal)]


def nal_units(access_unit: bytes) -> Iterator[bytes]:
    """The NAL units of an access unit, each behind its length in 4 bytes.

    Raises:
        ValueError: the lengths do not add up.
    """
    at = 0
    while at < len(access_unit):
        start = at + 4
        at = start + int.from_bytes(access_unit[at:start], "big")
        if at == start or at > len(access_unit):
            raise ValueError("not an access unit of NAL units behind 4-byte lengths")
        yield access_unit[start:at]


def h264_payloads(nal: bytes) -> list[bytes]:
    """A NAL unit as one RTP payload, or cut into fragments (FU-A)."""
    if len(nal) <= PAYLOAD_BYTES:
        return [nal]
    room, payloads = PAYLOAD_BYTES - 2, []
    indicator, kind, last = nal[0] & 0xE0 | 28, nal[0] & 31, 1 + (len(nal) - 2) // room * room
    for at in range(1, len(nal), room):
        ends = (0x80 if at == 1 else 0) | (0x40 if at == last else 0)
        payloads.append(bytes((indicator, ends | kind)) + nal[at : at + room])
    return payloads


class H264Mount(Mount):
    """A mount of H.264, whose viewers begin with a key image."""

    start: Start = "key"

    @property
    def key_wanted(self) -> bool:
        """Whether a viewer waits for a key image."""
        viewers = [viewer for viewer in list(self.viewers) if isinstance(viewer, Session)]
        return self.start != "any" and any(not viewer.sender.started for viewer in viewers)

    def encode(self, image: bytes, time_ns: int, wall_ns: int) -> MediaImage:
        """Cut an access unit into RTP payloads, and see whether it is a key image."""
        is_key = any(nal[0] & 31 == 5 for nal in nal_units(image))
        return super().encode(image, time_ns, wall_ns)._replace(is_key=is_key)

    def admits_first(self, image: MediaImage) -> tuple[bool, bool]:
        """Begin as `start` says."""
        if self.start == "any":
            return True, True
        return image.is_key, image.is_key and self.start == "key"


class AnyH264Mount(H264Mount):
    """One whose viewers begin with any image."""

    start = "any"


class AfterKeyH264Mount(H264Mount):
    """One whose viewers begin with the image after a key image."""

    start = "after_key"


MOUNTS: dict[Start, type[H264Mount]] = {
    "key": H264Mount,
    "any": AnyH264Mount,
    "after_key": AfterKeyH264Mount,
}


@dataclass(frozen=True)
class CameraCredentials(Credentials):
    """Credentials that are also accepted by basic authentication (RFC 7617)."""

    schemes: Sequence[Literal["digest", "basic"]] = ("digest", "basic")

    def challenges(self, nonce: str) -> list[str]:
        """Return the values of WWW-Authenticate, in the order of `schemes`."""
        offers = {"digest": super().challenges(nonce), "basic": [f'Basic realm="{REALM}"']}
        return [value for scheme in self.schemes for value in offers[scheme]]

    def accepts(self, header: str | None, method: str, nonce: str) -> bool:
        """Return whether the value of an Authorization header is right, by an offered scheme."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() not in self.schemes:
            return False
        if scheme.lower() == "basic":
            expected = base64.b64encode(f"{self.user}:{self.password}".encode())
            return hmac.compare_digest(text.strip().encode(), expected)
        return super().accepts(header, method, nonce)
