"""The card: a YAML file that states what a model's file does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from models import yaml_reader
from models.errors import CardError
from models.files import open_file
from models.output_layout import OutputLayout
from models.struct_errors import explain
from models.transform import Anchor, Resize

CARDS = Path(__file__).parent / "cards"
"""Folder of the cards that ship."""
LABELS = Path(__file__).parent / "labels"
"""Folder of the label sets that ship: `NAME.txt`, one label a line."""

MAX_BYTES = 1 << 20
"""Size limit of a card."""
MAX_SIDE_PX = 16384
"""Limit of the width and the height of a model's input."""
MIN_STD = 1e-6
"""Smallest absolute value of a standard deviation."""

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Text = Annotated[str, Meta(max_length=1000)]
MAX_LABEL_CHARS = 300
"""Length limit of a label."""
LABELS_ENDING = ".txt"
Label = Annotated[str, Meta(max_length=MAX_LABEL_CHARS)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

Task = Literal[
    "detect", "localize", "segment", "keypoints", "oriented", "classify", "semantic", "embed"
]
Colour = Literal["rgb", "bgr"]
InputDtype = Literal["uint8", "int32", "float32", "float16"]
Layout = Literal["nchw", "nhwc"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a card: immutable, and strict about unknown keys."""


class Accuracy(_Part, frozen=True, kw_only=True):
    """An accuracy that the authors of a model publish."""

    figure: Label
    """Name of the figure: AP, AP50, top-1."""
    value: Annotated[float, Meta(ge=0, le=100)]
    """Value in percent."""
    data: Label
    """Data set and split: COCO val2017."""
    source: Text
    """Page that publishes it."""


class Weights(_Part, frozen=True, kw_only=True):
    """Location and licence of the model file."""

    file: Text | None = None
    """Path, relative to the card's folder."""
    url: Text | None = None
    """Address from which `run.py models fetch` downloads the file."""
    sha256: Sha256 | None = None
    """Hash of the file; required with `url`."""
    licence: Text | None = None
    """SPDX name."""
    origin: Text | None = None
    """Author, and the data or model it was made from."""
    code_licence: Text | None = None
    """SPDX name of the licence of the code that trained the model, where it has one of its own."""
    accuracy: Accuracy | None = None
    """Accuracy that its authors publish."""
    golden: Text | None = None
    """Path of an input and the outputs that it must give (.npz), relative to the card's folder."""
    cpu: Literal["cpu", "gpu"] | None = None
    """Hardware that the model suits: cpu, or gpu where a CPU is too slow for video."""


class CardInput(_Part, frozen=True, kw_only=True):
    """The input that the model expects; a key left out has the family's default, or the file's."""

    size: tuple[Side, Side] | None = None
    """Width and height in pixels."""
    resize: Resize | None = None
    """letterbox: keep the aspect ratio and pad; stretch: fill the input; crop: keep the aspect
    ratio and cut the longer sides; none: no resizing."""
    crop: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Part of the shorter side of the image that is kept, with `resize: crop`."""
    anchor: Anchor | None = None
    """Position of a letterboxed image in the input."""
    pad: Annotated[int, Meta(ge=0, le=255)] | None = None
    """Pixel value of the padding around a letterboxed image."""
    colour: Colour | None = None
    scale: Annotated[float, Meta(ge=1e-9, le=1e6)] | None = None
    """Factor: the model gets (pixel * scale - mean) / std, with pixels from 0 to 255."""
    mean: tuple[Number, Number, Number] | None = None
    """Per channel, in the order of `colour`."""
    std: tuple[Number, Number, Number] | None = None
    """Per channel, in the order of `colour`; not zero."""
    dtype: InputDtype | None = None
    layout: Layout | None = None


class Thresholds(_Part, frozen=True, kw_only=True):
    """Thresholds that suit the model."""

    score: Fraction | None = None
    iou: Fraction | None = None


class Card(_Part, frozen=True, kw_only=True):
    """Description of a model."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=100)]
    task: Task | None = None
    """Kind of its answers; null: that of its outputs. detect, for a model that gives masks,
    keypoints or rotated boxes too: only its boxes are used."""
    family: Text
    """Kind of its outputs: a name of `models/families/presets.yaml`; generic: `output` states
    everything."""
    weights: Weights
    input: CardInput = CardInput()
    labels: Label | tuple[Label, ...] | None = None
    """A list, a text file (.txt) in the folder of the card with one label a line, or the name of a
    label set that ships: coco80, coco90."""
    thresholds: Thresholds = Thresholds()
    output: dict[str, Any] = {}
    """Layout of the outputs, see `models.output_layout`; keys left out are the family's."""


def load(path: Path) -> Card:
    """Read and check a card.

    Raises:
        CardError: unreadable, not YAML, an unknown key, or a value out of bounds.
    """
    with open_file(path, "card", MAX_BYTES, CardError) as file:
        data = file.read(MAX_BYTES)
    try:
        card = msgspec.convert(yaml_reader.parse(data.decode()), Card)
    except msgspec.ValidationError as error:
        raise CardError(f"{path}: {explain(error, Card)}") from None
    except (RecursionError, MemoryError):
        raise CardError(f"{path}: not YAML: its values are nested too deep") from None
    except Exception as error:
        # PyYAML passes on any exception that a value raises: a 13th month, "!!int x".
        raise CardError(f"{path}: not YAML: {error}") from None
    weights = card.weights
    if weights.file is None and weights.url is None:
        raise CardError(f"{path}: weights: no model file; set `file` or `url`")
    if weights.url is not None and weights.sha256 is None:
        raise CardError(f"{path}: weights: `url` without `sha256`; add the hash of the model file")
    if card.input.std is not None and not all(abs(std) >= MIN_STD for std in card.input.std):
        raise CardError(f"{path}: input.std: must not be 0 (found {card.input.std})")
    _check_finite(path, card)
    _check_output(path, card)
    if isinstance(card.labels, str) and card.labels.endswith(LABELS_ENDING):
        return msgspec.structs.replace(card, labels=_labels_in(path, card.labels))
    return card


def _check_output(path: Path, card: Card) -> None:
    """Check the keys and values of `output` that do not depend on the family."""
    try:
        msgspec.convert({"outputs": {"any": ["rest"]}, **card.output}, OutputLayout)
    except msgspec.ValidationError as error:
        raise CardError(f"{path}: {explain(error, OutputLayout, 'output')}") from None


def _check_finite(path: Path, card: Card) -> None:
    """Refuse .nan, which satisfies every bound."""
    expected, thresholds = card.input, card.thresholds
    numbers = {
        "input.scale": (expected.scale,),
        "input.mean": expected.mean or (),
        "input.std": expected.std or (),
        "thresholds.score": (thresholds.score,),
        "thresholds.iou": (thresholds.iou,),
    }
    for key, values in numbers.items():
        if any(value is not None and not math.isfinite(value) for value in values):
            raise CardError(f"{path}: {key}: not a number (found .nan)")


def _labels_in(path: Path, name: str) -> tuple[str, ...]:
    """Read the labels of a text file in the folder of the card at `path`, one a line.

    Raises:
        CardError: it is elsewhere, cannot be read, or is no text.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CardError(f"{path}: labels: not in the folder of the card (found {name!r}); copy it")
    with open_file(path.parent / name, "labels", MAX_BYTES, CardError) as file:
        data = file.read(MAX_BYTES)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise CardError(f"{path}: labels: {name} is not UTF-8 text; save it as UTF-8") from None
    labels = tuple(line.strip()[:MAX_LABEL_CHARS] for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels or not all(labels):
        raise CardError(
            f"{path}: labels: {name} has no label in a line (found {len(labels)} lines); write one "
            "label in each"
        )
    return labels


def label_set(name: str) -> tuple[str, ...]:
    """Return the labels of a set that ships.

    Raises:
        CardError: there is no such set.
    """
    known = sorted(path.stem for path in LABELS.glob("*.txt"))
    if name not in known:
        raise CardError(
            f"labels: unknown label set (found {name!r}); known sets: {', '.join(known)}"
        )
    return tuple((LABELS / f"{name}.txt").read_text("utf-8").splitlines())
