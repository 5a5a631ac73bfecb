"""From what a person calls a model to its contract; the cards that ship, and their weights."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from models import onnx_header
from models.card import CARDS, Card, load
from models.contract import Contract, inspect, sha256_of
from models.errors import CacheError, CardError, NothingToCompare
from models.files import user_path
from models.runtime import cache_folder
from models.text import shown

CHUNK = 1 << 20


class Known(NamedTuple):
    """A card that ships."""

    card: Card
    path: Path
    """Of the card."""
    weights: Path | None
    """Of the model file, if it is on this machine."""


def resolve(model: str) -> Contract:
    """The contract of a model; loads no runtime.

    Args:
        model: name of a card that ships, path of a card (.yaml), or of a model file (.onnx).

    Raises:
        CardError: no such card, it is wrong, or its weights are missing or not the right ones.
        ContractError: the model file cannot be used.
    """
    path = user_path(model)
    if path.suffix == ".onnx":
        file = onnx_header.read(path)  # first, as it bounds what is hashed
        return inspect(path, _card_with(sha256_of(path)), file)
    card, path = _card_at(model)
    weights = find_weights(card, path)
    if weights is None:
        raise CardError(_missing(card, path))
    contract = inspect(weights, card)
    if card.weights.sha256 not in (None, contract.sha256):
        raise CardError(
            f"{weights}: expected sha256 {card.weights.sha256} (card {card.name}), found "
            f"{contract.sha256}: another file, or a damaged one"
        )
    return contract


def files_of(model: str) -> list[Path]:
    """The files that a model is read from: the card, if one is named, and the weights, if here.

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
    """The cards that ship, by name."""
    paths = sorted(CARDS.glob("*.yaml"))
    cards = [(load(path), path) for path in paths]
    return [Known(card, path, find_weights(card, path)) for card, path in cards]


def find_weights(card: Card, path: Path) -> Path | None:
    """The model file of the card at `path`: beside the card, or fetched before."""
    if card.weights.file is not None:
        beside = path.parent / card.weights.file
        if os.path.exists(beside):  # False too of a name that no file can have
            return beside
    try:
        fetched = _fetched(card)
    except CacheError:
        return None  # nothing can have been fetched
    return fetched if fetched is not None and fetched.exists() else None


def verify(name: str) -> Path:
    """Check the model file of a card against its sha256; where the file is.

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
            f"{name}: nothing to compare with: {why}; that of {contract.path} is {contract.sha256}"
        )
    return Path(contract.path)


def fetch(name: str, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Get the model file of a card from its url, unless it is here; where the file is.

    Args:
        name: of a card that ships, or path of a card.
        progress: called with the bytes that are here, and those there will be, if known.

    Raises:
        CardError: no such card, no url, no connection, or not the file the card means.
    """
    if Path(name).suffix == ".onnx":
        raise CardError(
            f"{name}: nothing to fetch: that is a model file, and where to get one is in its card: "
            "expected the name of a card, or its path (.yaml)"
        )
    card, path = _card_at(name)
    if find_weights(card, path) is not None:
        return Path(resolve(name).path)
    target = _fetched(card)
    if target is None or card.weights.url is None:
        raise CardError(_missing(card, path))
    import tempfile

    target.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and moved into place when it is right, so a broken download leaves nothing.
    handle, aside = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        _download(card.weights.url, Path(aside), progress)
        found = sha256_of(Path(aside))
        if found != card.weights.sha256:
            raise CardError(
                f"{_without_secrets(card.weights.url)}: expected sha256 {card.weights.sha256}, "
                f"found {found}: not the file that the card means; nothing was kept"
            )
        os.replace(aside, target)
    finally:
        Path(aside).unlink(missing_ok=True)
    return target


def _download(url: str, target: Path, progress: Callable[[int, int | None], None] | None) -> None:
    import urllib.request  # here, as it takes longer to import than a model to check

    try:
        with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as file:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            done = 0
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if done > onnx_header.MAX_BYTES:
                    raise ValueError(f"more than {onnx_header.MAX_BYTES:,} bytes")
                if progress is not None:
                    progress(done, total)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CardError(
            f"{_without_secrets(url)}: cannot be fetched ({shown(reason, 100)}); is this machine "
            "online?"
        ) from None


def _without_secrets(url: str) -> str:
    """The address without what may be secret in it: user, password, parameters."""
    bare = re.sub(r"[?#].*", "", url, flags=re.DOTALL)
    return re.sub(r"(?<=//)[^/]*@", "", bare)


def _card_at(model: str) -> tuple[Card, Path]:
    """The card of this path, or else of this name; and where it is."""
    path = user_path(model)
    return (load(path), path) if path.suffix in (".yaml", ".yml") else _named(model)


def _named(name: str) -> tuple[Card, Path]:
    path = CARDS / f"{name}.yaml"
    names = sorted(p.stem for p in CARDS.glob("*.yaml"))
    if name not in names:
        import difflib

        close = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise CardError(
            f"model {name!r}: expected the name of a card ({', '.join(names)}), or a path that "
            f"ends in .yaml or .onnx{hint}"
        )
    return load(path), path


def _card_with(sha256: str) -> Card | None:
    """The card that ships for the file of this hash, if there is one."""
    cards = [load(p) for p in sorted(CARDS.glob("*.yaml"))]
    return next((card for card in cards if card.weights.sha256 == sha256), None)


def _fetched(card: Card) -> Path | None:
    """Where `fetch` puts the file of a card."""
    if card.weights.url is None:
        return None
    return cache_folder() / "models" / f"{card.name}-{str(card.weights.sha256)[:12]}.onnx"


def _missing(card: Card, path: Path) -> str:
    if card.weights.url is not None:
        what = card.name if path.parent == CARDS else path
        return f"model {card.name}: its weights are not here yet: run.py models fetch {what}"
    return f"{path}: weights.file: there is no {path.parent / str(card.weights.file)}"
