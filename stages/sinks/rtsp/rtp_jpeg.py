"""JPEG images as RTP payloads (RFC 2435)."""

from __future__ import annotations

import struct

CLOCK_HZ = 90_000
"""Ticks of RTP time per second, for every kind of video."""
PAYLOAD_BYTES = 1400
"""Largest payload, which fits in an Ethernet frame with all headers."""

SAMPLINGS = {
    b"\x01\x21\x00\x02\x11\x01\x03\x11\x01": 0,  # 4:2:2
    b"\x01\x22\x00\x02\x11\x01\x03\x11\x01": 1,  # 4:2:0
}
"""Components of a JPEG file, with their samples and tables -> type of RFC 2435."""


class Jpeg:
    """Baseline JPEG files (RFC 2435), of at most 2040 x 2040 pixels.

    4:2:0 or 4:2:2 with the standard Huffman tables, as OpenCV writes them. For viewers, sides are
    rounded up to a multiple of 8: the encoder adds these pixels.

    Args:
        fps: frames per second, for the session description; None: not stated.
    """

    payload_type = 26
    backlog = 1

    def __init__(self, fps: float | None = None) -> None:
        self._fps = fps

    def sdp(self) -> list[str]:
        """Return the frame rate; the payload type describes the rest."""
        return [] if self._fps is None else [f"a=framerate:{self._fps:g}"]

    def payloads(self, image: bytes) -> list[bytes]:
        """Cut a JPEG file into RTP payloads, with its headers in short form."""
        return jpeg_payloads(image)


def jpeg_payloads(jpeg: bytes) -> list[bytes]:
    """Cut a JPEG file into payloads: 8 bytes of header each, quantisation tables in the first.

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
        raise ValueError(f"{width}x{height}: RTP carries JPEG images of up to 2040x2040")
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
