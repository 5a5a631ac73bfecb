"""Encoders of OpenCV: JPEG, and the codecs of the FFmpeg inside it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from stages.sinks.video.packet import Packet

JPEG_QUALITY = 90
PACKET_TIMEOUT_S = 5.0
"""Longest wait for a packet; OpenCV's encoders give one for each image."""


class JpegEncoder:
    """Encodes every image as a JPEG."""

    config = b""

    def __init__(self) -> None:
        self._last = b""

    def encode(self, image: NDArray[np.uint8]) -> list[Packet]:
        """Encode an image."""
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        self._last = jpeg.tobytes()
        return self.repeat()

    def repeat(self) -> list[Packet]:
        """Show the last image once more."""
        return [Packet(self._last, True)]

    def close(self) -> list[Packet]:
        """Return no packets: none are held back."""
        return []


class OpenCVEncoder:
    """Encodes with the FFmpeg inside OpenCV.

    OpenCV gives no packets, only files, and those of most containers cannot be played until they
    are complete. It therefore writes an .avi into a named pipe, packet by packet, and a thread
    reads the packets from the pipe.

    Raises:
        RunError: OpenCV cannot start the encoder.
    """

    def __init__(self, codec: str, width: int, height: int, fps: float) -> None:
        self.config = b""
        self._codec = codec
        self._packets: SimpleQueue[Packet | None] = SimpleQueue()
        self._last: NDArray[np.uint8] | None = None
        self._thread: threading.Thread | None = None
        folder = tempfile.mkdtemp(prefix="eyeline-video-")
        try:
            pipe = os.path.join(folder, "pipe.avi")
            os.mkfifo(pipe)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(reader, True)
            self._thread = threading.Thread(
                target=self._read, args=(reader,), name="packets", daemon=True
            )
            fourcc = cv2.VideoWriter.fourcc(*("VP90" if codec == "vp09" else codec))
            keeper = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)
            self._thread.start()  # without `keeper` it could find the pipe closed already
            try:
                self._writer = cv2.VideoWriter(pipe, cv2.CAP_FFMPEG, fourcc, fps, (width, height))
            finally:
                os.close(keeper)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not self._writer.isOpened():
            self.close()
            raise RunError(
                f"OpenCV could not start a {codec} video of {width}x{height}; choose another codec"
            )

    def encode(self, image: NDArray[np.uint8]) -> list[Packet]:
        """Encode an image."""
        self._writer.write(image)
        self._last = image
        try:
            # VP9 looks ahead: it gives its packets later.
            timeout_s = 0.0 if self._codec in ("vp09", "VP90", "VP80") else PACKET_TIMEOUT_S
            first = self._packets.get(timeout_s > 0, timeout_s or None)
        except Empty:
            return []
        return ([first] if first is not None else []) + self._waiting()

    def repeat(self) -> list[Packet]:
        """Show the last image once more."""
        return self.encode(self._last) if self._last is not None else []

    def close(self) -> list[Packet]:
        """Return the remaining packets, and release everything."""
        self._writer.release()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._waiting()

    def _waiting(self) -> list[Packet]:
        found = []
        while not self._packets.empty():
            packet = self._packets.get()
            if packet is not None:
                found.append(packet)
        return found

    def _read(self, descriptor: int) -> None:
        """Read packets from the pipe until its end."""
        with open(descriptor, "rb") as pipe:
            for name, data in chunks_of(pipe):
                if name == b"strf":
                    self.config = data[40:]
                elif name[2:] in (b"dc", b"db"):
                    if not self.config and self._codec in ("mp4v", "XVID"):
                        self.config = mpeg4_config(data)
                    self._packets.put(Packet(data, is_key(self._codec, data)))
        self._packets.put(None)


def chunks_of(file: Any) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of an .avi file that are not lists, in their order, as they come."""
    file.read(12)  # RIFF, its size, AVI
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"LIST":
            file.read(4)  # its kind; its content follows
            continue
        data = file.read(size)
        if len(data) < size:
            return
        file.read(size % 2)
        yield name, data


def mpeg4_config(packet: bytes) -> bytes:
    """Return the headers of an MPEG-4 Part 2 stream: the bytes before its first image."""
    ends = [at for at in (packet.find(b"\0\0\1\xb3"), packet.find(b"\0\0\1\xb6")) if at >= 0]
    return packet[: min(ends)] if ends else b""


def is_key(codec: str, packet: bytes) -> bool:
    """Return whether a packet can be decoded without those before it."""
    if not packet:
        return False
    if codec in ("mp4v", "XVID"):
        at = packet.find(b"\0\0\1\xb6")
        return at >= 0 and len(packet) > at + 4 and packet[at + 4] >> 6 == 0
    if codec == "FFV1":
        # The first bit of the range coder, at even odds.
        return int.from_bytes(packet[:2], "big") >= 0x7F80
    if codec == "VP80":
        return not packet[0] & 1
    if codec in ("vp09", "VP90"):
        return not packet[0] & 0b1100
    return True
