"""Recognition of a detector: metadata first, then layers and operations, then shapes.

The rules (`recognise_rows.py`, `recognise_parts.py`) return every reading that fits. A file with
several is not read, nor one with a reading that needs to know more: the message names both, and the
keys of a card that decide.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from models.errors import ContractError
from models.families import evidence
from models.families.base import Reading
from models.families.clues import Clues, Guess
from models.families.presets import presets
from models.families.raw_rows import width_of
from models.families.recognise_parts import many_outputs, three_outputs, two_outputs
from models.families.recognise_rows import one_output
from models.families.stated import pixels_of, reading_by
from models.image_input import WHOLE_DTYPES, image_tensor
from models.metadata import names_in, pair_in
from models.onnx_header import OnnxFile
from models.onnx_trace import read
from models.output_layout import widths_of

RULES = {1: one_output, 2: two_outputs, 3: three_outputs}
"""Number of outputs -> the rules for them."""


class Found(NamedTuple):
    """A reading of a file, and the guess that it comes from."""

    guess: Guess
    reading: Reading


def survey(file: OnnxFile) -> list[Found]:
    """Return every reading of a file as a detector, also those that need to know more."""
    image = image_tensor(file)
    if image is None:
        return []
    names = names_in(file.metadata)
    clues = Clues(
        file,
        read(file.path),
        image,
        None if names is None else len(names),
        "RTDETR" in file.metadata.get("head", ""),
        pair_in(file.metadata, "kpt_shape"),
        bool({"names", "stride", "imgsz"} & set(file.metadata)),
    )
    guesses = RULES.get(len(file.outputs), many_outputs)(clues)
    return [Found(guess, _reading(clues, guess)) for guess in guesses]


def recognise(file: OnnxFile) -> Reading | None:
    """Return the only reading of a file as a detector; None: there is none.

    Raises:
        ContractError: several readings fit, or the only one needs to know more.
    """
    found = survey(file)
    if not found:
        return None
    if len(found) > 1:
        readings = ", or as ".join(
            f"{guess.preset} ({guess.about})" if guess.about else guess.preset for guess, _ in found
        )
        raise ContractError(
            f"{file.path}: the outputs can be read as {readings}; choose in a card: run.py "
            "models inspect FILE --card"
        )
    reading = found[0].reading
    require_sure(file, str(reading.name), reading)
    return reading


def require_sure(file: OnnxFile, name: str, reading: Reading) -> None:
    """Refuse a reading that needs to know more than the file states.

    Raises:
        ContractError: it does.
    """
    if reading.unsure:
        keys = " and ".join(reading.unsure)
        are = "are" if len(reading.unsure) > 1 else "is"
        raise ContractError(
            f"{file.path}: read as {name}, but {keys} {are} not in the file "
            f"({'; '.join(reading.unsure.values())}); complete a card: run.py models inspect FILE "
            "--card"
        )


def _reading(clues: Clues, guess: Guess) -> Reading:
    """Make the reading of a guess, with the preparation of images that the graph shows."""
    preset = presets()[guess.preset]
    layout = preset.layout(guess.outputs, guess.changes)
    pixels = pixels_of(preset)
    reading = reading_by(clues.file, layout, guess.preset, pixels)
    activation = _activation(clues, reading)
    if activation not in (None, layout.activation):
        layout = msgspec.structs.replace(layout, activation=activation)
        reading = msgspec.structs.replace(reading, layout=layout)
    classes = reading.classes or clues.labels
    inside = evidence.prepared(clues.trace, clues.image.tensor.name)
    unsure = dict(guess.unsure)
    if inside.pixel_range is not None:
        unsure.pop("input.scale", None)
        scale = 1.0 if inside.pixel_range == 255 else 1 / 255
        pixels = msgspec.structs.replace(pixels, scale=scale, mean=(0, 0, 0), std=(1, 1, 1))
    if inside.reversed:
        pixels = msgspec.structs.replace(pixels, colour={"rgb": "bgr", "bgr": "rgb"}[pixels.colour])
    if clues.image.tensor.dtype in WHOLE_DTYPES:
        unsure.pop("input.scale", None)
    return msgspec.structs.replace(reading, pixels=pixels, unsure=unsure, classes=classes)


def _activation(clues: Clues, reading: Reading) -> str | None:
    """Return the activation that the scores still need; None: the graph does not show it.

    A layer of scores gives a multiple of the classes, with the background if there is one; one that
    gives whole rows, a multiple of their width.
    """
    layout, classes = reading.layout, reading.classes
    assert layout is not None, "a reading of a detector has a layout"
    if classes is None or layout.activation == "softmax":
        return None
    numbers = classes + (layout.background is not None)
    tensors = {tensor.name: tensor for tensor in clues.file.outputs}
    found: list[evidence.Head] = []
    for name, columns in layout.outputs.items():
        if "scores" not in columns:
            continue
        heads = [head for head in clues.heads(tensors[name]) if head.channels is not None]
        width = width_of(columns, numbers, None, widths_of(layout)) or numbers
        exact = [head for head in heads if head.channels == numbers]
        rows = [head for head in heads if (head.channels or 0) % width == 0]
        found += exact or rows or [head for head in heads if (head.channels or 0) % numbers == 0]
    if numbers == 1 or not found:
        return None
    active = [bool(evidence.ACTIVATIONS & head.marks) for head in found]
    return "none" if all(active) else None if any(active) else "sigmoid"
