"""From a model file, and a card where there is one, to the contract."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from models import families, onnx_header
from models.card import MAX_SIDE_PX, Card, Task, Thresholds, label_set
from models.contract import Constant, Contract
from models.errors import CardError, ContractError
from models.families import stated
from models.families.base import Family, Reading
from models.families.generic import Generic
from models.families.keypoints import COCO17
from models.families.recognise import require_sure
from models.families.whole_image import OfImage
from models.image_input import WHOLE_DTYPES, ImageTensor, Input, Pixels, require_image
from models.metadata import input_size_in, names_in
from models.onnx_header import OnnxFile, sha256_of
from models.output_layout import BOX_TASKS, OutputLayout, task_of, without_details
from models.text import shown

IN_METADATA = {"pose": "keypoints", "obb": "oriented"}
"""Task in the metadata of Ultralytics -> its name here, where it has another."""
MAX_BATCH = 64
"""Images of a run of a model with a batch of a fixed length."""
IMAGE_DTYPES = ("uint8", "int32", "float32", "float16")
"""Dtypes of an input that are supported."""


def inspect(
    path: str | os.PathLike[str],
    card: Card | None = None,
    file: OnnxFile | None = None,
    tasks: Collection[str] = (),
) -> Contract:
    """Derive the contract of a model from its file, and from a card where there is one.

    Without a card, every family is asked whether it can read the outputs; what the file does not
    state (colour order, value range) has the family's default. 80 classes without names have the
    labels of COCO.

    Args:
        path: path of the model file.
        card: card of the model.
        file: header of the file, if it has been read already.
        tasks: tasks that are wanted, which decide between readings of a file; empty: any.

    Raises:
        ContractError: missing, not ONNX, no family fits, several do, or the card does not fit.
        CardError: the card names an unknown family, or the wrong task for it.
    """
    path = Path(path)
    if file is None:
        file = onnx_header.read(path)
    image = require_image(file)
    if image.batch is not None and image.batch > MAX_BATCH:
        raise ContractError(
            f"{path}: the model takes {image.batch} images at once (found {image.tensor}, at most "
            f"{MAX_BATCH}); export it with batch 1, or with an open batch"
        )
    if card is not None:
        name, reading = _reading_by_card(file, card)
    else:
        name, reading = _only_reading(file, tasks)
    task, layout = _task(file, name, reading, card)
    expected = _input(file, image, name, reading, card)
    return Contract(
        name=card.name if card else shown(path.stem),
        task=task,
        family=name,
        path=os.path.abspath(path),  # symlinks not resolved: the weights are beside the link
        size_bytes=file.size_bytes,
        sha256=sha256_of(path),
        input=expected,
        batch=image.batch,
        outputs=tuple(o for raw in reading.outputs for o in file.outputs if o.name == raw),
        classes=reading.classes,
        labels=_labels(file, reading, card),
        end_to_end=reading.end_to_end,
        layout=layout,
        constants=_constants(file, reading, expected, families.load(name)),
        thresholds=card.thresholds if card else Thresholds(),
        notes=_notes(file, task, reading.layout),
        licence=card.weights.licence if card else file.metadata.get("license"),
    )


def _notes(file: OnnxFile, task: str, given: OutputLayout | None) -> tuple[str, ...]:
    """Return facts that a user should know.

    Args:
        file: the model file.
        task: task of the contract.
        given: layout of all that the model gives.
    """
    notes = []
    if "ConvInteger" in file.ops:
        notes.append(
            "quantised dynamically to int8 (ConvInteger), which is slower than its float original "
            "on CPUs: 91 ms in place of 60 for a YOLOv8n of 640x640"
        )
    able = task if given is None else task_of(given)
    if task != able:
        more = {"segment": "masks", "keypoints": "keypoints", "oriented": "rotated boxes"}
        if able in more:
            notes.append(
                f"gives {more[able]} too, which are not used; set `task: {able}` in its card"
            )
    return tuple(notes)


def _task(
    file: OnnxFile, name: str, reading: Reading, card: Card | None
) -> tuple[Task, OutputLayout | None]:
    """Return the task of a model, and the layout of what is used of it.

    Raises:
        CardError: the card states a task that the outputs do not fit.
    """
    stated = None if card is None else card.task
    layout = reading.layout
    if layout is None:
        return families.load(name).task, None
    able: Task = msgspec.convert(task_of(layout), Task)
    if name == "localize":
        able = "localize"
    if stated in (None, able):
        return able, _with_names(layout)
    if stated == "detect" and able in BOX_TASKS:
        return "detect", without_details(layout)
    if stated == "localize" and able == "detect":
        return "localize", layout
    assert card is not None
    raise CardError(
        f"{file.path}: task in its card {card.name} does not match its outputs (found {stated}, "
        f"the outputs of family {name} are those of {able}); correct one of the two"
    )


def _is_coco17(layout: OutputLayout | None) -> bool:
    """Return whether the points are 17, which are those of a person in COCO."""
    return layout is not None and layout.keypoints.count == len(COCO17.names)


def _with_names(layout: OutputLayout) -> OutputLayout:
    """Return a layout with the names and edges of 17 points, where it states none."""
    points = layout.keypoints
    if points.names or points.edges or not _is_coco17(layout):
        return layout
    named = msgspec.structs.replace(points, names=COCO17.names, edges=COCO17.edges)
    return msgspec.structs.replace(layout, keypoints=named)


def _reading_by_card(file: OnnxFile, card: Card) -> tuple[str, Reading]:
    """Return the family that a card names, and how it reads the file."""
    name = card.family
    family = families.load(name)
    if issubclass(family, OfImage) and "outputs" not in card.output:
        found = family.recognise(file)
        if found is not None and card.task in (None, family.task):
            return name, stated.reading_with(file, card, found)
    if issubclass(family, Generic | OfImage):
        return name, stated.reading_of(file, card)
    if card.task not in (None, family.task):
        raise CardError(
            f"{file.path}: task in its card {card.name} does not match family {name} (found "
            f"{card.task}, the family has {family.task}); correct one of the two"
        )
    reading = family.recognise(file)
    if reading is None:
        raise ContractError(
            f"{file.path}: family {name} of its card {card.name} cannot read the outputs "
            f"(expected {family.raw}, found {file}); correct the family"
        )
    return name, reading


def _only_reading(file: OnnxFile, tasks: Collection[str]) -> tuple[str, Reading]:
    """Return the only family that can read the file, and how."""
    found = {name: families.load(name) for name in families.FAMILIES}
    of_file = file.metadata.get("task")
    of_file = IN_METADATA.get(of_file or "", of_file)
    able = {family.task for family in found.values()} | set(BOX_TASKS)
    if of_file is not None and of_file not in able:
        raise ContractError(
            f"{file.path}: no family for the task in its metadata (found {of_file}); use a model "
            f"with task {' or '.join(sorted(able))}"
        )
    wanted = {of_file} if of_file is not None else set(tasks)
    readings = {}
    for name, family in found.items():
        if of_file is not None and not _gives(family, {of_file}):
            continue
        reading = family.recognise(file)
        if reading is not None:
            readings[reading.name or name] = (family, reading)
    # A stage that takes one task only decides between readings; it does not rule out the only one.
    fitting = {key: own for key, own in readings.items() if not wanted or _gives(own[0], wanted)}
    left = fitting or readings
    if len(left) > 1:
        names = " or ".join(
            f"{name} ({reading.classes} classes)" if reading.classes else name
            for name, (_, reading) in left.items()
        )
        raise ContractError(
            f"{file.path}: the outputs can be read as {names}; choose in a card: {_card(file)}"
        )
    if not left:
        raise ContractError(
            f"{file.path}: no family can read the outputs (found {file}){_other_task(file)}; "
            "describe them in a card: run.py models inspect FILE --card"
        )
    name, (_, reading) = next(iter(left.items()))
    require_sure(file, name, reading)
    return name, reading


def _gives(family: type[Family[Any]], tasks: Collection[str]) -> bool:
    """Return whether a family can give one of some tasks."""
    own = set(BOX_TASKS) - {"localize"} if family is Generic else {family.task}
    return bool(own & set(tasks))


def _other_task(file: OnnxFile) -> str:
    """Return what a file looks like that is no detector; "" where it does not show."""
    shape = file.outputs[0].shape or ()
    height = require_image(file).size[1]
    if len(file.outputs) == 1 and len(shape) == 3 and height is not None and height <= 64:
        return "; looks like a text recogniser, one row of characters per column of the image"
    if len(file.outputs) == 1 and len(shape) == 4:
        return "; looks like a segmentation or a map of features"
    return ""


def _card(file: OnnxFile, family: str = "NAME", key: str | None = None) -> str:
    """Write the card that would settle a question, in one line."""
    part, _, key = (key or "").partition(".")
    rest = f", {part}: {{{key}: ...}}" if key else ""
    name = file.path.name
    return f"{{name: {file.path.stem}, family: {family}, weights: {{file: {name}}}{rest}}}"


def _input(
    file: OnnxFile, image: ImageTensor, family: str, reading: Reading, card: Card | None
) -> Input:
    """Combine the card, the file and the family's defaults into the model's input."""
    path = file.path
    stated: dict[str, Any] = {}
    if card is not None:
        fields = msgspec.structs.asdict(card.input)
        stated = {key: value for key, value in fields.items() if value is not None}
    found = {"dtype": image.tensor.dtype, "layout": image.layout}
    for key, value in found.items():
        if stated.get(key, value) != value:
            raise ContractError(
                f"{path}: input.{key} of its card does not match the file (found {stated[key]}, "
                f"the file has {value}); remove it from the card"
            )
    if image.tensor.dtype not in IMAGE_DTYPES:
        raise ContractError(
            f"{path}: unsupported dtype of images (found {image.tensor}); export the model with "
            f"{', '.join(IMAGE_DTYPES[:-1])} or {IMAGE_DTYPES[-1]}"
        )
    size = stated.pop("size", None) or _size(file, image, family)
    if any(own is not None and own != want for own, want in zip(image.size, size, strict=True)):
        own = "x".join(str(side or "any") for side in image.size)
        raise ContractError(
            f"{path}: input.size of its card does not match the file (found {list(size)}, the file "
            f"takes {own} only); remove it from the card"
        )
    usual = msgspec.structs.asdict(reading.pixels)
    if image.tensor.dtype in WHOLE_DTYPES:
        # Whole numbers hold pixels in only one way.
        plain = msgspec.structs.asdict(Pixels())
        values = [
            key for key in ("scale", "mean", "std") if stated.get(key, plain[key]) != plain[key]
        ]
        if values:
            raise ContractError(
                f"{path}: input.{values[0]} of its card has no use, because the model takes "
                f"{image.tensor.dtype} pixels without normalisation; remove it from the card"
            )
        for key in ("scale", "mean", "std"):
            del usual[key]
    return Input(name=image.tensor.name, size=size, batched=image.batched, **usual | found | stated)


def _constants(
    file: OnnxFile, reading: Reading, expected: Input, family: type[Family[Any]]
) -> tuple[Constant, ...]:
    """Return the inputs besides the image, with their values, but those that the family makes.

    Raises:
        ContractError: there is no value for one, or not as many numbers as it takes; or the family
            makes one and the model takes several images at once.
    """
    if family.makes and require_image(file).batch != 1:
        raise ContractError(
            f"{file.path}: family {reading.name} runs one image at once (found "
            f"{require_image(file).tensor}); export the model with batch 1"
        )
    width, height = expected.size
    values = {"size_hw": (height, width), "size_wh": (width, height)}
    found = []
    for tensor in file.inputs:
        if tensor.name in (expected.name, *family.makes):
            continue
        given = reading.inputs.get(tensor.name)
        if given is None:
            raise ContractError(
                f"{file.path}: no value for a further input (found {tensor}); set it in a card, "
                f"output: {{inputs: {{{tensor.name}: ones}}}}, or size_hw, size_wh, or numbers"
            )
        shape = tensor.shape or ()
        per_image = len(shape) > 1
        own = tuple(length or 1 for length in (shape[1:] if per_image else shape))
        count = math.prod(own)
        named = values.get(given, (1.0,) * count) if isinstance(given, str) else given
        if len(named) != count:
            raise ContractError(
                f"{file.path}: output.inputs.{tensor.name} of its card has {len(named)} numbers "
                f"(the file takes {tensor}); write {count}"
            )
        numbers = tuple(float(value) for value in named)
        found.append(Constant(tensor.name, tensor.dtype, own, numbers, per_image))
    return tuple(found)


def _size(file: OnnxFile, image: ImageTensor, family: str) -> tuple[int, int]:
    """Return width and height of the input in pixels, as the file states them."""
    width, height = image.size
    size = input_size_in(file.metadata) if width is None or height is None else (width, height)
    if size is None:
        raise ContractError(
            f"{file.path}: the size of the input is open in the file (found {image.tensor}); set "
            f"it in a card: {_card(file, family, 'input.size')}"
        )
    if not all(1 <= side <= MAX_SIDE_PX for side in size):
        raise ContractError(
            f"{file.path}: size of the input out of bounds (found {size[0]}x{size[1]}); export the "
            f"model with sides of 1 to {MAX_SIDE_PX} pixels"
        )
    return size


def _labels(file: OnnxFile, reading: Reading, card: Card | None) -> tuple[str, ...]:
    """Return the labels of the card, else of the file, else of COCO for 80 classes."""
    stated = card.labels if card is not None else None
    if reading.layout is not None and task_of(reading.layout) == "embed":
        return ()
    labels = label_set(stated) if isinstance(stated, str) else stated and tuple(map(shown, stated))
    if labels is None:
        labels = names_in(file.metadata)
    if labels is None:
        task = "detect" if reading.layout is None else task_of(reading.layout)
        if task == "keypoints" and reading.classes in (None, 1) and _is_coco17(reading.layout):
            return ("person",)
        return label_set("coco80") if reading.classes == 80 and task in BOX_TASKS else ()
    if reading.classes is not None and len(labels) != reading.classes:
        whose = "its card" if stated is not None else "its metadata"
        raise ContractError(
            f"{file.path}: the outputs have {reading.classes} classes, but {whose} has "
            f"{len(labels)} labels; set `labels` in a card"
        )
    return labels
