"""The nodes of an ONNX graph and its small constants, to see how inputs and outputs are made.

Read only to recognise a model: `onnx_header.py` has checked the file. Graphs within graphs are not
followed. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import ContractError
from models.files import open_file
from models.onnx_header import MAX_BYTES
from models.protobuf import DamagedError, Reader, bytes_of, signed_of, text_of

MAX_VALUES = 64
"""Numbers of a constant that are read; of larger ones only the dimensions."""
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""TensorProto.DataType -> numpy's dtype of the raw data."""


class Node(NamedTuple):
    """An operation of the graph."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, tuple[float, ...]]
    """Attributes that are numbers, or lists of numbers."""


class Constant(NamedTuple):
    """A constant tensor."""

    dims: tuple[int, ...]
    values: NDArray[np.float64] | None
    """Flat; None: larger than `MAX_VALUES`, or in another file."""


@dataclass
class Trace:
    """The nodes of a graph, and who gives and reads each value."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    makers: dict[str, Node] = field(default_factory=dict)
    """Name of a value -> the node that gives it."""
    readers: dict[str, list[Node]] = field(default_factory=dict)
    """Name of a value -> the nodes that read it."""

    def add(self, node: Node) -> None:
        """Add a node."""
        self.nodes.append(node)
        for name in node.outputs:
            self.makers[name] = node
        for name in node.inputs:
            self.readers.setdefault(name, []).append(node)


def read(path: Path) -> Trace:
    """Read the nodes of a model file.

    Raises:
        ContractError: it is no ONNX file, or it cannot be read.
    """
    with open_file(path, "model", MAX_BYTES, ContractError) as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return _model(Reader(), data)
        except (DamagedError, ValueError, OSError) as error:
            raise ContractError(f"{path}: the graph cannot be read: {error}") from None


def _model(reader: Reader, data: memoryview) -> Trace:
    trace = Trace()
    for number, value in reader.fields(data):
        if number != 7:
            continue
        for part, content in reader.fields(bytes_of(value)):
            if part == 1:
                node = _node(reader, bytes_of(content), trace)
                if node is not None:
                    trace.add(node)
            elif part == 5:
                name, constant = _tensor(reader, bytes_of(content))
                trace.constants[name] = constant
    return trace


def _node(reader: Reader, data: memoryview, trace: Trace) -> Node | None:
    """Read a node; a Constant becomes a constant of the trace."""
    op, inputs, outputs = "", [], []
    numbers: dict[str, tuple[float, ...]] = {}
    value: Constant | None = None
    for number, content in reader.fields(data):
        if number == 1:
            inputs.append(text_of(content))
        elif number == 2:
            outputs.append(text_of(content))
        elif number == 4:
            op = text_of(content)
        elif number == 5:
            name, found, tensor = _attribute(reader, bytes_of(content))
            numbers[name] = found
            value = tensor or value
    if op == "Constant" and outputs:
        single = next(iter(numbers.values()), ())
        if value is None and single:
            value = Constant((len(single),), np.array(single, np.float64))
        if value is not None:
            trace.constants[outputs[0]] = value
        return None
    return Node(op, tuple(inputs), tuple(outputs), numbers)


def _attribute(reader: Reader, data: memoryview) -> tuple[str, tuple[float, ...], Constant | None]:
    name, tensor = "", None
    found: list[float] = []
    for number, value in reader.fields(data):
        if number == 1:
            name = text_of(value)
        elif number in (3, 8):
            found += _integers(value)
        elif number in (2, 7):
            found += _floats(value)
        elif number == 5:
            tensor = _tensor(reader, bytes_of(value))[1]
    return name, tuple(found[:MAX_VALUES]), tensor


def _tensor(reader: Reader, data: memoryview) -> tuple[str, Constant]:
    name, dtype = "", 0
    dims: list[int] = []
    raw: memoryview | None = None
    listed: list[float] = []
    for number, value in reader.fields(data):
        if number == 1:
            dims += [int(n) for n in _integers(value)]
        elif number == 2:
            dtype = int(value) if isinstance(value, int) else 0
        elif number == 8:
            name = text_of(value)
        elif number == 9:
            raw = bytes_of(value)
        elif number == 4 and len(listed) <= MAX_VALUES:
            listed += _floats(value)
        elif number in (5, 7) and len(listed) <= MAX_VALUES:
            listed += _integers(value)
    count = int(np.prod(dims, dtype=object)) if dims else 1
    values: NDArray[np.float64] | None = None
    if 0 < count <= MAX_VALUES:
        if raw is not None and dtype in _DTYPES:
            kind = np.dtype(_DTYPES[dtype])
            if len(raw) == count * kind.itemsize:
                values = np.frombuffer(raw, kind).astype(np.float64)
        elif len(listed) == count:
            values = np.array(listed, np.float64)
    return name, Constant(tuple(dims), values)


def _integers(value: int | memoryview) -> list[float]:
    """Read integers, one or packed."""
    if isinstance(value, int):
        return [float(signed_of(value) or 0)]
    found: list[float] = []
    number = shift = 0
    for byte in bytes(value[: 10 * MAX_VALUES]):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(float(signed_of(number) or 0))
            number = shift = 0
    return found


def _floats(value: int | memoryview) -> list[float]:
    """Read floats, one or packed."""
    if isinstance(value, int):
        return []
    whole = len(value) // 4 * 4
    return [float(x) for x in np.frombuffer(value[: min(whole, 4 * MAX_VALUES)], "<f4")]
