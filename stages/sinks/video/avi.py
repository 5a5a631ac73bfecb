"""Writes .avi: chunks behind each other, the index at the end.

The lengths in the header are updated with each image, so that players show the whole file if its
writer was killed.
"""

from __future__ import annotations

import os
import struct
from array import array

from stages.sinks.video.packet import Packet
from stages.sinks.video.track import Track, write_all

MAX_BYTES = 1_900_000_000
"""Size at which the next part begins: old players take files of less than 2 GiB."""
_KEY = 0x10


def bitmap_header(track: Track) -> bytes:
    """Return a BITMAPINFOHEADER, followed by the codec's extra bytes."""
    width, height = track.width, track.height
    # In MPEG-4 the headers are in the stream.
    extra = track.config if track.codec == "FFV1" else b""
    fourcc = track.codec.encode()
    fields = 40 + len(extra), width, height, 1, 24, fourcc, 3 * width * height, 0, 0, 0, 0
    return struct.pack("<IiiHH4sIiiII", *fields) + extra


def chunk(name: bytes, *parts: bytes) -> bytes:
    """Return a chunk with its content."""
    data = b"".join(parts)
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


class Avi:
    """An .avi that is being written."""

    is_full = False

    def __init__(self, descriptor: int, track: Track) -> None:
        self._descriptor, self._track = descriptor, track
        self._sizes, self._keys = array("I"), bytearray()
        self._at = array("I")
        """Place of each chunk, counted from the word `movi`."""
        self._movi_bytes = 4
        self._longest = 0
        start = self._start(0)
        self._start_bytes = len(start)
        write_all(descriptor, start)

    def write(self, packet: Packet) -> None:
        """Add the next image."""
        data = chunk(b"00dc", packet.data)
        write_all(self._descriptor, data)
        self._at.append(self._movi_bytes)
        self._sizes.append(len(packet.data))
        self._keys.append(packet.key)
        self._movi_bytes += len(data)
        self.is_full = self._movi_bytes > MAX_BYTES
        self._longest = max(self._longest, len(packet.data))
        self._update_header(0)

    def finish(self) -> None:
        """Add the index, and write the lengths."""
        entries = [
            struct.pack("<4sIII", b"00dc", _KEY * key, at, size)
            for key, at, size in zip(self._keys, self._at, self._sizes, strict=True)
        ]
        index = chunk(b"idx1", *entries)
        write_all(self._descriptor, index)
        self._update_header(len(index))

    def _update_header(self, behind: int) -> None:
        os.pwrite(self._descriptor, self._start(behind), 0)

    def _start(self, behind: int) -> bytes:
        """Return everything before the first image, always of the same length.

        Args:
            behind: number of bytes behind the last image.
        """
        track, count = self._track, len(self._sizes)
        longest = self._longest
        size = track.width, track.height
        times = round(1_000_000 / track.rate), longest * round(track.rate)
        header = struct.pack("<14I", *times, 0, 0x10, count, 0, 1, longest, *size, 0, 0, 0, 0)
        rate = track.rate.denominator, track.rate.numerator
        stream = struct.pack("<4s4sIHHI", b"vids", track.codec.encode(), 0, 0, 0, 0)
        stream += struct.pack("<6Ii", *rate, 0, count, longest, 0xFFFFFFFF, 0)
        stream += struct.pack("<4H", 0, 0, *size)
        streams = b"strl" + chunk(b"strh", stream) + chunk(b"strf", bitmap_header(track))
        lists = b"hdrl" + chunk(b"avih", header) + chunk(b"LIST", streams)
        head = chunk(b"LIST", lists)
        movi = b"LIST" + struct.pack("<I", self._movi_bytes) + b"movi"
        total = 4 + len(head) + 8 + self._movi_bytes + behind
        return b"RIFF" + struct.pack("<I", total) + b"AVI " + head + movi
