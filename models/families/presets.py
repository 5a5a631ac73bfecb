"""Known kinds of detectors (`presets.yaml`), and how the outputs of a file fit one of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from models import yaml_reader
from models.card import CardInput
from models.onnx_header import Tensor
from models.output_layout import BOXES, OF_IMAGE, WIDE, Column, OutputLayout

FILE = Path(__file__).parent / "presets.yaml"
MAX_OUTPUTS = 8
"""Outputs, apart from further levels, that are matched; more are not those of a detector."""

LANDMARKS = (10, 15, 34, 51)
"""Numbers of five or seventeen points, with or without a score each."""
RANKS = {"prototypes": 4, "embedding": 2, "score_map": 4, "class_map": 3}
"""Column of an output of its own -> axes of the output."""
HINTS: dict[str, tuple[str, ...]] = {
    "boxes": ("box", "loc", "reg", "coord", "dets", "rois"),
    "scores": ("score", "conf", "prob", "cls", "logit", "class", "label"),
    "score": ("score", "conf", "prob"),
    "class": ("class", "label", "cls", "categor", "ids"),
    "objectness": ("obj", "centerness", "iou"),
    "count": ("num", "count", "valid"),
    "rest": ("mask", "kps", "keypoint", "landmark", "proto"),
    "keypoints": ("kps", "keypoint", "landmark", "pose"),
    "masks": ("mask",),
    "prototypes": ("proto", "mask"),
    "sizes": ("wh", "size", "dim"),
    "offsets": ("reg", "off"),
}
"""Column, or "boxes", or "sizes" and "offsets" apart -> parts of names of outputs with it."""
APART = {frozenset({"dw", "dh"}): "sizes", frozenset({"dx", "dy"}): "offsets"}
"""Columns of boxes in two outputs -> their hints."""


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A known kind of detector."""

    outputs: tuple[tuple[Column, ...], ...]
    """Columns of each output, in any order."""
    levels: int = 1
    """Number of outputs with the same columns: one per grid."""
    input: CardInput = CardInput()
    output: dict[str, Any] = {}
    """Further keys of the layout."""

    def layout(
        self, names: Mapping[str, tuple[Column, ...]], own: Mapping[str, Any]
    ) -> OutputLayout:
        """Make the layout of a file.

        Args:
            names: names of the outputs -> their columns.
            own: keys of a card, which take precedence.
        """
        table = {"outputs": dict(names), **self.output, **own}
        return msgspec.convert(table, OutputLayout)


@functools.cache
def presets() -> dict[str, Preset]:
    """Return all presets by name."""
    table = yaml_reader.parse(FILE.read_text("utf-8"))
    return msgspec.convert(table, dict[str, Preset])


def assign(
    wanted: Sequence[tuple[Column, ...]], levels: int, tensors: Sequence[Tensor]
) -> list[dict[str, tuple[Column, ...]]]:
    """Return the ways in which the outputs of a file fit columns, the most likely ones.

    Args:
        wanted: columns of each output.
        levels: outputs of each of them.
        tensors: outputs of the file.

    Returns:
        Name -> columns, for each way that no other way excels; empty: none fits.
    """
    if len(tensors) != len(wanted) * levels or len(wanted) > MAX_OUTPUTS:
        return []
    groups = _by_level(tensors, levels) if levels > 1 else [[tensor] for tensor in tensors]
    if groups is None or len(groups) != len(wanted):
        return []
    images = _images(tensors)
    rated: list[tuple[int, dict[str, tuple[Column, ...]]]] = []
    for order in itertools.permutations(wanted):
        if all(
            _fits(tensor, columns, images)
            for group, columns in zip(groups, order, strict=True)
            for tensor in group
        ):
            rating = sum(
                _rating(group[0], columns) for group, columns in zip(groups, order, strict=True)
            )
            named = {
                t.name: columns for group, columns in zip(groups, order, strict=True) for t in group
            }
            rated.append((rating, named))
    best = max((rating for rating, _ in rated), default=0)
    found: list[dict[str, tuple[Column, ...]]] = []
    for rating, named in rated:
        if rating == best and named not in found:
            found.append({tensor.name: named[tensor.name] for tensor in tensors})
    return found


def _images(tensors: Sequence[Tensor]) -> int | None:
    """Return the number of images in a batch, by the axis that a count of rows has as well."""
    for tensor in tensors:
        if tensor.shape is not None and len(tensor.shape) >= 3:
            return tensor.shape[0]
    # Rows of all images have no such axis; then only the count can be one whole number for each.
    single = [t for t in tensors if t.shape is not None and len(t.shape) == 1]
    if len(single) == 1 and single[0].dtype.startswith("int") and single[0].shape is not None:
        return single[0].shape[0]
    return 1


def _by_level(tensors: Sequence[Tensor], levels: int) -> list[list[Tensor]] | None:
    """Group outputs that differ only in the lengths of the grid; None: they are not such."""
    alike: tuple[Callable[[Tensor], object], ...] = (
        lambda tensor: "".join(c for c in tensor.name if not c.isdigit()),
        lambda tensor: _length(tensor, -1 if len(tensor.shape or ()) in (3, 5) else 1),
        lambda tensor: _length(tensor, -1),
        lambda tensor: _length(tensor, 1),
    )
    for key in alike:
        groups: dict[object, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(key(tensor), []).append(tensor)
        if all(len(group) == levels for group in groups.values()):
            return list(groups.values())
    return None


def _length(tensor: Tensor, axis: int) -> tuple[int, int | None]:
    """Return the rank of a tensor, and the length of an axis, which all levels may share."""
    shape = tensor.shape or ()
    return len(shape), shape[axis] if len(shape) > 1 else None


def _fits(tensor: Tensor, columns: Sequence[str], images: int | None) -> bool:
    """Return whether a tensor can hold columns, by its rank, its lengths and its dtype.

    Args:
        tensor: an output of the file.
        columns: its columns.
        images: images in a batch; None: any number.
    """
    shape = tensor.shape
    if shape is None:
        return True
    whole = tensor.dtype.startswith(("int", "uint"))
    if columns == ("scores",) and tensor.dtype == "uint8":
        whole = False  # parts of 255
    if columns == ("count",):
        lengths = [length for length in shape if length not in (1, None)]
        return len(shape) <= 2 and (not lengths or (lengths == [images] and shape[0] == images))
    if columns in (("rest",), ("masks",), ("keypoints",)):
        return True
    if columns == ("prototypes",) or columns[0] in OF_IMAGE:
        return (
            len(shape)
            == {"prototypes": 4, "embedding": 2, "score_map": 4, "class_map": 3}[columns[0]]
        )
    if len(columns) == 1 and columns[0] in ("score", "class", "objectness"):
        if whole and columns[0] != "class":
            return False
        return len(shape) in (1, 2) or (len(shape) in (3, 4) and 1 in (shape[1], shape[-1]))
    if whole or len(shape) < 2:
        return False
    wide = [column for column in columns if column in WIDE]
    fixed = len(columns) - len(wide)
    own = shape[1:] if len(shape) > 2 else shape  # without the axis of images
    ends = [length for length in own[-3:] if length is not None]
    if None in own[-3:] or not ends:
        return True
    if wide:
        return max(ends) > fixed
    return fixed in ends


def _rating(tensor: Tensor, columns: Sequence[str]) -> int:
    """Return how well the name and the dtype of an output suit columns."""
    roles = set(columns)
    boxes = APART.get(frozenset(roles), "boxes")
    kinds = [boxes] if any(group & roles for group in BOXES) else []
    kinds += [name for name in HINTS if name in roles]
    name = tensor.name.lower()
    hits = [kind for kind in kinds if any(hint in name for hint in HINTS[kind])]
    rating = 2 * len(hits)
    if not hits and any(hint in name for hints in HINTS.values() for hint in hints):
        rating -= 1
    if roles == {"class"} and tensor.dtype.startswith("int"):
        rating += 3
    if roles == {"scores"} and "objectness" not in roles and _is_single(tensor):
        rating -= 1
    if roles == {"objectness"} and _is_single(tensor):
        rating += 1
    if roles in ({"rest"}, {"keypoints"}) and tensor.shape and tensor.shape[-1] in LANDMARKS:
        rating += 2
    return rating


def _is_single(tensor: Tensor) -> bool:
    return bool(tensor.shape) and tensor.shape is not None and tensor.shape[-1] == 1
