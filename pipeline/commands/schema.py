"""The command `schema`: prints the JSON schema of the settings."""

from __future__ import annotations

import argparse
import json

from pipeline.graph.schema import schema
from stages import LOCATIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def main(args: argparse.Namespace) -> int:
    """Print the schema, and return the exit status."""
    print(json.dumps(schema(LOCATIONS), indent=2))
    return 0
