"""The command `schema`: prints the JSON schema of the settings, or of a model card."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipeline.graph.schema import schema, struct_schema
from stages import LOCATIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--card", action="store_true", help="print the schema of a model card, not of the settings"
    )


def main(args: argparse.Namespace) -> int:
    """Print the schema, and return the exit status."""
    print(json.dumps(_of_card() if args.card else schema(LOCATIONS), indent=2))
    return 0


def _of_card() -> dict[str, Any]:
    from models.card import Card
    from models.output_layout import OutputLayout

    return struct_schema(Card, {"output": OutputLayout})
