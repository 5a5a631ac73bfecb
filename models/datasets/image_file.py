"""Faults of image files that a decoder passes over: what is cut off, and a wrong suffix."""

from __future__ import annotations

import os
from pathlib import Path

from models.datasets.image_size import MAX_IMAGE_BYTES
from models.errors import DataError
from models.files import open_file

_KINDS = {
    b"\xff\xd8\xff": ("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    b"\x89PNG\r\n\x1a\n": ("PNG", (".png",)),
    b"GIF8": ("GIF", (".gif",)),
    b"BM": ("BMP", (".bmp", ".dib")),
    b"RIFF": ("WebP", (".webp",)),
    b"II*\0": ("TIFF", (".tif", ".tiff")),
    b"MM\0*": ("TIFF", (".tif", ".tiff")),
}
"""First bytes of a kind of image -> its name, and its usual suffixes."""
_END_OF_JPEG = b"\xff\xd9"
_END_OF_PNG = b"IEND"
_START_OF_SCAN = 0xDA


def fault_of(path: Path) -> str | None:
    """Return what is wrong with the file of an image, before it is decoded; None: nothing.

    A JPEG without its end decodes to an image with a grey part, so its marker is looked for.
    """
    try:
        with open_file(path, "image", MAX_IMAGE_BYTES, DataError) as file:
            data = file.read(MAX_IMAGE_BYTES)
    except DataError:
        return "the image cannot be opened; correct the rights of its file, or remove it"
    if not data:
        return "the file of the image is empty; copy it again, or remove it"
    if _is_cut(data):
        return "the image is cut off, its end is not there; copy it again, or remove it"
    return None


def other_kind(path: Path) -> str | None:
    """Return the kind of an image where its suffix says another one; None: it agrees."""
    try:
        with open_file(path, "image", MAX_IMAGE_BYTES, DataError) as file:
            head = file.read(16)
    except DataError:
        return None
    suffix = os.path.splitext(path.name)[1].lower()
    for start, (kind, suffixes) in _KINDS.items():
        if head.startswith(start):
            return None if suffix in suffixes else kind
    return None


def _is_cut(data: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is missing."""
    if data.startswith(b"\xff\xd8\xff"):
        scan = _scan_of(data)
        # Within a scan, ff is followed by 0 or a restart: d9 can only be the end. A thumbnail in
        # front of the scan has an end of its own.
        return scan is None or data.find(_END_OF_JPEG, scan) < 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.rfind(_END_OF_PNG) < 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


def _scan_of(data: bytes) -> int | None:
    """Return the place of the first scan of a JPEG; None: its segments end before."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == _START_OF_SCAN:
            return at
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:  # without a segment
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
