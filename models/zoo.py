"""From the name of a model to its contract; the cards that ship, and their weights."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from models import onnx_header
from models.card import CARDS, Card, load
from models.contract import Contract
from models.download import Progress, download
from models.errors import CacheError, CardError, NothingToCompare
from models.files import cache_folder, user_path
from models.inspect import inspect
from models.onnx_header import sha256_of
from models.text import close_match, shown


class Known(NamedTuple):
    """A card that ships."""

    card: Card
    path: Path
    """Path of the card."""
    weights: Path | None
    """Path of the model file; None: it is not on this machine."""


def resolve(model: str, tasks: Collection[str] = ()) -> Contract:
    """Return the contract of a model; no runtime is loaded.

    Args:
        model: name of a card that ships, path of a card (.yaml), or of a model file (.onnx).
        tasks: tasks that are wanted, which decide between readings of a file; empty: any.

    Raises:
        CardError: no such card, it is wrong, or its weights are missing or have another hash.
        ContractError: the model file cannot be used.
    """
    path = user_path(model)
    if path.suffix == ".onnx":
        file = onnx_header.read(path)  # before hashing, because it checks the size
        return inspect(path, _card_with(sha256_of(path)), file, tasks)
    card, path = _card_at(model)
    weights = find_weights(card, path)
    if weights is None:
        raise CardError(_missing(card, path))
    contract = inspect(weights, card)
    if card.weights.sha256 not in (None, contract.sha256):
        raise CardError(
            f"{weights}: wrong sha256 (found {contract.sha256}, card {card.name} states "
            f"{card.weights.sha256}); replace the file, or correct the card"
        )
    return contract


def files_of(model: str) -> list[Path]:
    """Return the files of a model: its card, if one is named, and its weights, if present.

    Raises:
        CardError: no such card, or it is wrong.
    """
    path = user_path(model)
    if path.suffix == ".onnx":
        return [path]
    card, path = _card_at(model)
    weights = find_weights(card, path)
    return [path] if weights is None else [path, weights]


def known() -> list[Known]:
    """Return the cards that ship, by name."""
    paths = sorted(CARDS.glob("*.yaml"))
    cards = [(load(path), path) for path in paths]
    return [Known(card, path, find_weights(card, path)) for card, path in cards]


def find_weights(card: Card, path: Path) -> Path | None:
    """Return the model file of the card at `path`: beside the card, or downloaded before."""
    if card.weights.file is not None:
        beside = path.parent / card.weights.file
        if os.path.exists(beside):  # False also for a name that no file can have
            return beside
    try:
        downloaded = _download_path(card)
    except CacheError:
        return None  # without a cache folder, no file can have been downloaded
    return downloaded if downloaded is not None and downloaded.exists() else None


def verify(name: str) -> Path:
    """Check the model file of a card against its sha256, and return the file's path.

    Raises:
        NothingToCompare: there is no card, or it has no sha256.
        CardError: no such card, or the file is missing, damaged or another one.
    """
    contract = resolve(name)
    if Path(name).suffix == ".onnx":
        card = _card_with(contract.sha256)
    else:
        card, _ = _card_at(name)
    if card is None or card.weights.sha256 is None:
        why = "no card that ships has its sha256" if card is None else "the card has no sha256"
        raise NothingToCompare(
            f"{name}: nothing to compare with: {why}; the sha256 of {contract.path} is "
            f"{contract.sha256}"
        )
    return Path(contract.path)


def golden_of(name: str) -> Path | None:
    """Return the golden file of a card, see models/golden.py; None: the card names none.

    Raises:
        CardError: no such card, or it is wrong.
    """
    if Path(name).suffix == ".onnx":
        return None
    card, path = _card_at(name)
    return None if card.weights.golden is None else path.parent / card.weights.golden


def fetch(name: str, progress: Progress | None = None, accept_licence: bool = False) -> Path:
    """Download the model file of a card, unless it is present, and return the file's path.

    Args:
        name: name of a card that ships, or path of a card.
        progress: called with the bytes received, and those expected, if known.
        accept_licence: whether the user accepts the licence, where it is the GPL or AGPL.

    Raises:
        CardError: no such card, no url, a licence that is not accepted, no connection, or a file
            with another hash.
    """
    if Path(name).suffix == ".onnx":
        raise CardError(
            f"{name}: nothing to download for a model file; give the name of a card, or its path "
            "(.yaml)"
        )
    card, path = _card_at(name)
    if find_weights(card, path) is not None:
        return Path(resolve(name).path)
    target = _download_path(card)
    if target is None or card.weights.url is None:
        raise CardError(_missing(card, path))
    if is_copyleft(card) and not accept_licence:
        raise CardError(
            f"model {card.name}: its licence may ask you to publish the source code of what you "
            f"build on it (found {shown(card.weights.licence, 60)}); read it, then add "
            "--accept-licence"
        )
    download(card.weights.url, target, str(card.weights.sha256), progress)
    return target


def is_copyleft(card: Card) -> bool:
    """Return whether the weights have the licence AGPL or GPL (not LGPL)."""
    return re.search(r"(?<![A-Z])A?GPL", (card.weights.licence or "").upper()) is not None


def _card_at(model: str) -> tuple[Card, Path]:
    """Return the card of this path or name, and its path."""
    path = user_path(model)
    return (load(path), path) if path.suffix in (".yaml", ".yml") else _named(model)


def _named(name: str) -> tuple[Card, Path]:
    """Return the card that ships under this name, and its path."""
    path = CARDS / f"{name}.yaml"
    names = sorted(p.stem for p in CARDS.glob("*.yaml"))
    if name not in names:
        close = close_match(name, names)
        hint = f" (did you mean {close}?)" if close else ""
        raise CardError(
            f"model {name!r}: no card has this name{hint}; known cards: {', '.join(names)}, or "
            "give a path that ends in .yaml or .onnx"
        )
    return load(path), path


def _card_with(sha256: str) -> Card | None:
    """Return the card that ships for the file of this hash; None: there is none."""
    cards = [load(path) for path in sorted(CARDS.glob("*.yaml"))]
    return next((card for card in cards if card.weights.sha256 == sha256), None)


def _download_path(card: Card) -> Path | None:
    """Return the path to which `fetch` downloads; None: the card has no url."""
    if card.weights.url is None:
        return None
    return cache_folder() / "models" / f"{card.name}-{str(card.weights.sha256)[:12]}.onnx"


def _missing(card: Card, path: Path) -> str:
    """Write the message for missing weights."""
    if card.weights.url is not None:
        name = card.name if path.parent == CARDS else path
        return (
            f"model {card.name}: weights not downloaded yet; download them: "
            f"run.py models fetch {name}"
        )
    file = path.parent / str(card.weights.file)
    return f"{path}: weights.file does not exist (found no {file}); correct the path"
