"""Recognition of rows with more than a box: masks, keypoints, an angle."""

from __future__ import annotations

from typing import Any

from models.families import evidence
from models.families.clues import MAX_FINISHED, Clues, Guess
from models.onnx_header import Tensor

TURNS = frozenset({"Sin", "Cos"})
"""Operations between the layer of an angle and the box that it turns."""
BOX = ("cx", "cy", "w", "h")
FINISHED = ("x1", "y1", "x2", "y2", "score", "class")


def with_prototypes(clues: Clues, rows: Tensor, prototypes: Tensor) -> list[Guess]:
    """Return the readings of rows [N, K] beside prototypes [M, h, w]."""
    shape, maps = rows.shape or (), prototypes.shape or ()
    if len(shape) != 3 or len(maps) != 4 or maps[1] is None:
        return []
    factors, wide = maps[1], _width(shape)
    if wide is None or wide < 5 + factors:
        return []
    masks = {"masks": {"coefficients": factors}}
    outputs: dict[str, tuple[str, ...]] = {prototypes.name: ("prototypes",)}
    number = shape[1] if wide == shape[2] else shape[2]
    if wide == 6 + factors and shape[2] == wide and number is not None and number <= MAX_FINISHED:
        outputs[rows.name] = (*FINISHED, "coefficients")
        return [Guess("end_to_end_seg", outputs, masks)]
    classes = wide - 4 - factors
    if clues.labels is not None:
        by_labels = {0: "yolov8_seg", 1: "yolov5_seg"}.get(classes - clues.labels)
        if by_labels is None:
            return []
        with_objects = by_labels == "yolov5_seg"
    else:
        channels = evidence.channels_of(clues.heads(rows))
        with_objects = classes not in channels and any(wide * n in channels for n in (1, 3))
        by_labels = "yolov5_seg" if with_objects else "yolov8_seg"
    objectness = ("objectness",) if with_objects else ()
    outputs[rows.name] = (*BOX, *objectness, "scores", "coefficients")
    changes: dict[str, Any] = masks | {"classes": classes - with_objects}
    return [Guess(by_labels, outputs, changes, clues.unsure_scale())]


def rows_with_more(clues: Clues, tensor: Tensor, width: int, rows: int | None) -> list[Guess]:
    """Return the readings of rows as poses or rotated boxes, by the metadata or by the graph."""
    name, labels = tensor.name, clues.labels
    task = clues.file.metadata.get("task")
    finished = rows is not None and rows <= MAX_FINISHED and (tensor.shape or ())[-1] == width
    if task == "pose" and clues.points is not None and labels is not None:
        count, numbers = clues.points
        values = ["x", "y", "score"][:numbers]
        changes: dict[str, Any] = {"keypoints": {"count": count, "values": values}}
        if finished and width == 6 + count * numbers:
            return [Guess("end_to_end_pose", {name: (*FINISHED, "keypoints")}, changes)]
        if width == 4 + labels + count * numbers:
            changes["classes"] = labels
            return [Guess("yolov8_pose", {name: (*BOX, "scores", "keypoints")}, changes)]
        return []
    if task == "obb" or (task is None and _turns(clues, tensor)):
        if finished and width == 7:
            return [Guess("end_to_end_obb", {name: (*BOX, "score", "class", "angle")})]
        if width > 5 and labels in (None, width - 5):
            changes = {"classes": width - 5}
            columns = (*BOX, "scores", "angle")
            return [Guess("yolov8_obb", {name: columns}, changes, clues.unsure_scale())]
    return []


def people(tensor: Tensor) -> list[Guess]:
    """Return the readings of an output as MoveNet's: 17 points of one person, or of several."""
    shape = tensor.shape or ()
    if shape[1:] == (1, 17, 3):
        return [Guess("movenet", {tensor.name: ("keypoints",)})]
    if shape[1:] == (6, 56):
        columns = ("keypoints", "y1", "x1", "y2", "x2", "score")
        return [Guess("movenet_multi", {tensor.name: columns})]
    return []


def _turns(clues: Clues, tensor: Tensor) -> bool:
    """Return whether a layer of the output goes through the sine and the cosine of an angle."""
    return any(head.marks >= TURNS for head in clues.heads(tensor))


def _width(shape: tuple[int | None, ...]) -> int | None:
    """Return the numbers in a row of [N, K] or [K, N]: the shorter axis, if both are known."""
    known = [length for length in shape[1:] if length is not None]
    return min(known) if len(known) == 2 else next(iter(known), None)
