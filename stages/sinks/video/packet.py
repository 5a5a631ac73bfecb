"""The contract of an encoder: images in, packets out. It does not depend on the container."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Packet(NamedTuple):
    """An encoded image."""

    data: bytes
    key: bool
    """Whether it can be decoded without the packets before it."""


class Encoder(Protocol):
    """Encodes images of one size. One thread uses the object."""

    config: bytes
    """Data that a decoder needs beside the packets, known with the first packet: MPEG-4's headers,
    or the extra bytes that FFV1 writes after a BITMAPINFOHEADER."""

    def encode(self, image: NDArray[np.uint8]) -> list[Packet]:
        """Encode an image, (height, width, 3) uint8 BGR; the result is usually one packet."""

    def repeat(self) -> list[Packet]:
        """Encode the last image once more."""

    def close(self) -> list[Packet]:
        """Return the remaining packets, and release everything. May be called twice."""
