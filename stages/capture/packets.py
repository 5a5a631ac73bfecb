"""The coded pictures of a video file, not decoded: how many there are, and of what size.

OpenCV converts every picture of a file with the size of the first one, and does not say when that
is wrong. The size is therefore read from the coded pictures, which costs a few microseconds each.
From a change on, the coded pictures are decoded as a stream of their own.
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
"""OpenCV's value for a picture without a time stamp is below this."""
HEAD_BYTES = 1 << 14
"""Of a coded picture, in which the headers with its size are looked for."""
ONE_THREAD = (cv2.CAP_PROP_N_THREADS, 1)
FORMAT = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_CODEC_PIXEL_FORMAT
RECENT = 16
"""Coded pictures among which a stamp must be there once to tell one of them."""
MAX_SIZES = 64
"""Headers whose size is remembered."""
IVF, IVF_BYTES = ("VP80", "VP90"), 12
"""Codecs whose pictures stand in a file of their own only behind a header, and its length."""
UNITS = {
    "H264": (0x1F, 7),
    "HEVC": (0x7E, 33 << 1),
    "MPG2": (0xFF, 0xB3),
    "MP4V": (0xFF, 0x20),
}
"""Codec -> mask and value of the first byte of the part of a picture that gives its size."""
UNWATCHED = "?"
"""Of a codec whose pictures all have the size that the file states."""
MAX_DAMAGED = 2000
"""Coded pictures that fail in a row after which a file counts as ended."""
CLOSE_S = 5.0
"""Longest wait for the writing thread, whose pipe is closed."""


class Change(NamedTuple):
    """The size of the pictures changes."""

    at: int
    """Number of the first coded picture of the other size."""
    stamp_ms: float | None
    """Its time stamp; None: it has none of its own, or one of those just before has the same."""


class Packets:
    """Reads the coded pictures of a file one after the other, and finds changes of their size."""

    def __init__(self, path: Path) -> None:
        """Open the file a second time.

        Args:
            path: of the file, absolute.
        """
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, ONE_THREAD)
        self._capture.set(cv2.CAP_PROP_FORMAT, -1)
        self._codec = ""
        self._ended = False
        self._header, self._example = b"", b""
        """What gives the size of the pictures, and the first coded picture that has it."""
        self._sizes: dict[bytes, tuple[int, ...]] = {}
        self.count = 0
        """Coded pictures read."""
        self.stamp_ms: float | None = None
        """Of the last one."""
        self._recent: deque[float | None] = deque(maxlen=RECENT)
        """Stamps of the last ones."""
        self.change: Change | None = None
        """The newest change of size, which is that of the last picture read."""

    def watch(self, until: int) -> None:
        """Read up to a number of coded pictures, or to a change of their size."""
        while self._codec != UNWATCHED and self.change is None and self.count < until:
            if not self.grab():
                return

    def grab(self) -> bool:
        """Read the next coded picture; False: there is none."""
        if self._ended:
            return False
        damaged = 0  # OpenCV says the same of one and of the end
        while not self._capture.grab():
            damaged += 1
            if damaged == MAX_DAMAGED:
                self._ended = True
                return False
        self.change = None
        self.stamp_ms = stamp_of(self._capture)
        self.count += damaged + 1
        if self._codec != UNWATCHED and self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME):
            self._look()
        self._recent.append(self.stamp_ms)
        return True

    def picture(self) -> bytes:
        """The coded picture that was read last, as it stands in a stream of such pictures."""
        done, data = self._capture.retrieve()
        picture = data.tobytes() if done and data is not None else b""
        if self._codec in IVF:
            return struct.pack("<IQ", len(picture), self.count) + picture
        return picture

    @property
    def prefix(self) -> bytes:
        """What a stream of such pictures begins with."""
        if self._codec not in IVF:
            return b""
        width, height = 16, 16
        if self._codec == "VP80":  # of VP9, OpenCV believes the pictures and not what stands here
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", self._header))
        head = b"DKIF", 0, 32, self._codec.encode(), width, height, 25, 1, 0, 0
        return struct.pack("<4sHH4sHHIIII", *head)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _look(self) -> None:
        """See whether the headers of a picture give another size than those before."""
        picture = self.picture()
        coded = picture[IVF_BYTES if self._codec in IVF else 0 :][:HEAD_BYTES]
        if not self._codec:
            self._codec = codec_of(coded)
            picture = self.picture()
        header = size_header(self._codec, coded)
        if not header or header == self._header:
            return
        before = self._size() if self._header else None
        self._header, self._example = header, picture
        if before is not None and before != self._size():
            own = self.stamp_ms not in self._recent
            self.change = Change(self.count - 1, self.stamp_ms if own else None)

    def _size(self) -> tuple[int, ...]:
        """Size and kind of pixels of the pictures of now, by having OpenCV open one of them."""
        header = self._header
        if header not in self._sizes:
            if len(self._sizes) == MAX_SIZES:
                self._sizes.clear()
            with tempfile.NamedTemporaryFile(prefix="eyeline-") as file:
                file.write(self.prefix + self._example)
                file.flush()
                alone = cv2.VideoCapture(file.name, cv2.CAP_FFMPEG, ONE_THREAD)
                self._sizes[header] = tuple(round(alone.get(what)) for what in FORMAT)
                alone.release()
        return self._sizes[header]


class Rest:
    """What lies behind a change of size, decoded up to the next one.

    A thread writes the coded pictures into a pipe that OpenCV reads; the pipe bounds how far it is
    ahead.
    """

    def __init__(self, packets: Packets) -> None:
        """Open the stream that begins with the last coded picture read.

        Args:
            packets: of the file; the thread uses it until `ended`.
        """
        self.change = packets.change
        self._packets, self._closed = packets, False
        self._stamps: list[float] = []
        self._lock = threading.Lock()
        self._out, self._pipe = os.pipe()
        self._thread = threading.Thread(target=self._write, name="packets", daemon=True)
        self._thread.start()
        self.capture = cv2.VideoCapture(f"pipe:{self._out}", cv2.CAP_FFMPEG, ONE_THREAD)

    @property
    def is_over(self) -> bool:
        """Whether all has been written, so that a picture that fails is the end."""
        return not self._thread.is_alive()

    def stamp_ms(self) -> float | None:
        """The time stamp of the next picture as shown; None: it has none."""
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
                picture = memoryview(packets.picture())
                if packets.stamp_ms is not None:
                    with self._lock:
                        heapq.heappush(self._stamps, packets.stamp_ms)
                while picture:
                    picture = picture[pipe.write(picture) :]
                more = packets.grab() and packets.change is None


def stamp_of(capture: cv2.VideoCapture) -> float | None:
    """The time stamp of the last picture, in milliseconds; None: it has none."""
    if capture.get(cv2.CAP_PROP_PTS) < NO_STAMP:
        return None
    return float(capture.get(cv2.CAP_PROP_POS_MSEC))


# --- what of a coded picture gives its size ---


def codec_of(picture: bytes) -> str:
    """The codec of a key picture: "H264", "HEVC", "MPG2", "MP4V", "MJPG", "VP80" or "VP90"."""
    if picture[:2] == b"\xff\xd8":
        return "MJPG"
    if picture[3:6] == b"\x9d\x01\x2a":
        return "VP80"
    if picture[:1] and picture[0] >> 6 == 2 and b"\x49\x83\x42" in picture[1:5]:
        return "VP90"
    for unit in _units(picture):
        if unit[0] == 0xB3:
            return "MPG2"
        if unit[0] in (0xB0, 0xB6, 0x20):
            return "MP4V"
        if unit[:2] in (b"\x40\x01", b"\x42\x01"):
            return "HEVC"
        if unit[0] in (0x67, 0x47, 0x27):
            return "H264"
    return UNWATCHED


def size_header(codec: str, picture: bytes) -> bytes:
    """The bytes of a key picture that give its size; empty: it has none of its own."""
    if codec == "MJPG":
        return _jpeg_size(picture)
    if codec == "VP80":
        return picture[6:10]
    if codec == "VP90":
        at = picture.find(b"\x49\x83\x42", 1, 5)
        return picture[at + 3 : at + 9]
    mask, wanted = UNITS.get(codec, (0, -1))
    most = 4 if codec == "MPG2" else None  # behind the size come rates, which may change freely
    return b"".join(
        unit[:most].rstrip(b"\0") for unit in _units(picture) if unit[0] & mask == wanted
    )


def _units(picture: bytes) -> list[bytes]:
    """The parts of an H.264, HEVC or MPEG picture, which begin with 00 00 01."""
    return [unit for unit in picture.split(b"\0\0\1")[1:] if unit]


def _jpeg_size(picture: bytes) -> bytes:
    at = 2
    while picture[at : at + 1] == b"\xff" and at + 9 <= len(picture):
        if 0xC0 <= picture[at + 1] <= 0xCF and picture[at + 1] not in (0xC4, 0xC8, 0xCC):
            return picture[at + 5 : at + 9]
        at += 2 + int.from_bytes(picture[at + 2 : at + 4])
    return b""
