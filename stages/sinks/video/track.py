"""The contract of the writers of containers: `mp4.py`, `matroska.py` and `avi.py`.

FFmpeg's writers, as OpenCV uses them, keep a quarter of a megabyte in memory, and write the index
without which an .mp4 cannot be played at the very end. These write each packet as it comes, so that
a file can be played up to the moment at which its writer was killed.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import NamedTuple, Protocol

from stages.sinks.video.packet import Packet


class Track(NamedTuple):
    """The one track of a file."""

    codec: str
    """Codec, as in the settings of the video sink."""
    config: bytes
    """See `Encoder.config`."""
    width: int
    """Width of the images in pixels."""
    height: int
    rate: Fraction
    """Images per second."""


class Container(Protocol):
    """Writes packets into an open, empty file; made with its descriptor and the track.

    Raises:
        OSError: the disk is full, for example.
    """

    is_full: bool
    """Whether the file has become as long as its format allows."""

    def write(self, packet: Packet) -> None:
        """Add the next image; it can be played as soon as this returns."""

    def finish(self) -> None:
        """Complete the file: write its length and its index."""


def write_all(descriptor: int, data: bytes) -> None:
    """Append to a file.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def exact_rate(fps: float) -> Fraction:
    """Return a rate without the error of its float: 29.97002997 is 30000/1001."""
    for whole in (24, 30, 48, 60, 120, 240):
        film = Fraction(whole * 1000, 1001)
        if abs(fps - film) < 5e-4:
            return film
    return Fraction(fps).limit_denominator(1000)
