"""What is inside an ONNX graph, counted before a runtime sees it.

A model file may hold functions that call each other: a file of four kilobytes expands to 2**30
nodes, and onnxruntime expands it while it loads, for hours. And it may name other files for its
weights, anywhere. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from models.protobuf import DamagedError, Reader, bytes_of, text_of

MAX_NODES = 50_000
"""Nodes of a model whose functions are expanded. onnxruntime 1.32 loaded 49,000 nodes out of
functions in 2 s, and 98,000 in 18 s; the largest detectors have some ten thousand."""
MAX_GRAPH_DEPTH = 32
"""Graphs within graphs (the branches of an If). Protobuf reads no deeper: each takes three of the
hundred messages that it allows within each other."""
MAX_CALL_DEPTH = 100
"""Functions that call each other, one within the other."""

Op = tuple[str, str]
"""Domain and name of a kind of node, or of a function."""


class External(NamedTuple):
    """Weights that are kept in a file of their own."""

    location: str
    """Path from the folder of the model."""
    offset: int
    """Where they begin, in bytes."""
    length: int | None
    """In bytes; None: up to the end of the file."""


class TooLargeError(ValueError):
    """The graph is one that onnxruntime could not load in any useful time."""


@dataclass
class Contents:
    """What a graph, or a function, holds, graphs within it included."""

    ops: Counter[Op] = field(default_factory=Counter)
    """How many nodes of each kind there are."""
    external: list[External] = field(default_factory=list)


class Walk:
    """Reads graphs and functions of one file."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def graph(self, data: memoryview, found: Contents, depth: int = 0) -> None:
        """Add what a GraphProto holds to `found`.

        Raises:
            DamagedError: it is no graph.
            TooLargeError: there are too many graphs within each other.
        """
        if depth > MAX_GRAPH_DEPTH:
            raise TooLargeError(f"its graphs are nested deeper than {MAX_GRAPH_DEPTH}")
        for number, value in self._reader.fields(data):
            if number == 1:
                self.node(bytes_of(value), found, depth)
            elif number == 5:
                self.tensor(bytes_of(value), found)
            elif number == 15:
                self.sparse(bytes_of(value), found)

    def function(self, data: memoryview) -> tuple[Op, Contents]:
        """Read a FunctionProto: its name, and what it holds."""
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
        """Add a NodeProto to `found`; its kind, and the names that it reads."""
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
        """Add a TensorProto to `found`, if its values are in another file; its name."""
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
    """Count the nodes of a graph as they are once its functions are expanded.

    Raises:
        TooLargeError: they are too many, or a function calls itself.
    """
    bodies: dict[Op, list[Contents]] = {}
    for op, body in functions:
        # Functions of one name that differ in their `overload` count as the largest of them.
        bodies.setdefault(op, []).append(body)
    sizes: dict[Op, int] = {}
    nodes = _expanded(main, bodies, sizes, ())
    if nodes > MAX_NODES:
        raise TooLargeError(
            f"expected at most {MAX_NODES:,} nodes, found {_rounded(nodes)} once its functions are "
            "expanded; export the model again without functions that call each other"
        )


def _expanded(
    body: Contents,
    bodies: Mapping[Op, list[Contents]],
    sizes: dict[Op, int],
    callers: tuple[Op, ...],
) -> int:
    """Nodes of a body, with those of the functions it calls; a call counts as a node too.

    Args:
        body: of the graph, or of a function.
        bodies: of all functions.
        sizes: of the functions that are counted already; is added to.
        callers: the functions within which this one is called, the outermost first.
    """
    if len(callers) > MAX_CALL_DEPTH:
        raise TooLargeError(f"its functions call each other deeper than {MAX_CALL_DEPTH}")
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
        raise DamagedError("weights in another file at a place that is no number") from None
    if offset < 0 or (length is not None and length < 0):
        raise DamagedError("weights in another file at a negative place")
    return External(pairs.get("location", ""), offset, length)
