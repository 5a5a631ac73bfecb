"""The card of a trained model, with an input and the outputs that it must give."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import runtime
from models.training.method import ModelCard

if TYPE_CHECKING:
    from models.training.record import Record


def write_card(
    model: Path,
    record: Record,
    own: ModelCard,
    size: int,
    about: Mapping[str, str],
    inputs: Mapping[str, NDArray[Any]],
) -> Path:
    """Write the card beside a model, and the golden input and outputs beside the card.

    Args:
        model: the ONNX file.
        record: facts of the training.
        own: the method's part of the card.
        size: side of the input in pixels.
        about: licence and origin.
        inputs: those of the model, of an image that was not trained on.

    Returns:
        the path of the card.
    """
    outputs = runtime.open_graph(model.read_bytes())(inputs)
    golden = model.with_suffix(".golden.npz")
    arrays: dict[str, Any] = dict(inputs)
    arrays |= {f"output{n}": output for n, output in enumerate(outputs)}
    np.savez_compressed(golden, **arrays)
    card: dict[str, Any] = {
        "name": record.name,
        "task": own.task,
        "family": own.family,
        "weights": {
            "file": model.name,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "golden": golden.name,
            **about,
        },
        "input": {
            "size": [size, size],
            "resize": "stretch",
            "colour": "bgr",
            "dtype": "uint8",
            "layout": "nhwc",
        },
        "labels": list(own.labels or record.labels),
        "thresholds": {**record.thresholds, **own.thresholds},
        "output": dict(own.output),
    }
    figures = ", ".join(f"{name} {value:.3f}" for name, value in record.test.items())
    text = (
        f"# Made by `{record.command}`.\n# On images that were used for nothing else: {figures}.\n"
    )
    path = model.with_suffix(".yaml")
    path.write_text(text + msgspec.yaml.encode(card).decode(), "utf-8")
    return path
