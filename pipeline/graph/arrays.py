"""Arrays of a graph: whether each stage gets those that it takes, and the room for them."""

from __future__ import annotations

import math

import numpy as np

from pipeline.arrays import Array
from pipeline.context import RowLimit
from pipeline.errors import GraphError
from pipeline.graph.graph import Node
from pipeline.memory.saved_states import ANSWER_BYTES

_ROOM_FOR_NAMES = 1024
"""Bytes of a saved answer beside the values of its arrays."""


def check_arrays(node: Node, where: str) -> None:
    """Refuse a stage to which an array does not come, or comes as another than it takes."""
    given: dict[str, tuple[Array, str]] = {}
    for before in reversed(list(node.before())):
        given.update({array.name: (array, before.name) for array in before.kind.gives})
    for want in node.kind.takes:
        if want.name not in given:
            if want.optional:
                continue
            raise GraphError(
                f"{where}: stages.{node.name}: takes the array {want.name!r}, which no stage "
                f"before it gives (found {', '.join(given) or 'none'}); add a stage that gives it"
            )
        have, giver = given[want.name]
        if not _fits(want, have):
            raise GraphError(
                f"{where}: stages.{node.name}: takes {_describe(want)}, but {giver} gives "
                f"{_describe(have)}; put another stage before it"
            )


def check_answer(node: Node, where: str) -> None:
    """Refuse more boxes than an ordered stage's answer to a frame can be saved with."""
    limit = node.context.get(RowLimit)
    if limit is None or not node.kind.ordered:
        return
    per_row = sum(
        np.dtype(array.dtype).itemsize * math.prod(side or 1 for side in array.shape[1:])
        for array in node.kind.gives
        if array.shape
        and array.shape[0] is None
        and array.dtype
        and array.name not in node.kind.derived
    )
    room = ANSWER_BYTES - _ROOM_FOR_NAMES
    if limit.rows * per_row > room:
        raise GraphError(
            f"{where}: stages.{node.name}: its answer to a frame of {limit.rows} boxes cannot be "
            f"saved (found {limit.rows * per_row} bytes, room for {room}); set max_boxes of the "
            f"stage that suppresses boxes to at most {room // per_row}"
        )


def _fits(want: Array, have: Array) -> bool:
    if want.dtype and have.dtype and want.dtype != have.dtype:
        return False
    if want.shape is None or have.shape is None:
        return True
    if len(want.shape) != len(have.shape):
        return False
    return all(
        None in sides or sides[0] == sides[1] for sides in zip(want.shape, have.shape, strict=True)
    )


def _describe(array: Array) -> str:
    sides = "" if array.shape is None else " x ".join(str(side or "?") for side in array.shape)
    return f"{array.name!r} ({array.dtype or 'any type'} {sides})"
