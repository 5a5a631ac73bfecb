"""Sizes of images, read from the heads of their files without decoding pixels.

JPEG: ITU-T T.81, B.2; EXIF: CIPA DC-008, 4.6; PNG: W3C, 5 and 11; WebP: RFC 9649, 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path

from models.errors import DataError
from models.files import open_file

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
)
"""Ends of the names of images, in lower case."""

Size = tuple[int, int]
"""Width and height in pixels."""

MAX_IMAGE_BYTES = 2**30
MAX_SIDE_PX = 10**6
MAX_PARTS = 100_000
"""Limit of the segments or chunks of a file that are passed over."""

_ORIENTATION = 0x0112
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers of JPEG without a segment."""


def read_size(path: Path) -> Size | None:
    """Return the size of an image as OpenCV gives it, after its rotation by EXIF.

    OpenCV rotates JPEG and PNG by their EXIF orientation, and no other kind.

    Returns:
        Size | None: None: it is no image that can be read.
    """
    try:
        with open_file(path, "image", MAX_IMAGE_BYTES, DataError) as file:
            size = _from_head(file)
    except (DataError, OSError, struct.error):
        return None
    if size is None:
        size = _decoded(path)
    if size is None or not all(0 < side <= MAX_SIDE_PX for side in size):
        return None
    return size


def _from_head(file: BufferedReader) -> Size | None:
    """Return the size that the head of a file states; None: of another kind, or unclear."""
    head = file.read(16)
    for start, reader in _READERS.items():
        if head.startswith(start):
            file.seek(0)
            return reader(file)
    return None


def _decoded(path: Path) -> Size | None:
    """Return the size of an image of any kind that OpenCV can decode."""
    import cv2

    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except (cv2.error, UnicodeEncodeError):
        return None
    return None if image is None else (image.shape[1], image.shape[0])


def _jpeg(file: BufferedReader) -> Size | None:
    """Return the size of a JPEG, in which the first EXIF segment decides on the rotation."""
    file.seek(2)
    turned: bool | None = None
    for marker, length in _segments(file):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">xHH", file.read(5))
            if height == 0:  # it follows the first scan
                return None
            return (height, width) if turned else (width, height)
        if marker == 0xE1 and turned is None:
            segment = file.read(max(0, length))
            if segment.startswith(b"Exif\0"):
                turned = _is_turned(segment[6:])
    return None


def _segments(file: BufferedReader) -> Iterator[tuple[int, int]]:
    """Yield the marker and the length of each segment up to the pixels; the file is at its data."""
    for _ in range(MAX_PARTS):
        if file.read(1) != b"\xff":
            return
        marker = 0xFF
        while marker == 0xFF:  # any number of fill bytes may precede a marker
            byte = file.read(1)
            if not byte:
                return
            marker = byte[0]
        if marker in _ALONE:
            continue
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            return
        length = struct.unpack(">H", file.read(2))[0] - 2
        start = file.tell()
        yield marker, length
        file.seek(start + max(0, length))


def _is_turned(tiff: bytes) -> bool:
    """Return whether EXIF says that width and height are to be exchanged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return False
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, first)
        for at in range(first + 2, first + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == _ORIENTATION:
                return value in range(5, 9)
    except struct.error:
        pass
    return False


def _png(file: BufferedReader) -> Size | None:
    """Return the size of a PNG; its EXIF may follow the pixels."""
    file.seek(8)
    size: Size | None = None
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        start = file.tell()
        if kind == b"IHDR":
            width, height = struct.unpack(">II", file.read(8))
            size = (width, height)
        elif kind == b"eXIf":
            if size and _is_turned(file.read(min(length, 65536))):
                return size[1], size[0]
            break
        elif kind == b"IEND":
            break
        file.seek(start + length + 4)
    return size


def _gif(file: BufferedReader) -> Size | None:
    width, height = struct.unpack("<6xHH", file.read(10))
    return width, height


def _bmp(file: BufferedReader) -> Size | None:
    """Return the size of a BMP; a negative height: its rows begin at the top."""
    head = file.read(26)
    if struct.unpack_from("<I", head, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", head, 18)
    else:
        width, height = struct.unpack_from("<ii", head, 18)
    return width, abs(height)


def _webp(file: BufferedReader) -> Size | None:
    head = file.read(30)
    kind = head[12:16]
    if head[8:12] != b"WEBP" or len(head) < 25:
        return None
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


_READERS: dict[bytes, Callable[[BufferedReader], Size | None]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"RIFF": _webp,
}
"""First bytes of a kind of image -> its reader."""
