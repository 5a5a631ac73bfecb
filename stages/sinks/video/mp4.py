"""Writes .mp4 and .mov (ISO/IEC 14496-12), fragmented until they are complete.

While it is written the file is `ftyp free moov (moof mdat)...`: each image is a fragment that
describes itself. At the end a `moov` with the index of all images is added, and `free` becomes an
`mdat` that covers everything in between: a regular file, in which every player can seek.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array

from stages.sinks.video.packet import Packet
from stages.sinks.video.track import Track, write_all

MIN_TIMESCALE = 10_000
"""Lowest rate of the file's clock, in ticks per second; the rate is a multiple of `Track.rate`."""
_KEY, _OTHER = 0x02000000, 0x01010000
"""Flags of an image that depends on no other, and of one that depends on others."""
_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_COLOURS = 1, 1, 6
"""Primaries and transfer of BT.709, matrix of BT.601, as OpenCV converts."""
_PROFILES = ((36_864, 10), (122_880, 20), (552_960, 30), (2_228_224, 40), (8_912_896, 50))
"""Levels of VP9: largest number of pixels of an image, and the level."""


def box(name: bytes, *parts: bytes) -> bytes:
    """Return a box with its content."""
    return struct.pack(">I4s", 8 + sum(map(len, parts)), name) + b"".join(parts)


def full_box(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """Return a box with a version and flags."""
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


class Mp4:
    """An .mp4 or .mov that is being written."""

    is_full = False

    def __init__(self, descriptor: int, track: Track) -> None:
        self._descriptor, self._track = descriptor, track
        # Whole ticks for each image, and enough of them.
        times = -(-MIN_TIMESCALE // track.rate.numerator)
        self._timescale = track.rate.numerator * times
        self._ticks = track.rate.denominator * times
        self._sizes, self._offsets, self._keys = array("I"), array("Q"), array("I")
        brands = b"isom\0\0\x02\0isomiso2iso5iso6mp41"
        start = box(b"ftyp", brands)
        self._hole_at = len(start)
        extends = full_box(b"trex", 0, 0, struct.pack(">5I", 1, 1, self._ticks, 0, 0))
        start += box(b"free", bytes(8)) + self._moov(box(b"mvex", extends))
        write_all(descriptor, start)
        self._end = len(start)

    def write(self, packet: Packet) -> None:
        """Add the next image."""
        count = len(self._sizes)
        flags = _KEY if packet.key else _OTHER
        header = self._moof(count, 0, 0, 0)
        header = self._moof(count, len(header) + 8, len(packet.data), flags)
        header += struct.pack(">I4s", 8 + len(packet.data), b"mdat")
        write_all(self._descriptor, header + packet.data)
        self._offsets.append(self._end + len(header))
        self._sizes.append(len(packet.data))
        if packet.key:
            self._keys.append(count + 1)
        self._end += len(header) + len(packet.data)

    def finish(self) -> None:
        """Write the index of all images, and hide the headers of the fragments."""
        write_all(self._descriptor, self._moov(b""))
        hidden = struct.pack(">I4sQ", 1, b"mdat", self._end - self._hole_at)
        os.pwrite(self._descriptor, hidden, self._hole_at)

    def _moof(self, count: int, offset: int, size: int, flags: int) -> bytes:
        """Return the header of a fragment of one image."""
        return box(
            b"moof",
            full_box(b"mfhd", 0, 0, struct.pack(">I", count + 1)),
            box(
                b"traf",
                full_box(b"tfhd", 0, 0x020000, struct.pack(">I", 1)),
                full_box(b"tfdt", 1, 0, struct.pack(">Q", count * self._ticks)),
                full_box(b"trun", 0, 0x601, struct.pack(">IiII", 1, offset, size, flags)),
            ),
        )

    def _moov(self, extends: bytes) -> bytes:
        """Return the index of all images so far; of none, if fragments extend it."""
        count = 0 if extends else len(self._sizes)
        duration = count * self._ticks
        width, height = self._track.width, self._track.height
        times = struct.pack(">QQIQ", 0, 0, self._timescale, duration)
        movie = times + struct.pack(">IH10x", 1 << 16, 1 << 8) + _MATRIX + bytes(24)
        movie += struct.pack(">I", 2)
        shown = struct.pack(">QQI4xQ16x", 0, 0, 1, duration) + _MATRIX
        shown += struct.pack(">II", width << 16, height << 16)
        media = box(
            b"mdia",
            full_box(b"mdhd", 1, 0, times, struct.pack(">HH", 0x55C4, 0)),
            full_box(b"hdlr", 0, 0, b"\0\0\0\0vide", bytes(12), b"video\0"),
            box(
                b"minf",
                full_box(b"vmhd", 0, 1, bytes(8)),
                box(b"dinf", full_box(b"dref", 0, 0, b"\0\0\0\1", full_box(b"url ", 0, 1))),
                self._table(count),
            ),
        )
        return box(
            b"moov",
            full_box(b"mvhd", 1, 0, movie),
            box(b"trak", full_box(b"tkhd", 1, 3, shown), media),
            extends,
        )

    def _table(self, count: int) -> bytes:
        """Return the tables of the images: place, size, time, and which are key frames."""
        sizes, offsets, keys = (
            _big_endian(values[:count]) for values in (self._sizes, self._offsets, self._keys)
        )
        each = struct.pack(">III", 1, count, self._ticks) if count else bytes(4)
        chunks = struct.pack(">IIII", 1, 1, 1, 1) if count else bytes(4)
        number = struct.pack(">I", count)
        return box(
            b"stbl",
            full_box(b"stsd", 0, 0, b"\0\0\0\1", sample_entry(self._track)),
            full_box(b"stts", 0, 0, each),
            full_box(b"stss", 0, 0, struct.pack(">I", len(keys) // 4), keys) if count else b"",
            full_box(b"stsc", 0, 0, chunks),
            full_box(b"stsz", 0, 0, bytes(4), number, sizes),
            full_box(b"co64", 0, 0, number, offsets),
        )


def sample_entry(track: Track) -> bytes:
    """Return the description of the codec for a decoder."""
    name, config = {
        "vp09": (b"vp09", _vp9_config),
        "mp4v": (b"mp4v", _mpeg4_config),
        "MJPG": (b"jpeg", lambda track: b""),
    }[track.codec]
    primaries, transfer, matrix = _COLOURS
    colours = box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0))
    return box(
        name,
        struct.pack(">6xH16xHH", 1, track.width, track.height),
        struct.pack(">IIIH", 72 << 16, 72 << 16, 0, 1),
        bytes(32),  # the encoder's name
        struct.pack(">HH", 24, 0xFFFF),
        config(track),
        colours,
    )


def _vp9_config(track: Track) -> bytes:
    pixels = track.width * track.height
    level = next((level for most, level in _PROFILES if pixels <= most), 60)
    # Eight bits, 4:2:0 with chroma beside the even pixels, limited range.
    return full_box(b"vpcC", 1, 0, struct.pack(">BBB3BH", 0, level, 8 << 4 | 1 << 1, *_COLOURS, 0))


def _mpeg4_config(track: Track) -> bytes:
    def part(tag: int, data: bytes) -> bytes:
        assert len(data) < 1 << 14
        return bytes([tag, 0x80 | len(data) >> 7, len(data) & 0x7F]) + data

    # Visual (0x20) as a video stream (0x11); buffer size and rates are not stated.
    decoder = struct.pack(">BB3xII", 0x20, 0x11, 0, 0) + part(5, track.config)
    return full_box(b"esds", 0, 0, part(3, b"\0\1\0" + part(4, decoder) + part(6, b"\2")))


def _big_endian(values: array[int]) -> bytes:
    if sys.byteorder == "little":
        values.byteswap()
    return values.tobytes()
