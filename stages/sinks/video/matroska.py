"""Writes .mkv and .webm (RFC 9559), block by block.

Lengths that are not known yet are written as unknown, which players take for "up to the end", and
are corrected later. The duration is updated with each image; at the end the index is added.
"""

from __future__ import annotations

import os
import struct

from stages.sinks.video.avi import bitmap_header
from stages.sinks.video.packet import Packet
from stages.sinks.video.track import Track, write_all

CLUSTER_MS = 5000
"""Longest duration of a cluster, whose blocks have 16 bits for their time. A new one also begins at
each key frame."""
_UNKNOWN = b"\x01" + b"\xff" * 7
_SEEK_BYTES = 160
"""Space at the beginning for the places of the other parts."""

_EBML, _SEGMENT, _SEEK_HEAD, _SEEK = 0x1A45DFA3, 0x18538067, 0x114D9B74, 0x4DBB
_INFO, _TRACKS, _CLUSTER, _CUES = 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B
_VOID, _DURATION, _SIMPLE_BLOCK = 0xEC, 0x4489, 0xA3


def element(number: int, *parts: bytes) -> bytes:
    """Return an element with its content."""
    data = b"".join(parts)
    return _id(number) + _size(len(data)) + data


def unsigned(number: int, value: int) -> bytes:
    """Return an element that contains a number."""
    return element(number, value.to_bytes(max(1, -(-value.bit_length() // 8)), "big"))


def _id(number: int) -> bytes:
    return number.to_bytes(-(-number.bit_length() // 8), "big")


def _size(length: int) -> bytes:
    """Return a length in 8 bytes, so that it can replace an unknown one."""
    return (1 << 56 | length).to_bytes(8, "big")


class Matroska:
    """An .mkv or .webm that is being written."""

    is_full = False

    def __init__(self, descriptor: int, track: Track, is_webm: bool) -> None:
        self._descriptor, self._rate = descriptor, track.rate
        self._count = 0
        self._cluster_ms = self._cluster_at = -1
        self._cues: list[tuple[int, int]] = []
        """Time in ms, and place of the cluster in the segment."""
        kind = b"webm" if is_webm else b"matroska"
        start = element(
            _EBML,
            unsigned(0x4286, 1),
            unsigned(0x42F7, 1),
            unsigned(0x42F2, 4),
            unsigned(0x42F3, 8),
            element(0x4282, kind),
            unsigned(0x4287, 4),
            unsigned(0x4285, 2),
        )
        start += _id(_SEGMENT) + _UNKNOWN
        self._segment_at = len(start)
        start += element(_VOID, bytes(_SEEK_BYTES - 9))
        self._info_at = len(start)
        start += self._info(0.0)
        self._tracks_at = len(start)
        start += element(_TRACKS, _track_entry(track))
        self._end = 0
        self._append(start)

    def write(self, packet: Packet) -> None:
        """Add the next image."""
        time_ms = round(self._count * 1000 / self._rate)
        self._count += 1
        if self._cluster_at < 0 or packet.key or time_ms - self._cluster_ms > CLUSTER_MS:
            self._begin_cluster(time_ms, packet.key)
        place = struct.pack(">BhB", 0x81, time_ms - self._cluster_ms, 0x80 * packet.key)
        self._append(element(_SIMPLE_BLOCK, place, packet.data))
        self._put(self._info(float(self._count * 1000 / self._rate)), self._info_at)

    def finish(self) -> None:
        """Write all lengths, and add the index."""
        self._end_cluster()
        cues_at = self._end
        points = [
            element(0xBB, unsigned(0xB3, ms), element(0xB7, unsigned(0xF7, 1), unsigned(0xF1, at)))
            for ms, at in self._cues
        ]
        if points:
            self._append(element(_CUES, *points))
        self._put(_size(self._end - self._segment_at), self._segment_at - 8)
        places = [(_INFO, self._info_at), (_TRACKS, self._tracks_at)]
        places += [(_CUES, cues_at)] if points else []
        head = element(
            _SEEK_HEAD,
            *(
                element(
                    _SEEK,
                    element(0x53AB, _id(number)),
                    element(0x53AC, (at - self._segment_at).to_bytes(8, "big")),
                )
                for number, at in places
            ),
        )
        room = self._info_at - self._segment_at - len(head)
        self._put(head + element(_VOID, bytes(room - 9)), self._segment_at)

    def _begin_cluster(self, time_ms: int, key: bool) -> None:
        self._end_cluster()
        self._cluster_at, self._cluster_ms = self._end, time_ms
        if key:
            self._cues.append((time_ms, self._cluster_at - self._segment_at))
        self._append(_id(_CLUSTER) + _UNKNOWN + unsigned(0xE7, time_ms))

    def _end_cluster(self) -> None:
        """Write the length of the cluster."""
        if self._cluster_at >= 0:
            self._put(_size(self._end - self._cluster_at - 12), self._cluster_at + 4)

    def _info(self, duration_ms: float) -> bytes:
        """Return the element with the duration, always of the same length."""
        name = b"Eyeline"
        return element(
            _INFO,
            unsigned(0x2AD7B1, 1_000_000),  # a tick is 1 ms
            element(_DURATION, struct.pack(">d", duration_ms)),
            element(0x4D80, name),
            element(0x5741, name),
        )

    def _append(self, data: bytes) -> None:
        write_all(self._descriptor, data)
        self._end += len(data)

    def _put(self, data: bytes, at: int) -> None:
        os.pwrite(self._descriptor, data, at)


def _track_entry(track: Track) -> bytes:
    name, private = {
        "VP80": (b"V_VP8", b""),
        "VP90": (b"V_VP9", b""),
        "MJPG": (b"V_MJPEG", b""),
        "mp4v": (b"V_MPEG4/ISO/ASP", track.config),
    }.get(track.codec, (b"V_MS/VFW/FOURCC", bitmap_header(track)))
    return element(
        0xAE,
        unsigned(0xD7, 1),
        unsigned(0x73C5, 1),
        unsigned(0x9C, 0),  # no lacing
        unsigned(0x83, 1),  # video
        element(0x86, name),
        element(0x63A2, private) if private else b"",
        unsigned(0x23E383, round(1_000_000_000 / track.rate)),
        element(
            0xE0,
            unsigned(0xB0, track.width),
            unsigned(0xBA, track.height),
            # Matrix of BT.601, as OpenCV converts; transfer and primaries of BT.709; limited.
            element(
                0x55B0,
                unsigned(0x55B1, 6),
                unsigned(0x55B9, 1),
                unsigned(0x55BA, 1),
                unsigned(0x55BB, 1),
            )
            if track.codec != "MJPG"
            else b"",
        ),
    )
