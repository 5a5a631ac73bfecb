"""What the writers of containers have in common: `mp4.py`, `matroska.py` and `avi.py`.

FFmpeg's writers, as OpenCV uses them, keep a quarter of a megabyte in memory, and what lets an
.mp4 be played until the very end. These write each packet as it comes, so that a file whose
writer was killed plays up to there.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import NamedTuple, Protocol

from stages.sinks.video.encoder import Packet


class Track(NamedTuple):
    """The one track of a file."""

    codec: str
    """As in the settings of the video sink."""
    config: bytes
    """See `Encoder.config`."""
    width: int
    """Of the pictures in pixels."""
    height: int
    rate: Fraction
    """Pictures per second."""


class Container(Protocol):
    """Writes packets into an open, empty file; made with its descriptor and the track.

    Raises:
        OSError: the disk is full, for example.
    """

    is_full: bool
    """The file has become as long as its format allows."""

    def write(self, packet: Packet) -> None:
        """Add the next picture; it can be played as soon as this returns."""

    def finish(self) -> None:
        """Complete the file: its length and its index."""


def write_all(descriptor: int, data: bytes) -> None:
    """Append to a file.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def exact_rate(fps: float) -> Fraction:
    """A rate without the error of its float: 29.97002997 is 30000/1001."""
    for whole in (24, 30, 48, 60, 120, 240):
        film = Fraction(whole * 1000, 1001)
        if abs(fps - film) < 5e-4:
            return film
    return Fraction(fps).limit_denominator(1000)
