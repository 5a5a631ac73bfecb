"""Packages that only training needs."""

from __future__ import annotations

import importlib
from types import ModuleType

from models.errors import TrainingError


def package(name: str) -> ModuleType:
    """Import a package that only training needs.

    Raises:
        TrainingError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as failure:
        raise TrainingError(
            f"training: {name.partition('.')[0]} cannot be imported ({failure}); run `make train`, "
            'or pip install "eyeline[train]"'
        ) from None
