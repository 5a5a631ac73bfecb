"""Packets of a video file, not decoded: their number, and the size of their images.

OpenCV converts every image of a file with the size of the first one, and does not say when that is
wrong. The size is therefore read from the packets, which costs a few microseconds each. From a
change on, the packets are decoded as a stream of their own. A packet is one coded image.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

import cv2

NO_STAMP = -9e18
"""OpenCV's value for an image without a timestamp is below this."""
HEAD_BYTES = 1 << 14
"""Bytes of a packet that are searched for the headers with its size."""
ONE_THREAD = (cv2.CAP_PROP_N_THREADS, 1)
FORMAT = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_CODEC_PIXEL_FORMAT
RECENT = 16
"""Packets among which a timestamp must be unique to identify one of them."""
MAX_SIZES = 64
"""Headers whose image size is kept."""
IVF, IVF_BYTES = ("VP80", "VP90"), 12
"""Codecs whose packets can stand in a file of their own only behind a header, and its length."""
UNITS = {
    "H264": (0x1F, 7),
    "HEVC": (0x7E, 33 << 1),
    "MPG2": (0xFF, 0xB3),
    "MP4V": (0xFF, 0x20),
}
"""Codec -> mask and value of the first byte of the unit of a packet that gives its size."""
UNWATCHED = "?"
"""Codec whose images all have the size that the file states."""
MAX_DAMAGED = 2000
"""Packets that fail in a row after which a file counts as ended."""
CLOSE_S = 5.0
"""Longest wait for the writing thread, whose pipe is closed."""


class Change(NamedTuple):
    """A change of the size of the images."""

    at: int
    """Number of the first packet of the other size."""
    stamp_ms: float | None
    """Timestamp in milliseconds; None: it has none, or the image before has the same."""


class Packets:
    """Reads the packets of a file one after the other, and finds changes of their size."""

    def __init__(self, path: Path) -> None:
        """Open the file a second time.

        Args:
            path: path of the file, absolute.
        """
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, ONE_THREAD)
        self._capture.set(cv2.CAP_PROP_FORMAT, -1)
        self._codec = ""
        self._ended = False
        self._header, self._example = b"", b""
        """Headers that give the size of the images, and the first packet that has them."""
        self._sizes: dict[bytes, tuple[int, ...]] = {}
        self.count = 0
        """Packets read."""
        self.stamp_ms: float | None = None
        """Timestamp of the last one, milliseconds; None: it has none."""
        self._recent: deque[float | None] = deque(maxlen=RECENT)
        """Timestamps of the last ones."""
        self.change: Change | None = None
        """The change of size at the last packet read; None: there is none."""

    def watch(self, until: int) -> None:
        """Read up to a number of packets, or to a change of their size."""
        while self._codec != UNWATCHED and self.change is None and self.count < until:
            if not self.grab():
                return

    def grab(self) -> bool:
        """Read the next packet; False: there is none."""
        if self._ended:
            return False
        damaged = 0  # OpenCV does not distinguish one from the end
        while not self._capture.grab():
            damaged += 1
            if damaged == MAX_DAMAGED:
                self._ended = True
                return False
        self.change = None
        self.stamp_ms = stamp_of(self._capture)
        self.count += damaged + 1
        if self._codec != UNWATCHED and self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME):
            self._check_size()
        self._recent.append(self.stamp_ms)
        return True

    def packet(self) -> bytes:
        """Return the packet that was read last, as it stands in a stream of packets."""
        done, data = self._capture.retrieve()
        packet = data.tobytes() if done and data is not None else b""
        if self._codec in IVF:
            return struct.pack("<IQ", len(packet), self.count) + packet
        return packet

    @property
    def prefix(self) -> bytes:
        """Header of a stream of packets."""
        if self._codec not in IVF:
            return b""
        width, height = 16, 16
        if self._codec == "VP80":  # of VP9, OpenCV takes the size from the packets
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", self._header))
        head = b"DKIF", 0, 32, self._codec.encode(), width, height, 25, 1, 0, 0
        return struct.pack("<4sHH4sHHIIII", *head)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _check_size(self) -> None:
        """See whether the headers of a packet give another size than those before."""
        packet = self.packet()
        coded = packet[IVF_BYTES if self._codec in IVF else 0 :][:HEAD_BYTES]
        if not self._codec:
            self._codec = codec_of(coded)
            packet = self.packet()
        header = size_header(self._codec, coded)
        if not header or header == self._header:
            return
        before = self._size() if self._header else None
        self._header, self._example = header, packet
        if before is not None and before != self._size():
            own = self.stamp_ms not in self._recent
            self.change = Change(self.count - 1, self.stamp_ms if own else None)

    def _size(self) -> tuple[int, ...]:
        """Return size and pixel format of the current images: OpenCV opens one of them alone."""
        header = self._header
        if header not in self._sizes:
            if len(self._sizes) == MAX_SIZES:
                self._sizes.clear()
            with tempfile.NamedTemporaryFile(prefix="eyeline-") as file:
                file.write(self.prefix + self._example)
                file.flush()
                alone = cv2.VideoCapture(file.name, cv2.CAP_FFMPEG, ONE_THREAD)
                self._sizes[header] = tuple(round(alone.get(prop)) for prop in FORMAT)
                alone.release()
        return self._sizes[header]


class Section:
    """The part of a file from one change of size to the next, as a stream of its own.

    A thread writes the packets into a pipe that OpenCV reads; the pipe bounds how far it is ahead.
    """

    def __init__(self, packets: Packets) -> None:
        """Open the stream that begins with the last packet read.

        Args:
            packets: packets of the file; the thread uses it until `is_over`.
        """
        self.change = packets.change
        self._packets = packets
        self._stamps: list[float] = []
        self._lock = threading.Lock()
        self._out, self._pipe = os.pipe()
        self._thread = threading.Thread(target=self._write, name="packets", daemon=True)
        self._thread.start()
        self.capture = cv2.VideoCapture(f"pipe:{self._out}", cv2.CAP_FFMPEG, ONE_THREAD)

    @property
    def is_over(self) -> bool:
        """Whether all is written, so that an image that fails is the end."""
        return not self._thread.is_alive()

    def stamp_ms(self) -> float | None:
        """Return the timestamp of the next image in the order of display; None: it has none."""
        with self._lock:
            return heapq.heappop(self._stamps) if self._stamps else None

    def close(self) -> None:
        """End the thread; `packets` is at the next change, or at the end of the file."""
        self.capture.release()
        os.close(self._out)
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        packets = self._packets
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._pipe, "wb", 0) as pipe:
            pipe.write(packets.prefix)
            more = True
            while more:
                packet = memoryview(packets.packet())
                if packets.stamp_ms is not None:
                    with self._lock:
                        heapq.heappush(self._stamps, packets.stamp_ms)
                while packet:
                    packet = packet[pipe.write(packet) :]
                more = packets.grab() and packets.change is None


def stamp_of(capture: cv2.VideoCapture) -> float | None:
    """Return the timestamp of the last image, in milliseconds; None: it has none."""
    if capture.get(cv2.CAP_PROP_PTS) < NO_STAMP:
        return None
    return float(capture.get(cv2.CAP_PROP_POS_MSEC))


# --- headers in a packet that give the size of its image ---


def codec_of(packet: bytes) -> str:
    """Return the codec of a key frame: "H264", "HEVC", "MPG2", "MP4V", "MJPG", "VP80" or "VP90"."""
    if packet[:2] == b"\xff\xd8":
        return "MJPG"
    if packet[3:6] == b"\x9d\x01\x2a":
        return "VP80"
    if packet[:1] and packet[0] >> 6 == 2 and b"\x49\x83\x42" in packet[1:5]:
        return "VP90"
    for unit in _units(packet):
        if unit[0] == 0xB3:
            return "MPG2"
        if unit[0] in (0xB0, 0xB6, 0x20):
            return "MP4V"
        if unit[:2] in (b"\x40\x01", b"\x42\x01"):
            return "HEVC"
        if unit[0] in (0x67, 0x47, 0x27):
            return "H264"
    return UNWATCHED


def size_header(codec: str, packet: bytes) -> bytes:
    """Return the bytes of a key frame that give its size; empty if it has none of its own."""
    if codec == "MJPG":
        return _jpeg_size(packet)
    if codec == "VP80":
        return packet[6:10]
    if codec == "VP90":
        at = packet.find(b"\x49\x83\x42", 1, 5)
        return packet[at + 3 : at + 9]
    mask, wanted = UNITS.get(codec, (0, -1))
    length = 4 if codec == "MPG2" else None  # rates follow the size, and may change freely
    return b"".join(
        unit[:length].rstrip(b"\0") for unit in _units(packet) if unit[0] & mask == wanted
    )


def _units(packet: bytes) -> list[bytes]:
    """Return the units of an H.264, HEVC or MPEG packet, which begin with 00 00 01."""
    return [unit for unit in packet.split(b"\0\0\1")[1:] if unit]


def _jpeg_size(packet: bytes) -> bytes:
    at = 2
    while packet[at : at + 1] == b"\xff" and at + 9 <= len(packet):
        if 0xC0 <= packet[at + 1] <= 0xCF and packet[at + 1] not in (0xC4, 0xC8, 0xCC):
            return packet[at + 5 : at + 9]
        at += 2 + int.from_bytes(packet[at + 2 : at + 4])
    return b""
