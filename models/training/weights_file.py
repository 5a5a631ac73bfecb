"""Weights of a network from a file: what PyTorch saves, in both of its formats, and safetensors.

Only numpy reads them. PyTorch's files hold a pickle, of which nothing is executed
(`pickle_reader.py`), and rows of numbers: in a zip archive since 1.6, and behind the pickle before.
Safetensors holds a JSON header (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
import re
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import TrainingError
from models.files import open_file
from models.training import pickle_reader
from models.training.pickle_reader import Stored, Tensor, UnusableError

Weights = dict[str, NDArray[Any]]
"""Name of a tensor -> its values, in the order of the file."""

MAX_BYTES = 2 << 30
"""Size limit of a file, and of all weights in it."""
MAX_HEADER_BYTES = 16 << 20
"""Size limit of the header of a safetensors file."""
SUFFIXES = (".pt", ".pth", ".safetensors")

_PARTS = re.compile(r"(\d+)", re.ASCII)
"""Splits a name into texts and numbers."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""First value of a file that PyTorch wrote before 1.6."""
_PROTOCOL = 1001
_INSIDE = ("state_dict", "model_state_dict", "model", "params")
"""Keys below which training scripts put the weights."""
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_SAFE_TYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": "bf16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}


def read_weights(path: Path) -> Weights:
    """Return the tensors of a file; numbers of 16 bits become float32.

    Raises:
        TrainingError: the file cannot be read, is damaged, or holds more than weights.
    """
    with open_file(path, "weights file", MAX_BYTES, TrainingError) as file:
        try:
            head = file.read(4)
            file.seek(0)
            if path.suffix.lower() == ".safetensors":
                return _read_safetensors(file)
            return _read_zip(file) if head == b"PK\x03\x04" else _read_legacy(file)
        except (UnusableError, zipfile.BadZipFile, OSError) as error:
            raise TrainingError(
                f"{path}: the weights cannot be read (found {error}); save them with "
                "torch.save(model.state_dict(), FILE), or as .safetensors"
            ) from None


def _read_zip(file: BufferedReader) -> Weights:
    """Read PyTorch's format since 1.6."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnusableError("a zip archive without weights")
        folder = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise UnusableError("a compressed archive")
        if sum(entry.file_size for entry in entries.values()) > MAX_BYTES:
            raise UnusableError("entries that are larger than the file")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order)[:6] != b"little":
            raise UnusableError("another byte order than little-endian")
        with archive.open(pickles[0]) as stream:
            tensors = _tensors_in(pickle_reader.read(stream))
        rows: dict[str, NDArray[Any]] = {}
        for tensor in tensors.values():
            key = tensor.stored.key
            if key not in rows:
                entry = entries.get(f"{folder}data/{key}")
                if entry is None:
                    raise UnusableError("no data for a tensor")
                rows[key] = _numbers(archive.read(entry), _type_of(tensor.stored))
        return _cut(tensors, rows)


def _read_legacy(file: BufferedReader) -> Weights:
    """Read PyTorch's format before 1.6: five pickles, then a count and numbers for each row."""
    if file.peek(1)[:1] != b"\x80":
        raise UnusableError("neither a pickle nor a zip archive")
    if pickle_reader.read(file) != _MAGIC or pickle_reader.read(file) != _PROTOCOL:
        raise UnusableError("a pickle of something else than weights")
    pickle_reader.read(file)  # the sizes of C's types where it was written
    tensors = _tensors_in(pickle_reader.read(file))
    keys = pickle_reader.read(file)
    stored = {tensor.stored.key: tensor.stored for tensor in tensors.values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnusableError("a damaged list of storages")
    rows: dict[str, NDArray[Any]] = {}
    for key in keys:
        if key not in stored:
            raise UnusableError("data that belong to no tensor")
        kind = _type_of(stored[key])
        count = int.from_bytes(file.read(8), "little")
        if count != stored[key].length:
            raise UnusableError("another amount of data than the pickle says")
        rows[key] = _numbers(_exactly(file, count * _width(kind)), kind)
    return _cut(tensors, rows)


def _read_safetensors(file: BufferedReader) -> Weights:
    """Read safetensors: the length of the header, the header, and all data.

    Its writer sorts the tensors by type and name, so the order of layers is taken from the
    numbers in their names.
    """
    length = int.from_bytes(_exactly(file, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise UnusableError(f"a header of {length} bytes")
    try:
        header = msgspec.json.decode(_exactly(file, length), type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnusableError("a damaged header") from None
    header.pop("__metadata__", None)
    data = file.read()
    found: Weights = {}
    for name, entry in sorted(header.items(), key=lambda item: _natural(item[0])):
        try:
            place = msgspec.convert(entry, _Entry)
        except msgspec.ValidationError:
            raise UnusableError("a damaged header") from None
        kind = _SAFE_TYPES.get(place.dtype)
        if kind is None:
            raise UnusableError(f"numbers of the type {place.dtype}")
        begin, end = place.data_offsets
        expected = math.prod(place.shape) * _width(kind)
        if min(place.shape, default=0) < 0 or not 0 <= begin <= end <= len(data):
            raise UnusableError("a tensor outside the file")
        if end - begin != expected:
            raise UnusableError("a tensor with another amount of data than its shape needs")
        found[name] = _numbers(data[begin:end], kind).reshape(place.shape)
    return found


class _Entry(msgspec.Struct):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as layers follow each other: 2 before 10."""
    return [(int(part[:18]), "") if part.isdecimal() else (0, part) for part in _PARTS.split(name)]


def _tensors_in(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, which may lie below one key of a dictionary."""
    for key in _INSIDE:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise UnusableError("no dictionary of tensors")
    found = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if not found:
        raise UnusableError("a dictionary without tensors")
    return found


def _cut(tensors: dict[str, Tensor], rows: dict[str, NDArray[Any]]) -> Weights:
    """Cut the tensors from the rows of numbers, each as a copy."""
    total = 0
    found: Weights = {}
    for name, tensor in tensors.items():
        row = rows.get(tensor.stored.key)
        if row is None:
            raise UnusableError("no data for a tensor")
        count = math.prod(tensor.shape)
        total += count * row.itemsize  # a stride of 0 makes much of little
        if total > MAX_BYTES:
            raise UnusableError("tensors that are larger than their data")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((side - 1) * step for side, step in steps)
        if count and last >= len(row):
            raise UnusableError("a tensor outside its data")
        if count == 0:
            found[name] = np.zeros(tensor.shape, row.dtype)
            continue
        strides = [step * row.itemsize for step in tensor.strides]
        view = np.lib.stride_tricks.as_strided(row[tensor.offset :], tensor.shape, strides)
        found[name] = view.copy()
    return found


def _type_of(stored: Stored) -> str:
    """Return the type of the numbers of a row."""
    kind = _TYPES.get(stored.kind)
    if kind is None:
        raise UnusableError(f"numbers of the type {stored.kind}")
    return kind


def _width(kind: str) -> int:
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _numbers(data: bytes, kind: str) -> NDArray[Any]:
    """Return bytes as a row of numbers; bfloat16 are the upper halves of float32."""
    if len(data) % _width(kind):
        raise UnusableError("data of a broken length")
    if kind == "bf16":
        upper = np.frombuffer(data, "<u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    numbers = np.frombuffer(data, kind)
    return numbers.astype(np.float32) if kind == "<f2" else numbers


def _exactly(file: BufferedReader, count: int) -> bytes:
    """Read as many bytes as are asked for."""
    if count > MAX_BYTES:
        raise UnusableError("a file that ends early")
    data = file.read(count)
    if len(data) < count:
        raise UnusableError("a file that ends early")
    return data
