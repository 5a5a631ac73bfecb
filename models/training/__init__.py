"""Training: from a backbone and labelled images to a model that runs.

Read `method.py` first, then a method in `methods/`, then `trainer.py`, which calls it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from models.training.method import Method


class Entry(NamedTuple):
    """A method in the table."""

    location: str
    """module:Class."""
    help: str


METHODS = {
    "codes": Entry("models.training.methods.codes:Codes", "CNN codes and a linear classifier"),
    "finetune": Entry(
        "models.training.methods.finetune:Finetune",
        "a new last layer, and the upper blocks of the backbone trained along",
    ),
    "rcnn": Entry(
        "models.training.methods.rcnn:Rcnn",
        "selective search, and linear classifiers and box regressors on CNN codes of its regions",
    ),
    "fast_rcnn": Entry(
        "models.training.methods.fast_rcnn:FastRcnn",
        "selective search, and regions of one feature map of the image",
    ),
}
"""Name -> class, imported when it is needed. A new method is one file and one line here."""


def load(name: str) -> type[Method]:
    """Import the class of a method."""
    module, _, cls = METHODS[name].location.partition(":")
    found: type[Method] = getattr(importlib.import_module(module), cls)
    return found
