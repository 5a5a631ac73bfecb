"""What an ONNX file says about itself, read in milliseconds and without a runtime.

The supervisor asks this before it forks workers, so no library that starts threads or takes long
to import may be needed for it. ONNX is protobuf; of its wire format
(protobuf.dev/programming-guides/encoding) little is needed to walk to names and shapes and to
step over the weights. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import msgspec

from models.errors import ContractError

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""TensorProto.DataType -> as numpy spells it."""

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


class Tensor(msgspec.Struct, frozen=True):
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """None for a side: any length; None for the whole: not said."""

    def __str__(self) -> str:
        sides = "?" if self.shape is None else ",".join(str(s or "?") for s in self.shape)
        return f"{self.name} {self.dtype}[{sides}]"


class OnnxFile(msgspec.Struct, frozen=True):
    """A model file, as far as it can be told without running it."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    ops: frozenset[str]
    """Kinds of the nodes of the graph."""
    first_ops: frozenset[str]
    """Kinds of the nodes that read the first input."""

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, side)) for side in (self.inputs, self.outputs))
        return f"{inputs} -> {outputs}"


def read(path: Path) -> OnnxFile:
    """Read the names, shapes and metadata of a model file.

    Raises:
        ContractError: missing, unreadable, or not ONNX.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        found = _model(path, data)
    except OSError as error:
        raise ContractError(f"{path}: the model cannot be read: {error.strerror}") from None
    except (ValueError, IndexError):  # also an empty file, which cannot be mapped
        found = None
    if found is None or not found.inputs or not found.outputs:
        raise ContractError(
            f"{path}: expected an ONNX model, found a file that is cut short or something else"
        )
    return found


def _model(path: Path, data: memoryview) -> OnnxFile | None:
    metadata: dict[str, str] = {}
    graph: memoryview | None = None
    for number, value in _fields(data):
        if number == 7:
            graph = _bytes(value)
        elif number == 14:
            pair = dict(_fields(_bytes(value)))
            metadata[_text(pair[1])] = _text(pair.get(2, memoryview(b"")))
    if graph is None:
        return None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    nodes: list[memoryview] = []
    weights: set[str] = set()
    for number, value in _fields(graph):
        if number == 1:
            nodes.append(_bytes(value))
        elif number == 5:
            weights.update(_text(v) for n, v in _fields(_bytes(value)) if n == 8)
        elif number == 11:
            inputs.append(_tensor(_bytes(value)))
        elif number == 12:
            outputs.append(_tensor(_bytes(value)))
    # Old files list their weights among the inputs too.
    inputs = [tensor for tensor in inputs if tensor.name not in weights]
    ops: set[str] = set()
    first_ops: set[str] = set()
    for node in nodes:
        read_by, kind = [], ""
        for number, value in _fields(node):
            if number == 1:
                read_by.append(_text(value))
            elif number == 4:
                kind = _text(value)
        ops.add(kind)
        if inputs and inputs[0].name in read_by:
            first_ops.add(kind)
    return OnnxFile(
        path, tuple(inputs), tuple(outputs), metadata, frozenset(ops), frozenset(first_ops)
    )


def _tensor(data: memoryview) -> Tensor:
    info = dict(_fields(data))
    kind = dict(_fields(_bytes(info[2]))) if 2 in info else {}
    tensor = dict(_fields(_bytes(kind[1]))) if 1 in kind else {}
    shape: tuple[int | None, ...] | None = None
    if 2 in tensor:
        sides = [dict(_fields(_bytes(v))) for n, v in _fields(_bytes(tensor[2])) if n == 1]
        shape = tuple(_length(side.get(1)) for side in sides)
    dtype = tensor.get(1)
    known = DTYPES.get(dtype, "unknown") if isinstance(dtype, int) else "unknown"
    return Tensor(_text(info[1]), known, shape)


def _length(value: int | memoryview | None) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of each field of a message.

    Raises:
        ValueError, IndexError: this is no protobuf message, or only the begin of one.
    """
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind in (_I64, _I32):
            size = 8 if kind == _I64 else 4
        else:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            if kind == _VARINT:
                yield key >> 3, size
                continue
            if kind != _LEN:
                raise ValueError(f"no wire type {kind}")
        if at + size > end:
            raise ValueError("cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
