"""The reading of a file that a card states: a preset, changed by the card, or everything by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from models.card import Card
from models.errors import CardError, ContractError
from models.families.base import Reading
from models.families.presets import Preset, assign, presets
from models.families.stated_shapes import check_shapes, classes_in, labels_of
from models.families.whole_image import classes_of_image
from models.image_input import Pixels
from models.layout_problems import problem
from models.onnx_header import OnnxFile
from models.output_layout import BOX_TASKS, OutputLayout, task_of
from models.struct_errors import explain
from models.text import close_match

GENERIC = "generic"
"""Family of a card whose `output` states everything."""


def reading_of(file: OnnxFile, card: Card) -> Reading:
    """Return how a card has the outputs of a file read.

    Raises:
        CardError: the family is unknown, or `output` contradicts itself.
        ContractError: the file has not the outputs that the card names.
    """
    preset = Preset(()) if card.family == GENERIC else presets().get(card.family)
    if preset is None:
        raise CardError(
            f"{file.path}: unknown family in its card {card.name} (found {card.family!r})"
            f"{_did_you_mean(card.family, presets())}; known families: {GENERIC}, "
            f"{', '.join(presets())}"
        )
    own = dict(card.output)
    if own.pop("outputs", None) is not None:
        outputs = card.output["outputs"]
    elif card.family == GENERIC:
        raise CardError(
            f"{file.path}: output.outputs is missing in its card {card.name}; family generic needs "
            f"the columns of each output (found {file})"
        )
    else:
        outputs = _assigned(file, card, preset)
    layout = _layout(file, card, preset, outputs, own)
    reading = reading_by(file, layout, card.family, pixels_of(preset), card)
    if task_of(layout) in BOX_TASKS:
        check_shapes(file, layout, reading.classes)
    return reading


def reading_with(file: OnnxFile, card: Card, found: Reading) -> Reading:
    """Return how a file that its family recognises is read with a card.

    What the card does not state is as the file shows it: a graph that ends in softmax, for example,
    gives scores already.

    Args:
        file: the model file.
        card: card of the model, without `output.outputs`.
        found: reading of the file without the card.

    Raises:
        CardError: `output` contradicts itself.
    """
    assert found.layout is not None
    shown = {key: getattr(found.layout, key) for key in ("activation", "background")}
    if shown["background"] is not None and labels_of(file, card) == (found.classes or 0) + 1:
        shown["background"] = None  # the labels name it too
    layout = _layout(
        file, card, presets()[card.family], found.layout.outputs, {**shown, **card.output}
    )
    return reading_by(file, layout, card.family, found.pixels, card)


def reading_by(
    file: OnnxFile, layout: OutputLayout, name: str, pixels: Pixels, card: Card | None = None
) -> Reading:
    """Return the reading of a file by a layout, compared with the shapes of the file.

    Args:
        file: the model file.
        layout: layout of its outputs.
        name: name of the kind of model.
        pixels: defaults for the preparation of images.
        card: card of the model; its labels and its size of the input help to read the shapes.

    Raises:
        ContractError: the file has not the outputs or inputs of the layout.
    """
    tensors = {tensor.name: tensor for tensor in file.outputs}
    for output in layout.outputs:
        if output not in tensors:
            raise ContractError(
                f"{file.path}: output.outputs of its card names an output that the file does not "
                f"have (found {output!r}, the file has {', '.join(tensors)})"
                f"{_did_you_mean(output, tensors)}"
            )
    known = {tensor.name for tensor in file.inputs}
    if task_of(layout) in BOX_TASKS:
        classes = classes_in(file, layout, card)
    else:
        classes = classes_of_image(layout, file)
    return Reading(
        name=name,
        pixels=pixels,
        outputs=tuple(layout.outputs),
        classes=classes,
        layout=layout,
        end_to_end=layout.end_to_end,
        inputs={key: value for key, value in layout.inputs.items() if key in known},
    )


def pixels_of(preset: Preset) -> Pixels:
    """Return the preparation of images of a preset."""
    fields = msgspec.structs.asdict(preset.input)
    stated = {key: value for key, value in fields.items() if value is not None}
    return Pixels(
        **{key: value for key, value in stated.items() if key in Pixels.__struct_fields__}
    )


def _assigned(file: OnnxFile, card: Card, preset: Preset) -> dict[str, tuple[str, ...]]:
    ways = assign(preset.outputs, preset.levels, file.outputs)
    columns = "; ".join(" ".join(names) for names in preset.outputs)
    if not ways:
        raise ContractError(
            f"{file.path}: the outputs are not those of family {card.family} of its card "
            f"{card.name} (found {file}, expected {columns}); correct the family, or state "
            "`output.outputs`"
        )
    if len(ways) > 1:
        raise ContractError(
            f"{file.path}: its outputs can be those of family {card.family} in {len(ways)} ways "
            f"(found {file}); state `output.outputs` in its card {card.name}, with the columns "
            f"{columns}"
        )
    return dict(ways[0])


def _layout(
    file: OnnxFile,
    card: Card,
    preset: Preset,
    outputs: Any,
    own: Mapping[str, Any],
) -> OutputLayout:
    try:
        layout = preset.layout(outputs, own)
    except msgspec.ValidationError as error:
        text = explain(error, OutputLayout, "output")
        raise CardError(f"{file.path}: {text} (card {card.name})") from None
    wrong = problem(layout)
    if wrong is not None:
        raise CardError(f"{file.path}: output.{wrong} (card {card.name})")
    return layout


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = close_match(name, known)
    return f"; did you mean {close!r}?" if close else ""
