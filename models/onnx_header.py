"""What an ONNX file says about itself, read in milliseconds and without a runtime.

The supervisor asks this before it forks workers, so no library that starts threads or takes long
to import may be needed for it. ONNX is protobuf; little of it is needed to walk to names and shapes
and to step over the weights. Field numbers are those of onnx.proto. The file is not trusted: `read`
ends after a bounded time with what the file says, or with a ContractError.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import msgspec

from models.errors import ContractError
from models.files import open_file
from models.onnx_graph import Contents, External, TooLargeError, Walk, check_size
from models.protobuf import DamagedError, Reader, bytes_of, signed_of, text_of
from models.text import shown

MAX_BYTES = (1 << 31) - 1
"""Of a model file: what protobuf can hold, and so onnxruntime can load. Larger models have their
weights in files of their own."""
MAX_EXTERNAL_BYTES = 1 << 40
MAX_METADATA_BYTES = 1 << 20
"""Of an entry of the metadata; longer ones are left out, as nothing here is so long."""
MAX_METADATA = 1000
MAX_SHOWN = 8
"""Tensors of a file, and sides of a tensor, that are shown."""

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


class Tensor(msgspec.Struct, frozen=True):
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    """None for a side: any length; None for the whole: not said."""

    def __str__(self) -> str:
        sides = "?" if self.shape is None else _some(str(s or "?") for s in self.shape)
        return f"{shown(self.name, 60)} {self.dtype}[{sides}]"


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
    size_bytes: int = 0
    """Of the file, and of those beside it that hold its weights."""

    def __str__(self) -> str:
        inputs, outputs = (_some(map(str, side), ", ") for side in (self.inputs, self.outputs))
        return f"{inputs} -> {outputs}"


def _some(texts: Iterable[str], between: str = ",") -> str:
    """Join the first few texts."""
    first = list(islice(texts, MAX_SHOWN + 1))
    return between.join([*first[:MAX_SHOWN], "..."] if len(first) > MAX_SHOWN else first)


def read(path: Path) -> OnnxFile:
    """Read the names, shapes and metadata of a model file, and measure what it would grow to.

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
            reason = f" ({error})" if isinstance(error, DamagedError) else ""
            raise ContractError(
                f"{path}: expected an ONNX model, found a file that is cut short or something "
                f"else{reason}"
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


def _model(path: Path, data: memoryview) -> tuple[OnnxFile, list[External]]:
    reader = Reader()
    walk = Walk(reader)
    metadata: dict[str, str] = {}
    graph: memoryview | None = None
    functions = []
    for number, value in reader.fields(data):
        if number == 7:
            if graph is not None:
                raise DamagedError("two graphs")  # protobuf would make one of them
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
    """Read the main graph; add what it holds to `found`."""
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
    # Old files list their weights among the inputs too.
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
        sides = [
            reader.message(bytes_of(v)) for n, v in reader.fields(bytes_of(tensor[2])) if n == 1
        ]
        shape = tuple(_length(signed_of(side.get(1))) for side in sides)
    dtype = tensor.get(1)
    known = DTYPES.get(dtype, "unknown") if isinstance(dtype, int) else "unknown"
    name = text_of(info.get(1))
    if not name:
        raise DamagedError("an input or output without a name")
    return Tensor(name, known, shape)


def _length(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _check_external(path: Path, location: str, end: int) -> int:
    """Check that a file of weights is beside the model, or below, and long enough; its size.

    Args:
        path: of the model.
        location: of the weights, as the model says it.
        end: bytes that the model reads of it.
    """
    try:
        target = path.parent / location
        leaves = os.path.isabs(location) or ".." in Path(location).parts
        real = target.resolve()
        # The model may itself be a link into a store, where its weights are links as well.
        homes = (path.parent.resolve(), path.resolve().parent)
        outside = leaves or not any(real.is_relative_to(home) for home in homes)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        outside = True
    if outside or not location:
        raise ContractError(
            f"{path}: expected weights in a file beside the model, found {shown(location, 100)!r}, "
            "which is outside its folder"
        )
    with open_file(
        target, f"file of weights of {path.name}", MAX_EXTERNAL_BYTES, ContractError
    ) as file:
        size = os.fstat(file.fileno()).st_size
    if end > size:
        raise ContractError(
            f"{path}: its file of weights {shown(location, 100)} is cut short (found {size:,} "
            f"bytes, expected {end:,}); copy it again"
        )
    return size
