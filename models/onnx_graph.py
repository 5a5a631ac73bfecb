"""The contents of an ONNX graph: nodes are counted before a runtime loads them.

A model file may hold functions that call each other: a file of four kilobytes expands to 2**30
nodes, and onnxruntime expands it while it loads, for hours. It may also name other files for its
weights, in any folder. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from models.protobuf import DamagedError, Reader, bytes_of, text_of

MAX_NODES = 50_000
"""Limit of the nodes of a model with its functions expanded. onnxruntime 1.32 loaded 49,000 nodes
from functions in 2 s, and 98,000 in 18 s; the largest detectors have some ten thousand."""
MAX_GRAPH_DEPTH = 32
"""Limit of graphs within graphs (the branches of an If). Protobuf reads no deeper: each takes three
of the hundred levels of messages that it allows."""
MAX_CALL_DEPTH = 100
"""Limit of the depth of calls between functions."""

Op = tuple[str, str]
"""Domain and name of an operator or a function."""


class External(NamedTuple):
    """Weights in another file."""

    location: str
    """Path, relative to the folder of the model."""
    offset: int
    """In bytes."""
    length: int | None
    """In bytes; None: up to the end of the file."""


class TooLargeError(ValueError):
    """The graph is too large for onnxruntime to load in a reasonable time."""


@dataclass
class Contents:
    """Contents of a graph or a function, nested graphs included."""

    ops: Counter[Op] = field(default_factory=Counter)
    """Number of nodes of each operator."""
    external: list[External] = field(default_factory=list)


class Walk:
    """Walks through the graphs and functions of one file."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def graph(self, data: memoryview, found: Contents, depth: int = 0) -> None:
        """Add the contents of a GraphProto to `found`.

        Raises:
            DamagedError: it is no graph.
            TooLargeError: graphs are nested too deep.
        """
        if depth > MAX_GRAPH_DEPTH:
            raise TooLargeError(f"its graphs are nested more than {MAX_GRAPH_DEPTH} deep")
        for number, value in self._reader.fields(data):
            if number == 1:
                self.node(bytes_of(value), found, depth)
            elif number == 5:
                self.tensor(bytes_of(value), found)
            elif number == 15:
                self.sparse(bytes_of(value), found)

    def function(self, data: memoryview) -> tuple[Op, Contents]:
        """Read a FunctionProto: its name and its contents."""
        found, name, domain = Contents(), "", ""
        for number, value in self._reader.fields(data):
            if number == 1:
                name = text_of(value)
            elif number == 10:
                domain = text_of(value)
            elif number == 7:
                self.node(bytes_of(value), found, 0)
            elif number == 11:
                self._attribute(bytes_of(value), found, 0)
        return _op(domain, name), found

    def node(self, data: memoryview, found: Contents, depth: int) -> tuple[str, list[str]]:
        """Add a NodeProto to `found`; return its operator, and the names of its inputs."""
        kind, domain, reads = "", "", []
        for number, value in self._reader.fields(data):
            if number == 1:
                reads.append(text_of(value))
            elif number == 4:
                kind = text_of(value)
            elif number == 7:
                domain = text_of(value)
            elif number == 5:
                self._attribute(bytes_of(value), found, depth)
        found.ops[_op(domain, kind)] += 1
        return kind, reads

    def tensor(self, data: memoryview, found: Contents) -> str:
        """Add a TensorProto to `found`, if its values are in another file; return its name."""
        name, external, pairs = "", False, {}
        for number, value in self._reader.fields(data):
            if number == 8:
                name = text_of(value)
            elif number == 13:
                pair = self._reader.message(bytes_of(value))
                pairs[text_of(pair.get(1))] = text_of(pair.get(2))
            elif number == 14:
                external = value == 1
        if external:
            found.external.append(_external(pairs))
        return name

    def sparse(self, data: memoryview, found: Contents) -> None:
        """Add a SparseTensorProto to `found`."""
        for number, value in self._reader.fields(data):
            if number in (1, 2):
                self.tensor(bytes_of(value), found)

    def _attribute(self, data: memoryview, found: Contents, depth: int) -> None:
        for number, value in self._reader.fields(data):
            if number in (6, 11):
                self.graph(bytes_of(value), found, depth + 1)
            elif number in (5, 10):
                self.tensor(bytes_of(value), found)
            elif number in (22, 23):
                self.sparse(bytes_of(value), found)


def check_size(main: Contents, functions: Iterable[tuple[Op, Contents]]) -> None:
    """Count the nodes of a graph with its functions expanded.

    Raises:
        TooLargeError: there are too many, or a function calls itself.
    """
    bodies: dict[Op, list[Contents]] = {}
    for op, body in functions:
        # Functions of one name with different `overload` count as the largest of them.
        bodies.setdefault(op, []).append(body)
    sizes: dict[Op, int] = {}
    nodes = _expanded(main, bodies, sizes, ())
    if nodes > MAX_NODES:
        raise TooLargeError(
            f"the graph is too large (found {_rounded(nodes)} nodes with its functions expanded, "
            f"at most {MAX_NODES:,}); export the model again without functions that call each other"
        )


def _expanded(
    body: Contents,
    bodies: Mapping[Op, list[Contents]],
    sizes: dict[Op, int],
    callers: tuple[Op, ...],
) -> int:
    """Count the nodes of a body and of the functions it calls; a call counts as a node too.

    Args:
        body: contents of the graph, or of a function.
        bodies: contents of all functions.
        sizes: nodes of the functions counted so far; updated.
        callers: functions around this body, outermost first.
    """
    if len(callers) > MAX_CALL_DEPTH:
        raise TooLargeError(f"its functions call each other more than {MAX_CALL_DEPTH} deep")
    total = 0
    for op, count in body.ops.items():
        if op in bodies and op not in sizes:
            if op in callers:
                raise TooLargeError(f"its function {op[1]} calls itself")
            sizes[op] = max(_expanded(b, bodies, sizes, (*callers, op)) for b in bodies[op])
        total += count * (1 + sizes.get(op, 0))
    return total


def _rounded(nodes: int) -> str:
    return f"{nodes:,}" if nodes < 10**12 else f"more than 10**{len(str(nodes)) - 1}"


def _op(domain: str, name: str) -> Op:
    return ("" if domain == "ai.onnx" else domain), name


def _external(pairs: Mapping[str, str]) -> External:
    try:
        offset = int(pairs.get("offset") or 0)
        length = int(pairs["length"]) if pairs.get("length") else None
    except ValueError:
        raise DamagedError("external weights with an offset or length that is no number") from None
    if offset < 0 or (length is not None and length < 0):
        raise DamagedError("external weights with a negative offset or length")
    return External(pairs.get("location", ""), offset, length)
