"""Model families, each in its file: what they have in common is in `base.py`."""

from __future__ import annotations

import importlib
from typing import Any, cast

from models.families.base import Family
from models.image_input import Input
from models.output_layout import OutputLayout, task_of

FAMILIES = {
    "generic": "models.families.generic:Generic",
    "rcnn": "models.families.rcnn:Rcnn",
    "localize": "models.families.localize:Localize",
    "classify": "models.families.classify:Classify",
    "semantic": "models.families.semantic:Semantic",
    "embed": "models.families.embed:Embed",
}
"""Name in a card -> "module:Class". A new family is one file and one line here."""


def make(
    name: str, image: Input, classes: int | None, layout: OutputLayout | None = None
) -> Family[Any]:
    """Make the decoder of a model, from the fields of its contract.

    Args:
        name: family of the contract.
        image: input of the model.
        classes: number of classes.
        layout: layout of the outputs; None: the family knows it.
    """
    if layout is not None and (name == "generic" or name not in FAMILIES):
        name = task_of(layout)  # a preset, or a card that states everything: any task
    family = load(name)
    if layout is None:
        return family(image, classes)
    return family(image, classes, layout)  # type: ignore[call-arg]


def load(name: str) -> type[Family[Any]]:
    """Import the family of a name: one of `FAMILIES`, else that of its preset, `generic`."""
    module, _, attribute = FAMILIES.get(name, FAMILIES["generic"]).partition(":")
    return cast(type[Family[Any]], getattr(importlib.import_module(module), attribute))
