"""Pictures as RTP payloads: JPEG (RFC 2435) and H.264 (RFC 6184)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Protocol

CLOCK_HZ = 90_000
"""Ticks of RTP time per second, for every kind of video."""
PAYLOAD_BYTES = 1400
"""Largest payload: with all headers it fits an Ethernet frame."""

SAMPLINGS = {
    b"\x01\x21\x00\x02\x11\x01\x03\x11\x01": 0,  # 4:2:2
    b"\x01\x22\x00\x02\x11\x01\x03\x11\x01": 1,  # 4:2:0
}
"""How a JPEG file says which samples and tables its components have -> type of RFC 2435."""


class Media(Protocol):
    """What is served under one path: how its pictures become RTP."""

    payload_type: int
    backlog: int
    """Pictures that may wait for a slow viewer; beyond, all that wait are dropped."""

    def sdp(self) -> list[str]:
        """The `a=` lines that describe it to a reader."""

    def is_key(self, picture: bytes) -> bool:
        """Whether a decoder can begin with this picture."""

    def payloads(self, picture: bytes) -> list[bytes]:
        """The RTP payloads of one picture, each of at most `PAYLOAD_BYTES`.

        Raises:
            ValueError: the picture is not of this kind, or cannot be sent.
        """


class Jpeg:
    """Pictures that are baseline JPEG files (RFC 2435), of at most 2040 x 2040 pixels.

    4:2:0 or 4:2:2 with the standard Huffman tables, as OpenCV writes them. Readers see sides that
    are no multiple of 8 rounded up to one: the pixels that the encoder had to add.
    """

    payload_type = 26
    backlog = 1

    def __init__(self, fps: float | None = None) -> None:
        self._fps = fps

    def sdp(self) -> list[str]:
        """The payload type says it all."""
        return [] if self._fps is None else [f"a=framerate:{self._fps:g}"]

    def is_key(self, picture: bytes) -> bool:
        """Every JPEG is."""
        return True

    def payloads(self, picture: bytes) -> list[bytes]:
        """Cut a JPEG file into RTP payloads; its headers go along in short form."""
        return jpeg_payloads(picture)


class H264:
    """Access units of H.264 (RFC 6184), each NAL unit behind its length in 4 bytes, as in mp4.

    Args:
        sps: sequence parameter set, a NAL unit.
        pps: picture parameter set, a NAL unit.
        fps: told to the reader.
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

    def is_key(self, picture: bytes) -> bool:
        """Whether the access unit is an IDR picture."""
        return any(nal[0] & 31 == 5 for nal in nal_units(picture))

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


def jpeg_payloads(jpeg: bytes) -> list[bytes]:
    """A JPEG file as RTP payloads: 8 bytes of header each, the quantisation tables in the first.

    Raises:
        ValueError: not a JPEG that RFC 2435 can carry.
    """
    tables: dict[int, bytes] = {}
    kind = width = height = interval = None
    at = 2
    try:
        if jpeg[:2] != b"\xff\xd8":
            raise ValueError("not a JPEG file")
        while True:
            marker, size = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
            segment = jpeg[at + 4 : at + 2 + size]
            if jpeg[at] != 0xFF or size < 2:
                raise ValueError("a damaged JPEG file")
            at += 2 + size
            if marker == 0xDB:  # quantisation tables
                for start in range(0, len(segment), 65):
                    tables[segment[start]] = segment[start + 1 : start + 65]
            elif marker == 0xC0:  # baseline
                height, width = struct.unpack_from(">HH", segment, 1)
                kind = SAMPLINGS.get(segment[6:15])
            elif 0xC1 <= marker <= 0xCF and marker != 0xC4:
                raise ValueError("a JPEG file that is not baseline")
            elif marker == 0xDD:  # restart interval
                interval = int.from_bytes(segment[:2], "big") or None
            elif marker == 0xDA:
                break
    except (IndexError, struct.error):
        raise ValueError("a JPEG file that ends too early") from None
    if kind is None or width is None or height is None:
        raise ValueError("a JPEG file that is neither 4:2:0 nor 4:2:2 in colour")
    if not 0 < width <= 2040 or not 0 < height <= 2040:
        raise ValueError(f"{width}x{height}: RTP carries JPEG pictures up to 2040x2040")
    if sorted(tables) != [0, 1]:
        raise ValueError("a JPEG file without the two quantisation tables of 8 bits")
    scan = jpeg[at:].removesuffix(b"\xff\xd9")
    head = bytes((kind, 255, -(-width // 8), -(-height // 8)))
    if interval is not None:
        head = bytes((kind + 64, *head[1:])) + struct.pack(">HH", interval, 0xFFFF)
    first = struct.pack(">BBH", 0, 0, 128) + tables[0] + tables[1]
    payloads, done = [], 0
    while done < len(scan):
        front = struct.pack(">I", done) + head + (b"" if done else first)
        part = scan[done : done + PAYLOAD_BYTES - len(front)]
        payloads.append(front + part)
        done += len(part)
    return payloads
