"""The header of an ONNX file (inputs, outputs, metadata), read in milliseconds without a runtime.

The supervisor needs it before it forks workers, so it must not import a library that starts threads
or takes long to import. ONNX is protobuf; little of it is needed to find names and shapes and to
skip the weights. Field numbers are those of onnx.proto. The file is not trusted: `read` returns, or
raises ContractError, after a bounded time.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable
from io import BufferedReader
from itertools import islice
from pathlib import Path

import msgspec

from models.errors import ContractError
from models.file_kind import HEAD_BYTES, kind_of
from models.files import open_file
from models.onnx_graph import Contents, External, TooLargeError, Walk, check_size
from models.protobuf import DamagedError, Reader, bytes_of, signed_of, text_of
from models.text import shown

MAX_BYTES = (1 << 31) - 1
"""Size limit of a model file: that of protobuf, and so of onnxruntime. Larger models have their
weights in other files."""
MAX_EXTERNAL_BYTES = 1 << 40
"""Size limit of a file of weights."""
MAX_METADATA_BYTES = 1 << 20
"""Size limit of an entry of the metadata; longer ones are left out, because none is used."""
MAX_METADATA = 1000
"""Number of entries of the metadata that are read."""
MAX_SHOWN = 8
"""Number of tensors of a file, and dimensions of a tensor, in a text."""

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
"""TensorProto.DataType -> numpy's name."""


class Tensor(msgspec.Struct, frozen=True):
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """None for a dimension: any length; None for the whole: not stated."""

    def __str__(self) -> str:
        lengths = "?" if self.shape is None else _first_few(str(n or "?") for n in self.shape)
        return f"{shown(self.name, 60)} {self.dtype}[{lengths}]"


class OnnxFile(msgspec.Struct, frozen=True):
    """Header of a model file."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    ops: frozenset[str]
    """Operators of the graph."""
    first_ops: frozenset[str]
    """Operators that read the first input."""
    size_bytes: int = 0
    """Size of the file, and of those beside it that hold its weights."""

    def __str__(self) -> str:
        inputs, outputs = (
            _first_few(map(str, tensors), ", ") for tensors in (self.inputs, self.outputs)
        )
        return f"{inputs} -> {outputs}"


def _first_few(texts: Iterable[str], between: str = ",") -> str:
    """Join the first texts, `MAX_SHOWN` at most."""
    first = list(islice(texts, MAX_SHOWN + 1))
    return between.join([*first[:MAX_SHOWN], "..."] if len(first) > MAX_SHOWN else first)


def read(path: Path) -> OnnxFile:
    """Read names, shapes and metadata of a model file, and check the size of its graph.

    Raises:
        ContractError: missing, unreadable, not ONNX, or larger than onnxruntime can load.
    """
    with open_file(path, "model", MAX_BYTES, ContractError) as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            found, external = _model(path, data)
        except TooLargeError as error:
            raise ContractError(f"{path}: {error}") from None
        except ValueError as error:  # DamagedError, and an empty file, which cannot be mapped
            kind = kind_of(_head(file))
            if kind is not None:
                raise ContractError(
                    f"{path}: no ONNX model (found {kind.name}); {kind.advice}"
                ) from None
            reason = f" ({error})" if isinstance(error, DamagedError) else ""
            raise ContractError(
                f"{path}: not an ONNX model, or a truncated one{reason}; export it or download it "
                "again"
            ) from None
        except OSError as error:
            raise ContractError(f"{path}: the model cannot be read: {error.strerror}") from None
        size = os.fstat(file.fileno()).st_size
    ends: dict[str, int] = {}
    for part in external:
        end = part.offset + (part.length or 0)
        ends[part.location] = max(end, ends.get(part.location, 0))
    size += sum(_check_external(path, location, end) for location, end in ends.items())
    return msgspec.structs.replace(found, size_bytes=size)


def _head(file: BufferedReader) -> bytes:
    """Return the first bytes of a file."""
    try:
        file.seek(0)
        return file.read(HEAD_BYTES)
    except OSError:
        return b""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a model file, in hexadecimal.

    Raises:
        ContractError: it cannot be read.
    """
    try:
        with open_file(path, "model", MAX_BYTES, ContractError) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContractError(f"{path}: the model cannot be read: {error.strerror}") from None


def _model(path: Path, data: memoryview) -> tuple[OnnxFile, list[External]]:
    reader = Reader()
    walk = Walk(reader)
    metadata: dict[str, str] = {}
    graph: memoryview | None = None
    functions = []
    for number, value in reader.fields(data):
        if number == 7:
            if graph is not None:
                raise DamagedError("two graphs")  # protobuf would merge them
            graph = bytes_of(value)
        elif number == 14:
            pair = reader.message(bytes_of(value))
            if len(bytes_of(pair.get(2))) <= MAX_METADATA_BYTES and len(metadata) < MAX_METADATA:
                metadata[text_of(pair.get(1))] = text_of(pair.get(2))
        elif number == 25:
            functions.append(walk.function(bytes_of(value)))
    if graph is None:
        raise DamagedError("no graph")
    main = Contents()
    found = _graph(path, reader, walk, graph, main, metadata)
    if not found.inputs or not found.outputs:
        raise DamagedError("no inputs" if not found.inputs else "no outputs")
    check_size(main, functions)
    external = [
        part for contents in (main, *(body for _, body in functions)) for part in contents.external
    ]
    return found, external


def _graph(
    path: Path,
    reader: Reader,
    walk: Walk,
    data: memoryview,
    found: Contents,
    metadata: dict[str, str],
) -> OnnxFile:
    """Read the main graph; add its contents to `found`."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    nodes: list[memoryview] = []
    weights: set[str] = set()
    for number, value in reader.fields(data):
        if number == 1:
            nodes.append(bytes_of(value))
        elif number == 5:
            weights.add(walk.tensor(bytes_of(value), found))
        elif number == 15:
            walk.sparse(bytes_of(value), found)
        elif number == 11:
            inputs.append(_tensor(reader, bytes_of(value)))
        elif number == 12:
            outputs.append(_tensor(reader, bytes_of(value)))
    # Old files list their weights also as inputs.
    inputs = [tensor for tensor in inputs if tensor.name not in weights]
    ops: set[str] = set()
    first_ops: set[str] = set()
    for node in nodes:
        kind, reads = walk.node(node, found, 0)
        ops.add(kind)
        if inputs and inputs[0].name in reads:
            first_ops.add(kind)
    return OnnxFile(
        path, tuple(inputs), tuple(outputs), metadata, frozenset(ops), frozenset(first_ops)
    )


def _tensor(reader: Reader, data: memoryview) -> Tensor:
    info = reader.message(data)
    kind = reader.message(bytes_of(info.get(2)))
    tensor = reader.message(bytes_of(kind.get(1)))
    shape: tuple[int | None, ...] | None = None
    if 2 in tensor:
        dimensions = [
            reader.message(bytes_of(v)) for n, v in reader.fields(bytes_of(tensor[2])) if n == 1
        ]
        shape = tuple(_length(signed_of(dimension.get(1))) for dimension in dimensions)
    dtype = tensor.get(1)
    known = DTYPES.get(dtype, "unknown") if isinstance(dtype, int) else "unknown"
    name = text_of(info.get(1))
    if not name:
        raise DamagedError("an input or output without a name")
    return Tensor(name, known, shape)


def _length(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _check_external(path: Path, location: str, end: int) -> int:
    """Check that a file of weights is in the model's folder and long enough; return its size.

    Args:
        path: path of the model.
        location: path of the weights, as the model states it.
        end: offset in bytes of the end of the last weights.
    """
    try:
        target = path.parent / location
        leaves = os.path.isabs(location) or ".." in Path(location).parts
        real = target.resolve()
        # The model may be a symlink into a store, where its weights are symlinks as well.
        homes = (path.parent.resolve(), path.resolve().parent)
        outside = leaves or not any(real.is_relative_to(home) for home in homes)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a loop of symlinks
        outside = True
    if outside or not location:
        raise ContractError(
            f"{path}: its weights are outside its folder (found {shown(location, 100)!r}); export "
            "it again with its weights beside it"
        )
    with open_file(
        target, f"weights file of {path.name}", MAX_EXTERNAL_BYTES, ContractError
    ) as file:
        size = os.fstat(file.fileno()).st_size
    if end > size:
        raise ContractError(
            f"{path}: its weights file {shown(location, 100)} is truncated (found {size:,} bytes, "
            f"expected {end:,}); copy it again"
        )
    return size
