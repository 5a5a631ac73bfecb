"""Arrays of a graph: whether each stage gets those that it takes, and the room for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.arrays import Array
from pipeline.context import RowLimit
from pipeline.errors import GraphError
from pipeline.graph.graph import Node
from pipeline.memory.saved_states import ANSWER_BYTES

MIB = 1 << 20

_ROOM_FOR_ARRAYS = 40 * MIB
"""Bytes in a slot beside images: model input, boxes. A float32 input of 1536 x 1536 fits."""
_ROOM_FOR_NAMES = 1024
"""Bytes of a saved answer beside the values of its arrays."""


def check_arrays(node: Node, where: str) -> None:
    """Refuse a stage to which an array does not come, or comes as another than it takes."""
    given: dict[str, tuple[Array, str]] = {}
    for before in reversed(list(node.before())):
        given.update({array.name: (array, before.name) for array in before.kind.gives})
    for want in node.kind.takes:
        if want.name not in given:
            if want.optional or any(name in given for name in want.unless):
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


def check_hidden(nodes: Sequence[Node], where: str) -> None:
    """Refuse a stage that would show an array which another stage hides.

    A stage shows what it takes if it is the last of its branch, or gives no array. Other last
    stages do not get the array, so one that reads it without declaring so does not show it either.
    """
    for name in sorted({name for node in nodes for name in node.kind.hides}):
        hiding = [node for node in nodes if name in node.kind.hides]
        for node in nodes:
            if node in hiding or any(before in hiding for before in node.before()):
                continue
            takes = any(array.name == name for array in node.kind.takes)
            if takes and (node.leaf or not node.kind.gives):
                assert node.after is not None, "a source takes no array"
                raise GraphError(
                    f"{where}: stages.{node.name}: takes {name!r} as it is before "
                    f"stages.{hiding[0].name} hides parts of it (found after: {node.after.name}); "
                    f"set `after: {hiding[0].name}`"
                )
            if node.leaf:
                node.withheld = (*node.withheld, name)


def images_in_slot(nodes: Sequence[Node]) -> int:
    """Return how many images of the size of the source's a frame has at most, in all branches."""
    return 1 + sum(_given_again(node, nodes[0]) for node in nodes[1:])


def slot_bytes(nodes: Sequence[Node], image_bytes: int) -> int:
    """Return the room of a slot, in whole MiB.

    Args:
        nodes: stages of the graph, the source first.
        image_bytes: size of the largest image of the source.
    """
    images = 1 + _images_behind(nodes[0], nodes[0])
    return -(-(images * image_bytes + _ROOM_FOR_ARRAYS) // MIB) * MIB


def _images_behind(node: Node, source: Node) -> int:
    """Return how many images need room behind a stage; branches get equal parts of the room."""
    parts = [_given_again(c, source) + _images_behind(c, source) for c in node.adding]
    return len(parts) * max(parts, default=0)


def _given_again(node: Node, source: Node) -> int:
    """Return how many of the source's arrays a stage gives: each is as large as the source's."""
    own = {array.name for array in source.kind.gives}
    return sum(array.name in own for array in node.kind.gives)


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
        and not array.optional
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
