"""A card for a model file, with comments: everything known, and a question for the rest.

`run.py models inspect FILE --card` prints it. What the file states is not repeated, so that a card
stays right when the model is exported again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from models import families, onnx_header
from models.families.base import Reading
from models.families.generic import Generic
from models.families.presets import assign, presets
from models.families.recognise import Found, survey
from models.families.table import SIDES
from models.image_input import WHOLE_DTYPES, ImageTensor, Pixels, require_image
from models.metadata import input_size_in, names_in
from models.onnx_header import OnnxFile, Tensor
from models.output_layout import BOXES, DETAILS, OF_IMAGE, OTHERS, task_of

WIDTH = 100
"""Length of a line in characters."""
PLAIN = Pixels()
OTHER_COLUMNS = (*OTHERS, *DETAILS, *OF_IMAGE)


class Line(NamedTuple):
    """A line of a card."""

    text: str
    comment: str = ""


def card_for(path: Path) -> str:
    """Write a card for a model file.

    Raises:
        ContractError: it is no model file, or takes no image.
    """
    file = onnx_header.read(path)
    image = require_image(file)
    found = survey(file)
    whole = None if found else _about_image(file)
    reading = found[0].reading if found else whole and whole[1]
    lines = [
        Line("", f"Card of {path.name}: {file}"),
        Line("", "Check every line that ends in a question mark, then try it:"),
        Line("", f"  run.py models inspect {card_name(path)}.yaml --try IMAGE"),
        Line(f"name: {card_name(path)}"),
        Line(f"weights: {{file: {_quoted(path.name)}}}"),
    ]
    if found:
        lines += _recognised(file, found)
    elif whole is not None:
        lines += _of_image(file, *whole)
    else:
        lines += _unknown(file)
    lines += _input(file, image, reading)
    lines += _labels(file, reading)
    return "\n".join(_formatted(lines)) + "\n"


def _about_image(file: OnnxFile) -> tuple[str, Reading] | None:
    """Return the family that reads a file as about the whole image, and how; None: there is none.

    Where several do, that of the most frequent task.
    """
    for name, place in families.FAMILIES.items():
        family = families.load(name)
        if family is Generic or not place.startswith("models."):
            continue
        reading = family.recognise(file)
        if reading is not None:
            return name, reading
    return None


def _of_image(file: OnnxFile, family: str, reading: Reading) -> list[Line]:
    """Write the layout of a file that answers about the whole image."""
    layout = reading.layout
    assert layout is not None, "these families decode by a layout"
    comment = "or classify, embed, semantic, localize: docs/cards.md?"
    lines = [Line(f"family: {family}", comment), Line("output:"), Line("  outputs:")]
    for tensor in file.outputs:
        if tensor.name in layout.outputs:
            columns = ", ".join(layout.outputs[tensor.name])
            lines.append(Line(f"    {_quoted(tensor.name)}: [{columns}]", _of_tensor(tensor)))
    if family == "localize":
        lines.append(Line(f"  units: {layout.units}", "pixels of the input, or fraction: 0 to 1?"))
    if family != "embed":
        why = "none if scores are 0 to 1; sigmoid or softmax if logits?"
        lines.append(Line(f"  activation: {layout.activation}", why))
    if family == "classify":
        why = "column of scores for no class: 0 the first, -1 the last?"
        lines.append(Line(f"  background: {_yaml(layout.background)}", why))
    return lines


def card_name(path: Path) -> str:
    """Return a name for the card of a file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).lstrip("._-")
    return name[:100] or "model"


def _recognised(file: OnnxFile, found: Sequence[Found]) -> list[Line]:
    guess, reading = found[0]
    lines = []
    if len(found) > 1:
        lines.append(Line("", "The outputs can be read in several ways. Which is right?"))
        lines += [
            Line("", f"  {other.guess.preset}, {_yaml_outputs(other)}: {other.guess.about}")
            for other in found
        ]
    lines.append(Line(f"family: {guess.preset}"))
    assert reading.layout is not None, "a reading of a detector has a layout"
    lines.append(Line("output:"))
    lines.append(Line("  outputs:"))
    for tensor in file.outputs:
        columns = reading.layout.outputs.get(tensor.name)
        if columns is not None:
            text = f"    {_quoted(tensor.name)}: [{', '.join(columns)}]"
            lines.append(Line(text, _of_tensor(tensor)))
    changes = dict(guess.changes)
    if reading.layout.activation != presets()[guess.preset].output.get("activation", "none"):
        changes["activation"] = reading.layout.activation
    for key, value in changes.items():
        lines.append(Line(f"  {key}: {_yaml(value)}"))
    for key, why in reading.unsure.items():
        if key.startswith("output.") and key != "output.outputs":
            name = key.partition(".")[2]
            value = _yaml(getattr(reading.layout, name))
            lines.append(Line(f"  {name}: {value}", f"{why}?"))
        elif key == "output.outputs":
            lines.append(Line("", f"  {why}?"))
    return lines


def _yaml_outputs(found: Found) -> str:
    parts = (f"{name}: [{', '.join(columns)}]" for name, columns in found.guess.outputs.items())
    return f"outputs {{{', '.join(parts)}}}"


def _unknown(file: OnnxFile) -> list[Line]:
    """Write the layout of a file that is not recognised, for a person to complete."""
    boxes = "; ".join(" ".join(_in_order(columns)) for columns in BOXES)
    lines = [
        Line("", "No known kind fits. Name one (docs/cards.md), or describe each output:"),
        *(Line("", f"  {text}") for text in _wrapped(f"boxes: {boxes}")),
        *(
            Line("", f"  {text}")
            for text in _wrapped(f"others: {', '.join((*OTHERS, *DETAILS, *OF_IMAGE))}")
        ),
    ]
    fitting = [
        name
        for name, preset in presets().items()
        if assign(preset.outputs, preset.levels, file.outputs)
    ]
    if fitting:
        lines += [
            Line("", text) for text in _wrapped(f"Kinds of these shapes: {', '.join(fitting)}")
        ]
    lines += [Line("family: generic"), Line("output:"), Line("  outputs:")]
    for tensor in file.outputs:
        lines.append(
            Line(
                f"    {_quoted(tensor.name)}: [{', '.join(_columns(tensor))}]",
                f"{_of_tensor(tensor)}?",
            )
        )
    lines += [
        Line("  units: pixels", "pixels of the input, or fraction: 0 to 1?"),
        Line("  activation: none", "none if scores are 0 to 1; sigmoid or softmax if logits?"),
        Line("  background: null", "column of scores for no object: 0 the first, -1 the last?"),
        Line("  class_offset: 0", "number of the first class in a column `class`?"),
        Line("  end_to_end: false", "true if the model itself suppresses overlapping boxes?"),
    ]
    return lines


def _columns(tensor: Tensor) -> list[str]:
    """Return columns that an output may have, by its shape."""
    shape = tensor.shape or ()
    width = shape[-1] if shape else None
    if tensor.dtype.startswith(("int", "uint")):
        return ["class"]
    if len(shape) <= 2:
        return ["score"]
    if width == 4:
        return ["x1", "y1", "x2", "y2"]
    if width == 6:
        return ["x1", "y1", "x2", "y2", "score", "class"]
    return ["cx", "cy", "w", "h", "scores"] if width != 2 else ["scores"]


def _input(file: OnnxFile, image: ImageTensor, reading: Reading | None) -> list[Line]:
    pixels = PLAIN if reading is None else reading.pixels
    sure = reading is not None and "input.scale" not in reading.unsure
    lines = [Line("input:")]
    width, height = image.size
    if width is None or height is None:
        stated = input_size_in(file.metadata)
        shown = list(stated or (640, 640))
        why = "from the metadata" if stated else "width and height, open in the file?"
        lines.append(Line(f"  size: {shown}", why))
    lines.append(
        Line(
            f"  resize: {pixels.resize}",
            "letterbox and crop keep the aspect ratio, stretch does not?",
        )
    )
    if pixels.resize == "letterbox":
        lines.append(Line(f"  anchor: {pixels.anchor}", "place of the image: centre or top_left?"))
    lines.append(Line(f"  colour: {pixels.colour}", "rgb or bgr?"))
    if image.tensor.dtype not in WHOLE_DTYPES:
        comment = "1: pixels from 0 to 255; 0.00392157: from 0 to 1"
        lines.append(Line(f"  scale: {pixels.scale:.9g}", comment + ("" if sure else "?")))
        if any(pixels.mean) or pixels.std != PLAIN.std:
            lines.append(Line(f"  mean: {list(pixels.mean)}", "(pixel * scale - mean) / std?"))
            lines.append(Line(f"  std: {list(pixels.std)}"))
    return lines


def _labels(file: OnnxFile, reading: Reading | None) -> list[Line]:
    classes = None if reading is None else reading.classes
    if names_in(file.metadata) is not None:
        return [Line("", "labels: those in the metadata of the file")]
    if classes == 80:
        return [Line("labels: coco80", "the 80 classes of COCO?")]
    if reading is not None and reading.layout is not None and task_of(reading.layout) == "embed":
        return []
    count = "unknown number of" if classes is None else str(classes)
    return [Line("", f"labels: [first, second, ...]   # {count} classes; a list, or a text file")]


def _of_tensor(tensor: Tensor) -> str:
    lengths = ",".join(str(length or "?") for length in tensor.shape or ("?",))
    return f"{tensor.dtype}[{lengths}]"


def _in_order(columns: Iterable[str]) -> list[str]:
    sides = [*SIDES["corners"], *SIDES["centre"], *SIDES["distances"], *SIDES["offsets"]]
    order = [*sides[:6], "x", "y", *sides[6:], "bins"]
    return sorted(columns, key=order.index)


def _formatted(lines: Sequence[Line]) -> list[str]:
    """Return the text of lines, their comments in one column."""
    column = max((len(line.text) for line in lines if line.comment), default=0) + 2
    found = []
    for text, comment in lines:
        if not text:
            found.append(f"# {comment}")
        elif comment:
            found.append(f"{text:<{column}}# {comment}")
        else:
            found.append(text)
    return found


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > WIDTH - 6:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return "{}" if value == {} else str(value)


def _quoted(name: str) -> str:
    """Return a name as YAML reads it again."""
    if re.fullmatch(r"[A-Za-z_][\w./-]*", name) and name.lower() not in ("null", "true", "false"):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
