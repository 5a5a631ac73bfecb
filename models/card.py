"""The card: the YAML file that says what a model is, where that cannot be read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from models.errors import CardError

CARDS = Path(__file__).parent / "cards"
"""The cards that ship, and the label sets, `NAME.txt`, one label a line."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Side = Annotated[int, Meta(ge=1, le=16384)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

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

    file: str | None = None
    """Path, from the card's folder."""
    url: str | None = None
    """Where `run.py models fetch` gets the file from."""
    sha256: Sha256 | None = None
    """Of the file; must be there if `url` is."""
    licence: str | None = None
    """SPDX name."""
    origin: str | None = None
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
    scale: Annotated[float, Meta(gt=0)] | None = None
    """The model sees (pixel * scale - mean) / std, a pixel being 0 to 255."""
    mean: tuple[float, float, float] | None = None
    """Per channel, in the order of `colour`."""
    std: tuple[float, float, float] | None = None
    """Per channel, in the order of `colour`; not zero."""
    dtype: InputDtype | None = None
    layout: Layout | None = None


class Thresholds(_Part, frozen=True, kw_only=True):
    """Thresholds that suit the model."""

    score: Fraction | None = None
    iou: Fraction | None = None


class Card(_Part, frozen=True, kw_only=True):
    """What a model is."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: Task = "detect"
    family: str
    """How its outputs are read: a name from `models/families`."""
    weights: Weights
    input: CardInput = CardInput()
    labels: str | tuple[str, ...] | None = None
    """A list, or the name of a label set that ships (coco80)."""
    thresholds: Thresholds = Thresholds()


def load(path: Path) -> Card:
    """Read and check a card.

    Raises:
        CardError: unreadable, not YAML, an unknown key, or a value that cannot be.
    """
    try:
        raw = yaml.load(path.read_text("utf-8"), Loader)
        card = msgspec.convert(raw, Card)
    except OSError as error:
        raise CardError(f"{path}: the card cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except msgspec.ValidationError as error:
        raise CardError(f"{path}: {error}") from None
    weights = card.weights
    if weights.file is None and weights.url is None:
        raise CardError(f"{path}: weights: expected `file` or `url`, found neither")
    if weights.url is not None and weights.sha256 is None:
        raise CardError(
            f"{path}: weights: a `url` needs a `sha256`, so that the file is the right one"
        )
    if card.input.std is not None and 0 in card.input.std:
        raise CardError(f"{path}: input.std: expected numbers other than 0, found {card.input.std}")
    return card


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
