"""From a model file, and its card if it has one, to all that is needed to use it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from models import families, onnx_header
from models.card import (
    MAX_SIDE,
    Anchor,
    Card,
    Colour,
    InputDtype,
    Layout,
    Resize,
    Task,
    Thresholds,
    label_set,
)
from models.errors import CardError, ContractError
from models.files import open_file
from models.metadata import input_size_in, names_in
from models.onnx_header import MAX_BYTES, OnnxFile, Tensor
from models.text import shown


class Pixels(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture is made into a model's input, apart from its size."""

    resize: Resize = "letterbox"
    anchor: Anchor = "centre"
    pad: int = 114
    colour: Colour = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The model sees (pixel * scale - mean) / std, per channel in the order of `colour`."""


class Input(Pixels, frozen=True, kw_only=True):
    """What the model wants to see."""

    name: str
    size: tuple[int, int]
    """Width and height in pixels."""
    dtype: InputDtype
    layout: Layout

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array for one picture."""
        width, height = self.size
        return (1, height, width, 3) if self.layout == "nhwc" else (1, 3, height, width)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read a model file: what a family makes of it."""

    pixels: Pixels
    outputs: tuple[str, ...]
    """Names, in the order in which the family's `decode` takes them."""
    classes: int | None
    """How many; None: the file does not say."""
    end_to_end: bool = False
    """Whether overlapping boxes have been suppressed inside the graph."""
    sizes_input: str | None = None
    """Name of a second input, int64 (batch, 2), that takes the input's width and height."""
    unsure: dict[str, str] = {}
    """Key of a card's `input` -> why the file leaves it open."""


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, checked against its file."""

    name: str
    task: Task
    family: str
    path: str
    """Of the model file, absolute."""
    size_bytes: int
    """Of that file, and of those beside it that hold its weights."""
    sha256: str
    input: Input
    batch: int | None
    """Pictures that the model takes at once; None: any number."""
    outputs: tuple[Tensor, ...]
    """In the order in which the family's `decode` takes them."""
    classes: int | None
    """How many the outputs tell apart; None: not said."""
    labels: tuple[str, ...]
    """Names of the classes; empty: not known."""
    end_to_end: bool
    """Whether overlapping boxes have been suppressed inside the graph."""
    sizes_input: str | None = None
    """Name of a second input, int64 (batch, 2), that takes the input's width and height."""
    thresholds: Thresholds
    licence: str | None = None

    def describe(self) -> str:
        """What a person wants to know of it, a line each."""
        see = self.input
        values = f"pixel * {see.scale:.6g}" if see.scale != 1 else "pixel"
        if any(see.mean) or see.std != (1, 1, 1):
            values = f"({values} - {list(see.mean)}) / {list(see.std)}"
        fitted = see.resize
        if see.resize == "letterbox":
            fitted = f"letterbox ({see.anchor}, {see.pad})"  # type: ignore[assignment]
        names = ", ".join(self.labels[:4]) + (", ..." if len(self.labels) > 4 else "")
        rows = {
            "model": self.name,
            "file": self.path,
            "sha256": self.sha256,
            "licence": self.licence or "not said",
            "task": self.task,
            "family": self.family + (", suppressed in the graph" if self.end_to_end else ""),
            "input": f"{shown(see.name, 60)} {see.dtype} {see.layout} {see.size[0]}x{see.size[1]}, "
            f"{fitted}, {see.colour} {values}",
            "batch": self.batch or "any",
            "outputs": ", ".join(map(str, self.outputs)),
            "limits": ", ".join(
                f"{key} {value:.6g}"
                for key, value in msgspec.structs.asdict(self.thresholds).items()
                if value is not None
            )
            or "not said",
            "labels": f"{len(self.labels)}: {names}" if self.labels else "not known",
        }
        return "\n".join(f"{name:<8} {shown(value)}" for name, value in rows.items())


class Image(NamedTuple):
    """The input that takes the picture."""

    tensor: Tensor
    layout: Layout
    size: tuple[int | None, int | None]
    """Width and height in pixels; None: any."""
    batch: int | None


def image_input(file: OnnxFile) -> Image | None:
    """The first input that can take a colour picture."""
    for tensor in file.inputs:
        shape = tensor.shape
        if shape is None or len(shape) != 4:
            continue
        if shape[1] == 3:
            return Image(tensor, "nchw", (shape[3], shape[2]), shape[0])
        if shape[3] == 3:
            return Image(tensor, "nhwc", (shape[2], shape[1]), shape[0])
    return None


def grid_cells(file: OnnxFile, strides: tuple[int, ...] = (8, 16, 32)) -> int | None:
    """Cells of all grids over the input; None where the size of the input is open."""
    image = image_input(file)
    if image is None:
        return None
    width, height = image.size
    if width is None or height is None:
        return None
    return sum((width // s) * (height // s) for s in strides)


def sha256_of(path: Path) -> str:
    """Hash of a file.

    Raises:
        ContractError: it cannot be read.
    """
    try:
        with open_file(path, "model", MAX_BYTES, ContractError) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContractError(f"{path}: the model cannot be read: {error.strerror}") from None


def inspect(
    path: str | os.PathLike[str], card: Card | None = None, file: OnnxFile | None = None
) -> Contract:
    """Work out what a model is from its file, and from a card where there is one.

    Without a card, the families are asked which of them can read the outputs; what the file
    leaves open (colour order, value range) is as usual for the family. Where there are 80 classes
    without names they are taken for those of COCO.

    Args:
        path: of the model file.
        card: what else is known of it.
        file: what the file says about itself, if it has been read already.

    Raises:
        ContractError: missing, not ONNX, no family fits, several do, or the card does not fit.
    """
    path = Path(path)
    if file is None:
        file = onnx_header.read(path)
    image = image_input(file)
    if image is None:
        raise ContractError(
            f"{path}: expected an input for pictures (4 sides, one of them 3), found {file}"
        )
    if image.batch not in (1, None):
        raise ContractError(
            f"{path}: expected a model that takes one picture at a time, or any number; this one "
            f"takes {image.batch} ({image.tensor}): export it with batch 1"
        )
    if card is None:
        family, reading = _only_reading(file)
    else:
        if card.family not in families.FAMILIES:
            known = ", ".join(families.FAMILIES)
            raise CardError(
                f"{path}: its card {card.name}: no family is called {card.family!r}; known: {known}"
            )
        family = card.family
        fitting = families.load(family).recognise(file)
        if fitting is None:
            raise ContractError(
                f"{path}: its card {card.name} says {family}, whose outputs are "
                f"{families.FAMILIES[family].outputs}; found {file}"
            )
        reading = fitting
    given = (image.tensor.name, reading.sizes_input)
    more = [str(tensor) for tensor in file.inputs if tensor.name not in given]
    if more:
        raise ContractError(
            f"{path}: expected no input but the picture for {family}, found {', '.join(more)}"
        )
    return Contract(
        name=card.name if card else shown(path.stem),
        task=card.task if card else "detect",
        family=family,
        path=os.path.abspath(path),  # not resolved: a link's weights are beside the link
        size_bytes=file.size_bytes,
        sha256=sha256_of(path),
        input=_input(path, file, image, family, reading, card),
        batch=image.batch,
        outputs=tuple(o for name in reading.outputs for o in file.outputs if o.name == name),
        classes=reading.classes,
        labels=_labels(path, file, reading, card),
        end_to_end=reading.end_to_end,
        sizes_input=reading.sizes_input,
        thresholds=card.thresholds if card else Thresholds(),
        licence=card.weights.licence if card else file.metadata.get("license"),
    )


def _only_reading(file: OnnxFile) -> tuple[str, Reading]:
    task = file.metadata.get("task", "detect")
    if task != "detect":
        raise ContractError(
            f"{file.path}: expected a model that detects, found one whose metadata says task {task}"
        )
    found = {name: families.load(name).recognise(file) for name in families.FAMILIES}
    readings = {name: reading for name, reading in found.items() if reading is not None}
    if len(readings) > 1:
        names = " or ".join(
            f"{name} ({reading.classes} classes)" for name, reading in readings.items()
        )
        raise ContractError(
            f"{file.path}: the outputs can be read as {names}; say which in a card: {_card(file)}"
        )
    if not readings:
        shape = file.outputs[0].shape or ()
        guess = ""
        if len(file.outputs) == 1 and len(shape) == 2:
            guess = f"; it looks like a classifier or an embedding of {shape[1]} numbers"
        raise ContractError(
            f"{file.path}: expected the outputs of a detector ({', '.join(families.FAMILIES)}), "
            f"found {file}{guess}"
        )
    return next(iter(readings.items()))


def _card(file: OnnxFile, family: str = "NAME", key: str | None = None) -> str:
    """A card that settles a question."""
    rest = f", input: {{{key}: ...}}" if key else ""
    name = file.path.name
    return f"{{name: {file.path.stem}, family: {family}, weights: {{file: {name}}}{rest}}}"


def _input(
    path: Path, file: OnnxFile, image: Image, family: str, reading: Reading, card: Card | None
) -> Input:
    said: dict[str, Any] = {}
    if card is not None:
        fields = msgspec.structs.asdict(card.input)
        said = {key: value for key, value in fields.items() if value is not None}
    for key, why in reading.unsure.items():
        if key not in said:
            raise ContractError(f"{path}: {why}; say which in a card: {_card(file, family, key)}")
    found = {"dtype": image.tensor.dtype, "layout": image.layout}
    for key, value in found.items():
        if said.get(key, value) != value:
            raise ContractError(
                f"{path}: its card says input.{key}: {said[key]}, the file says {value}"
            )
    if image.tensor.dtype not in ("uint8", "float32", "float16"):
        raise ContractError(
            f"{path}: expected pictures as uint8, float32 or float16, found {image.tensor}"
        )
    size = said.pop("size", None) or _size(path, file, image, family)
    if any(own is not None and own != asked for own, asked in zip(image.size, size, strict=True)):
        own = "x".join(str(side or "any") for side in image.size)
        raise ContractError(
            f"{path}: its card says input.size: {list(size)}, the file takes {own} only"
        )
    usual = msgspec.structs.asdict(reading.pixels)
    if image.tensor.dtype == "uint8":
        # There is only one way to show pixels as bytes.
        values = [key for key in ("scale", "mean", "std") if key in said]
        if values:
            raise ContractError(
                f"{path}: its card gives input.{values[0]}, but the model takes uint8 pixels as "
                "they are"
            )
        for key in ("scale", "mean", "std"):
            del usual[key]
    return Input(name=image.tensor.name, size=size, **usual | found | said)


def _size(path: Path, file: OnnxFile, image: Image, family: str) -> tuple[int, int]:
    width, height = image.size
    size = input_size_in(file.metadata) if width is None or height is None else (width, height)
    if size is None:
        raise ContractError(
            f"{path}: the file leaves the size of its input open ({image.tensor}); "
            f"say which in a card: {_card(file, family, 'size')}"
        )
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ContractError(
            f"{path}: expected an input of 1 to {MAX_SIDE} pixels a side, found {size[0]}x{size[1]}"
        )
    return size


def _labels(path: Path, file: OnnxFile, reading: Reading, card: Card | None) -> tuple[str, ...]:
    said = card.labels if card is not None else None
    labels = label_set(said) if isinstance(said, str) else said and tuple(map(shown, said))
    if labels is None:
        labels = names_in(file.metadata)
    if labels is None:
        return label_set("coco80") if reading.classes == 80 else ()
    if reading.classes is not None and len(labels) != reading.classes:
        whose = "its card" if said is not None else "its metadata"
        raise ContractError(
            f"{path}: {whose} names {len(labels)} classes, the outputs tell {reading.classes} apart"
        )
    return labels
