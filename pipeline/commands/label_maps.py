"""Files of `--map`: labels of a data set -> labels of a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipeline import yaml_reader
from pipeline.errors import ConfigError

LabelMap = dict[str, str | None]
"""Label -> other label; None: it is left out."""


def add_map(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--map",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.yaml",
        help="labels of the data -> labels of the model; labels that it does not name are left "
        "out; may be repeated, as for several data sets (see configs/labels)",
    )


def read_maps(paths: Iterable[Path]) -> LabelMap:
    """Read maps as one; the last one that names a label decides.

    Raises:
        ConfigError: a file cannot be read, or is no map of labels.
    """
    found: LabelMap = {}
    for path in paths:
        try:
            found |= msgspec.convert(yaml_reader.parse(path.read_text("utf-8")), LabelMap)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{path}: no map of labels ({reason}); write a line for each label of the data, "
                "as in cow: animal"
            ) from None
    return found
