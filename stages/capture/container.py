"""Headers of video files, for facts that OpenCV does not give: mp4, AVI, Matroska, MPEG-TS.

Only headers are read, whatever the size of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

MAX_BOXES = 10_000
"""Boxes of an mp4 file that are read, so that a damaged file ends soon."""
TOP_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"sidx")
IDENTITY = (1, 0, 0, 1)
EBML, SEGMENT = 0x1A45DFA3, 0x18538067
"""Ids of the first two elements of a Matroska file."""
MOVIE_MATRIX_AT, TRACK_MATRIX_AT = (36, 48), (40, 52)
"""Offsets of the matrix in `mvhd` and `tkhd`, in the versions 0 and 1 of these boxes."""
_MATRIX = struct.Struct(">9i")

Span = tuple[int, int]
"""Start and end of the content of a box, in bytes."""
Orientation = tuple[int, int, int, int]
"""(a, b, c, d): a stored point (x, y) is shown at (a x + c y, b x + d y); each is -1, 0 or 1."""


class Container(NamedTuple):
    """The headers of a file."""

    missing: str = ""
    """Bytes that are there, as "5 of 9 bytes", if some are known to be missing; else ""."""
    lacks_index: bool = False
    """Whether it is an mp4 file without its index, so that no image of it can be found."""
    orientation: Orientation | None = None
    """How to turn the images; None: unknown."""
    joined: bool = False
    """Whether it may be several recordings one after the other, each with its own clock."""
    codec: str = ""
    """Code of an mp4 file's codec, as "avc1"; "": unknown."""
    has_clock: bool = True
    """Whether images have timestamps; a bare stream of images (.h264, .mjpeg) has none."""


def read_container(file: BinaryIO) -> Container:
    """Read the headers of a video file."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(16)
    if head[:4] == b"RIFF":
        return Container(_missing(size, 8 + int.from_bytes(head[4:8], "little")))
    if head[4:8] in TOP_BOXES:
        return _read_mp4(file, size)
    if int.from_bytes(head[:4]) == EBML:
        return Container(_missing(size, _matroska_size(file)))
    if head[:1] == b"\x47" or head[:4] == b"\0\0\1\xba" or head[:3] == b"FLV":
        return Container(joined=True)
    if head[:3] == b"\0\0\1" or head[:4] == b"\0\0\0\1" or head[:2] == b"\xff\xd8":
        return Container(joined=True, has_clock=False)
    return Container()


def _missing(size: int, want: int) -> str:
    return f"{size} of {want} bytes" if want > size else ""


# --- mp4 ---


def _read_mp4(file: BinaryIO, size: int) -> Container:
    end, movie = 0, None
    for kind, start, stop in _boxes(file, 0, size):
        if kind not in TOP_BOXES and not movie:
            break
        end = max(end, stop)
        if kind == b"moov":
            movie = start, min(stop, size)
    missing = _missing(size, end)
    if movie is None:
        return Container(missing, lacks_index=True)
    track = next((t for t in _inner(file, movie, b"trak") if _is_video(file, t)), None)
    if track is None:
        return Container(missing)
    return Container(missing, False, _orientation(file, movie, track), codec=_codec(file, track))


def _boxes(file: BinaryIO, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the content and end of the boxes that begin between two offsets."""
    for _ in range(MAX_BOXES):
        if at + 8 > stop:
            return
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind, start = int.from_bytes(head[:4]), head[4:8], at + 8
        if length == 1:
            length, start = int.from_bytes(head[8:16]), at + 16
        end = at + max(length, 8) if length else stop  # 0: up to the end of the file
        yield kind, start, end
        at = end


def _inner(file: BinaryIO, span: Span, kind: bytes) -> Iterator[tuple[int, int]]:
    for found, start, stop in _boxes(file, *span):
        if found == kind:
            yield start, min(stop, span[1])


def _codec(file: BinaryIO, track: Span) -> str:
    """Return the code of the first codec of a track."""
    spans = [track]
    for kind in (b"mdia", b"minf", b"stbl", b"stsd"):
        spans = [inner for span in spans for inner in _inner(file, span, kind)]
    for at, _ in spans:
        file.seek(at + 12)
        return "".join(chr(byte) for byte in file.read(4) if 32 < byte < 127)
    return ""


def _orientation(file: BinaryIO, movie: Span, track: Span) -> Orientation:
    """Return the orientation of a track, by its matrix and that of the whole movie."""
    own = [_matrix(file, at, TRACK_MATRIX_AT) for at, _ in _inner(file, track, b"tkhd")]
    whole = [_matrix(file, at, MOVIE_MATRIX_AT) for at, _ in _inner(file, movie, b"mvhd")]
    return _combined(*(found[0] if found and found[0] else IDENTITY for found in (own, whole)))


def _is_video(file: BinaryIO, track: Span) -> bool:
    for media in _inner(file, track, b"mdia"):
        for at, _ in _inner(file, media, b"hdlr"):
            file.seek(at + 8)
            return file.read(4) == b"vide"
    return False


def _matrix(file: BinaryIO, at: int, offsets: tuple[int, int]) -> Sequence[int]:
    """Return (a, b, c, d) of a matrix, in 1/65536; () if the box is cut off.

    Args:
        file: the file.
        at: start of the content of the box.
        offsets: offsets of the matrix in the content, by the version of the box.
    """
    file.seek(at)
    version = file.read(1) == b"\1"
    file.seek(at + offsets[version])
    raw = file.read(_MATRIX.size)
    if len(raw) < _MATRIX.size:
        return ()
    a, b, _, c, d, *_ = _MATRIX.unpack(raw)
    return a, b, c, d


def _combined(own: Sequence[int], whole: Sequence[int]) -> Orientation:
    """Return the product of two matrices, if it is one of the eight turns and mirrorings."""
    a, b, c, d = own
    e, f, g, h = whole
    product = (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
    most = max(map(abs, product))
    signs = [0 if abs(value) * 2 < most else 1 if value > 0 else -1 for value in product]
    straight = signs[1] == signs[2] == 0 != signs[0] * signs[3]
    turned = signs[0] == signs[3] == 0 != signs[1] * signs[2]
    return (signs[0], signs[1], signs[2], signs[3]) if straight or turned else IDENTITY


# --- Matroska ---


def _matroska_size(file: BinaryIO) -> int:
    """Return the size that a Matroska or WebM file should have; 0 if it does not state one."""
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if int.from_bytes(file.read(4)) != SEGMENT:
        return 0
    size = _vint(file)
    return file.tell() + size if size is not None else 0


def _vint(file: BinaryIO) -> int | None:
    """Read a number of variable length; None: it stands for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more))
    return None if value == (1 << 7 * (more + 1)) - 1 else value
