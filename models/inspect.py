"""From a model file, and a card where there is one, to the contract."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import msgspec

from models import families, onnx_header
from models.card import MAX_SIDE_PX, Card, Thresholds, label_set
from models.contract import Constant, Contract
from models.errors import CardError, ContractError
from models.families import stated
from models.families.base import Reading
from models.families.generic import Generic
from models.image_input import ImageTensor, Input, require_image
from models.metadata import input_size_in, names_in
from models.onnx_header import OnnxFile, sha256_of
from models.text import shown

WITH_BOXES = ("pose", "segment")
"""Tasks in metadata whose models find boxes too: they are read as detectors."""
MAX_BATCH = 64
"""Images of a run of a model with a batch of a fixed length."""
IMAGE_DTYPES = ("uint8", "float32", "float16")
"""Dtypes of an input that are supported."""


def inspect(
    path: str | os.PathLike[str], card: Card | None = None, file: OnnxFile | None = None
) -> Contract:
    """Derive the contract of a model from its file, and from a card where there is one.

    Without a card, every family is asked whether it can read the outputs; what the file does not
    state (colour order, value range) has the family's default. 80 classes without names have the
    labels of COCO.

    Args:
        path: path of the model file.
        card: card of the model.
        file: header of the file, if it has been read already.

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
    name, reading = _reading_by_card(file, card) if card is not None else _only_reading(file)
    expected = _input(file, image, name, reading, card)
    return Contract(
        name=card.name if card else shown(path.stem),
        task=families.load(name).task,
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
        layout=reading.layout,
        constants=_constants(file, reading, expected),
        thresholds=card.thresholds if card else Thresholds(),
        notes=_notes(file),
        licence=card.weights.licence if card else file.metadata.get("license"),
    )


def _notes(file: OnnxFile) -> tuple[str, ...]:
    notes = []
    if "ConvInteger" in file.ops:
        notes.append(
            "quantised dynamically to int8 (ConvInteger), which is slower than its float original "
            "on CPUs: 91 ms in place of 60 for a YOLOv8n of 640x640"
        )
    if file.metadata.get("task") in WITH_BOXES:
        more = {"pose": "keypoints", "segment": "masks"}[file.metadata["task"]]
        notes.append(f"gives {more} too, which are not used: only its boxes are")
    return tuple(notes)


def _reading_by_card(file: OnnxFile, card: Card) -> tuple[str, Reading]:
    """Return the family that a card names, and how it reads the file."""
    name = card.family
    family = families.load(name)
    if family.task != card.task:
        raise CardError(
            f"{file.path}: task in its card {card.name} does not match family {name} (found "
            f"{card.task}, the family has {family.task}); correct one of the two"
        )
    if issubclass(family, Generic):
        return name, stated.reading_of(file, card)
    reading = family.recognise(file)
    if reading is None:
        raise ContractError(
            f"{file.path}: family {name} of its card {card.name} cannot read the outputs "
            f"(expected {family.raw}, found {file}); correct the family"
        )
    return name, reading


def _only_reading(file: OnnxFile) -> tuple[str, Reading]:
    """Return the only family that can read the file, and how."""
    found = {name: families.load(name) for name in families.FAMILIES}
    task = file.metadata.get("task")
    if task in WITH_BOXES:
        task = "detect"
    tasks = {family.task for family in found.values()}
    if task is not None and task not in tasks:
        raise ContractError(
            f"{file.path}: no family for the task in its metadata (found {task}); use a model "
            f"with task {' or '.join(sorted(tasks))}"
        )
    readings = {
        reading.name or name: reading
        for name, family in found.items()
        if task in (None, family.task) and (reading := family.recognise(file)) is not None
    }
    if len(readings) > 1:
        names = " or ".join(
            f"{name} ({reading.classes} classes)" for name, reading in readings.items()
        )
        raise ContractError(
            f"{file.path}: the outputs can be read as {names}; choose in a card: {_card(file)}"
        )
    if not readings:
        guess = _other_task(file)
        raise ContractError(
            f"{file.path}: no family can read the outputs (found {file}){guess}; describe them in "
            "a card: run.py models inspect FILE --card"
        )
    return next(iter(readings.items()))


def _other_task(file: OnnxFile) -> str:
    """Return what a file looks like that is no detector; "" where it does not show."""
    shape = file.outputs[0].shape or ()
    height = require_image(file).size[1]
    if len(file.outputs) == 1 and len(shape) == 2:
        return f"; looks like a classifier or an embedding of {shape[1]} numbers"
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
    if image.tensor.dtype == "uint8":
        # Bytes hold pixels in only one way.
        values = [key for key in ("scale", "mean", "std") if key in stated]
        if values:
            raise ContractError(
                f"{path}: input.{values[0]} of its card has no use, because the model takes uint8 "
                "pixels without normalisation; remove it from the card"
            )
        for key in ("scale", "mean", "std"):
            del usual[key]
    return Input(name=image.tensor.name, size=size, batched=image.batched, **usual | found | stated)


def _constants(file: OnnxFile, reading: Reading, expected: Input) -> tuple[Constant, ...]:
    """Return the inputs besides the image, with their values.

    Raises:
        ContractError: there is no value for one, or not as many numbers as it takes.
    """
    width, height = expected.size
    values = {"size_hw": (height, width), "size_wh": (width, height)}
    found = []
    for tensor in file.inputs:
        if tensor.name == expected.name:
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
    labels = label_set(stated) if isinstance(stated, str) else stated and tuple(map(shown, stated))
    if labels is None:
        labels = names_in(file.metadata)
    if labels is None:
        return label_set("coco80") if reading.classes == 80 else ()
    if reading.classes is not None and len(labels) != reading.classes:
        whose = "its card" if stated is not None else "its metadata"
        raise ContractError(
            f"{file.path}: the outputs have {reading.classes} classes, but {whose} has "
            f"{len(labels)} labels; set `labels` in a card"
        )
    return labels
