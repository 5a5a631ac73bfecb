"""Protobuf's wire format (protobuf.dev/programming-guides/encoding), as far as ONNX needs it.

The bytes come from an untrusted file: reading any bytes ends after a bounded number of steps, with
`DamagedError` where they are no message.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FIELDS = 5_000_000
"""Limit of the fields of one file; a model of 100,000 nodes has about a million."""
MAX_TEXT_BYTES = 1 << 20
"""Size limit of a name."""

Value = int | memoryview

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


class DamagedError(ValueError):
    """The bytes are no message of the expected kind, or a truncated one."""


class Reader:
    """Reads the messages of one file, with one limit on all their fields."""

    def __init__(self, max_fields: int = MAX_FIELDS) -> None:
        self._left = max_fields

    def fields(self, data: memoryview) -> Iterator[tuple[int, Value]]:
        """Yield field number and value of each field of a message.

        Raises:
            DamagedError: this is no protobuf message, a truncated one, or one with too many fields.
        """
        at, end = 0, len(data)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise DamagedError("too many fields for a model")
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if not number:
                raise DamagedError("a field without a number")
            if kind in (_I64, _I32):
                size = 8 if kind == _I64 else 4
            else:
                size, at = _varint(data, at)
                if kind == _VARINT:
                    yield number, size
                    continue
                if kind != _LEN:
                    raise DamagedError(f"a field of unknown wire type {kind}")
            if at + size > end:
                raise DamagedError("truncated")
            yield number, data[at : at + size]
            at += size

    def message(self, data: memoryview) -> dict[int, Value]:
        """Read a message without repeated fields; the last field of each number counts."""
        return dict(self.fields(data))


def bytes_of(value: Value | None) -> memoryview:
    """Return the value of a field that holds a message or bytes; empty if it is missing."""
    if value is None:
        return memoryview(b"")
    if isinstance(value, int):
        raise DamagedError("a number in place of a message")
    return value


def text_of(value: Value | None) -> str:
    """Return the value of a field that holds text; empty if it is missing."""
    data = bytes_of(value)
    if len(data) > MAX_TEXT_BYTES:
        raise DamagedError(f"a name of {len(data)} bytes")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise DamagedError("a text that is not UTF-8") from None


def signed_of(value: Value | None) -> int | None:
    """Return the value of a field that holds an int64; None if it holds another type."""
    if not isinstance(value, int):
        return None
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it."""
    try:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return byte, at
        value, shift = byte & 0x7F, 7
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise DamagedError("a number of more than 64 bits")
    except IndexError:
        raise DamagedError("truncated") from None
