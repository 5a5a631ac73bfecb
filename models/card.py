"""The card: the YAML file that says what a model is, where that cannot be read from its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from models import yaml_reader
from models.errors import CardError
from models.files import open_file

CARDS = Path(__file__).parent / "cards"
"""The cards that ship, and the label sets, `NAME.txt`, one label a line."""

MAX_BYTES = 1 << 20
"""Of a card."""
MAX_SIDE = 16384
"""Of a model's input, in pixels."""
MIN_STD = 1e-6

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Text = Annotated[str, Meta(max_length=1000)]
Label = Annotated[str, Meta(max_length=300)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

Task = Literal["classify", "localize", "detect"]
Resize = Literal["letterbox", "stretch", "none"]
Anchor = Literal["centre", "top_left"]
Colour = Literal["rgb", "bgr"]
InputDtype = Literal["uint8", "float32", "float16"]
Layout = Literal["nchw", "nhwc"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a card: immutable, and strict about unknown keys."""


class Weights(_Part, frozen=True, kw_only=True):
    """Where the model file is, and whose it is."""

    file: Text | None = None
    """Path, from the card's folder."""
    url: Text | None = None
    """Where `run.py models fetch` gets the file from."""
    sha256: Sha256 | None = None
    """Of the file; must be there if `url` is."""
    licence: Text | None = None
    """SPDX name."""
    origin: Text | None = None
    """Who made it, and from what."""


class CardInput(_Part, frozen=True, kw_only=True):
    """What the model wants to see; what is left out is as usual for the family, or in the file."""

    size: tuple[Side, Side] | None = None
    """Width and height in pixels."""
    resize: Resize | None = None
    """letterbox: keep the aspect, fill the rest; stretch: fill the input; none: as captured."""
    anchor: Anchor | None = None
    """Where a letterboxed picture lies."""
    pad: Annotated[int, Meta(ge=0, le=255)] | None = None
    """Pixel value of what a letterboxed picture leaves free."""
    colour: Colour | None = None
    scale: Annotated[float, Meta(ge=1e-9, le=1e6)] | None = None
    """The model sees (pixel * scale - mean) / std, a pixel being 0 to 255."""
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
    """What a model is."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=100)]
    task: Task = "detect"
    family: Text
    """How its outputs are read: a name from `models/families`."""
    weights: Weights
    input: CardInput = CardInput()
    labels: Label | tuple[Label, ...] | None = None
    """A list, or the name of a label set that ships (coco80)."""
    thresholds: Thresholds = Thresholds()


def load(path: Path) -> Card:
    """Read and check a card.

    Raises:
        CardError: unreadable, not YAML, an unknown key, or a value that cannot be.
    """
    with open_file(path, "card", MAX_BYTES, CardError) as file:
        data = file.read(MAX_BYTES)
    try:
        card = msgspec.convert(yaml_reader.parse(data.decode()), Card)
    except msgspec.ValidationError as error:
        raise CardError(f"{path}: {error}") from None
    except (RecursionError, MemoryError):
        raise CardError(f"{path}: not YAML: its values are nested too deep") from None
    except Exception as error:
        # PyYAML lets through whatever a value raises: a 13th month, "!!int x".
        raise CardError(f"{path}: not YAML: {error}") from None
    weights = card.weights
    if weights.file is None and weights.url is None:
        raise CardError(f"{path}: weights: expected `file` or `url`, found neither")
    if weights.url is not None and weights.sha256 is None:
        raise CardError(
            f"{path}: weights: a `url` needs a `sha256`, so that the file is the right one"
        )
    if card.input.std is not None and not all(abs(std) >= MIN_STD for std in card.input.std):
        raise CardError(f"{path}: input.std: expected numbers other than 0, found {card.input.std}")
    _check_finite(path, card)
    return card


def _check_finite(path: Path, card: Card) -> None:
    """Refuse .nan, which no bound keeps out."""
    see, limits = card.input, card.thresholds
    numbers = {
        "input.scale": (see.scale,),
        "input.mean": see.mean or (),
        "input.std": see.std or (),
        "thresholds.score": (limits.score,),
        "thresholds.iou": (limits.iou,),
    }
    for key, values in numbers.items():
        if any(value is not None and not math.isfinite(value) for value in values):
            raise CardError(f"{path}: {key}: expected a number, found .nan")


def label_set(name: str) -> tuple[str, ...]:
    """The labels of a set that ships.

    Raises:
        CardError: there is no such set.
    """
    path = CARDS / f"{name}.txt"
    known = sorted(p.stem for p in CARDS.glob("*.txt"))
    if name not in known:
        raise CardError(f"labels: no label set is called {name!r}; known: {', '.join(known)}")
    return tuple(path.read_text("utf-8").splitlines())
