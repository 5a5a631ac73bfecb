"""RTP packets and sender reports (RFC 3550) of one viewer."""

from __future__ import annotations

import secrets
import struct
import time
from collections import deque

from stages.sinks.rtsp.mount import MediaImage, Mount
from stages.sinks.rtsp.rtp_jpeg import CLOCK_HZ

NTP_EPOCH_S = 2_208_988_800
"""Unix time 0 in seconds since 1900, the start of NTP time."""
MAX_WAITING_BYTES = 4 << 20
"""Limit of the images that wait for one slow viewer."""
REPORT_S = 5.0
"""Seconds between two sender reports; the first one is sent with the first image."""


class RtpSender:
    """Queues the images of one viewer, and turns them into packets.

    A viewer that reads too slowly loses whole images: the waiting ones are dropped when a new one
    comes, never the one that is being sent.
    """

    def __init__(self) -> None:
        self.ssrc, self.sequence, self._base = (secrets.randbits(n) for n in (32, 16, 32))
        self.started = False
        """Whether the viewer has had an image that its decoder can begin with."""
        self.waiting: deque[MediaImage] = deque()
        self.waiting_bytes = 0
        self._sent_packets = self._sent_bytes = 0
        self._newest: MediaImage | None = None
        self._report_due_s = 0.0

    def give(self, image: MediaImage | None, mount: Mount) -> None:
        """Queue an image, unless the viewer is too slow or waits for another one."""
        if image is None:
            self.started = False
            return
        if not self.started:
            self.started, is_sent = mount.admits_first(image)
            if not is_sent:
                return
        is_full = len(self.waiting) >= mount.media.backlog
        if is_full or self.waiting_bytes + image.size_bytes > MAX_WAITING_BYTES:
            self._drop_waiting()
            if not image.is_key:
                self.started = False
                return
        self.waiting.append(image)
        self.waiting_bytes += image.size_bytes

    def reset(self) -> None:
        """Drop the waiting images, and forget the newest one."""
        self._drop_waiting()
        self._newest, self._report_due_s = None, 0.0

    def next_packets(self, payload_type: int) -> list[bytes]:
        """Return the RTP packets of the image that has waited longest."""
        image = self.waiting.popleft()
        self.waiting_bytes -= image.size_bytes
        self._newest = image
        time_stamp = self._rtp_time(image)
        packets, last = [], len(image.payloads) - 1
        for index, payload in enumerate(image.payloads):
            marked = payload_type | 0x80 if index == last else payload_type
            head = struct.pack(">BBHII", 0x80, marked, self.sequence, time_stamp, self.ssrc)
            packets.append(head + payload)
            self.sequence = (self.sequence + 1) & 0xFFFF
        self._sent_packets += len(packets)
        self._sent_bytes += image.size_bytes
        return packets

    @property
    def has_sent(self) -> bool:
        """Whether an image has been sent since the last reset."""
        return self._newest is not None

    @property
    def is_report_due(self) -> bool:
        """Whether it is time for a sender report."""
        return self.has_sent and time.monotonic() >= self._report_due_s

    def report(self, *more: bytes) -> bytes:
        """Return a sender report: the wall-clock time at which the newest image was taken."""
        assert self._newest is not None
        self._report_due_s = time.monotonic() + REPORT_S
        seconds, rest_ns = divmod(self._newest.wall_ns, 1_000_000_000)
        report = struct.pack(
            ">BBHIIIIII",
            0x80,
            200,
            6,
            self.ssrc,
            (seconds + NTP_EPOCH_S) & 0xFFFFFFFF,
            (rest_ns << 32) // 1_000_000_000,
            self._rtp_time(self._newest),
            self._sent_packets & 0xFFFFFFFF,
            self._sent_bytes & 0xFFFFFFFF,
        )
        name = b"\x01\x07eyeline"
        name += bytes(4 - len(name) % 4)
        source = struct.pack(">BBHI", 0x81, 202, 1 + len(name) // 4, self.ssrc) + name
        return b"".join((report, source, *more))

    def goodbye(self) -> bytes:
        """Return a sender report that ends with BYE."""
        return self.report(struct.pack(">BBHI", 0x81, 203, 1, self.ssrc))

    def _rtp_time(self, image: MediaImage) -> int:
        return (self._base + image.time_ns * CLOCK_HZ // 1_000_000_000) & 0xFFFFFFFF

    def _drop_waiting(self) -> None:
        self.waiting.clear()
        self.waiting_bytes = 0
