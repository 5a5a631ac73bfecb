"""The reading of a file that a card states: a preset, changed by the card, or everything by it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from models.card import Card
from models.errors import CardError, ContractError
from models.families.base import Reading
from models.families.presets import Preset, assign, presets
from models.families.raw_rows import width_of
from models.image_input import Pixels
from models.onnx_header import OnnxFile, Tensor
from models.output_layout import OutputLayout, problem
from models.struct_errors import explain

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
    return reading_by(file, layout, card.family, pixels_of(preset))


def reading_by(file: OnnxFile, layout: OutputLayout, name: str, pixels: Pixels) -> Reading:
    """Return the reading of a file by a layout, compared with the shapes of the file.

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
    return Reading(
        name=name,
        pixels=pixels,
        outputs=tuple(layout.outputs),
        classes=_classes(file, layout, tensors),
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


def _classes(file: OnnxFile, layout: OutputLayout, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes, without background: as stated, else by the shapes.

    Raises:
        ContractError: `classes` contradicts the file.
    """
    background = layout.background is not None
    wide = next((names for names in layout.outputs.values() if "scores" in names), None)
    found: int | None = None
    if wide is not None:
        tensor = next(tensors[n] for n, names in layout.outputs.items() if names == wide)
        found = _scores_in(tensor, wide, layout, _rows_of_boxes(layout, tensors))
    if found is None:
        return layout.classes
    if layout.classes is not None and layout.classes + background != found:
        raise ContractError(
            f"{file.path}: output.classes of its card contradicts the file (found "
            f"{layout.classes}, the file has {found - background}); remove it from the card"
        )
    return layout.classes or found - background


def _rows_of_boxes(layout: OutputLayout, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of rows of an output of boxes alone; None: it does not show."""
    for name, columns in layout.outputs.items():
        shape = tensors[name].shape
        width = width_of(columns, None, None)
        if width and width > 1 and shape is not None and len(shape) >= 2 and shape[-1] == width:
            return shape[-2] if len(shape) < 4 else None
    return None


def _scores_in(
    tensor: Tensor, columns: tuple[str, ...], layout: OutputLayout, rows: int | None
) -> int | None:
    """Return the numbers that `scores` stands for in an output; None: its shape does not show.

    Args:
        tensor: the output.
        columns: its columns.
        layout: layout of all outputs.
        rows: number of rows; None: unknown.
    """
    shape = tensor.shape
    anchors = len(layout.anchors[0]) if layout.anchors else 1
    if shape is None or "rest" in columns or "bins" in columns:
        return None
    others = width_of([name for name in columns if name != "scores"], None, None)
    if others is None:
        return None
    if len(shape) >= 4 and shape[-2] is not None and len(shape) == 4:
        sides = (shape[1], shape[3])
        known = [side for side in sides if side is not None and side % anchors == 0]
        # The two sides of a map are alike, or multiples of the grid; the channels are the other.
        lengths = [side // anchors for side in known]
        if shape[2] == 1:
            lengths = [shape[3]] if shape[3] is not None else []
        elif shape[1] is not None and shape[2] == shape[3]:
            lengths = [shape[1] // anchors]
        elif shape[3] is not None and shape[1] == shape[2]:
            lengths = [shape[3] // anchors]
    else:
        lengths = [side for side in shape[-2:] if side is not None]
        if len(lengths) < 2:
            lengths = [shape[-1]] if len(shape) and shape[-1] is not None else lengths
        if len(shape) == 5:
            lengths = [shape[-1]] if shape[-1] is not None else []
    if rows in lengths and len(lengths) > 1:
        lengths.remove(rows)
    fitting = [length - others for length in lengths if length > others]
    return min(fitting) if fitting else None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
