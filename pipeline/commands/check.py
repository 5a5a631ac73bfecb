"""The command `check`: checks the settings and draws the graph; starts nothing."""

from __future__ import annotations

import argparse

from pipeline.commands.options import add_settings, build_graph, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    """Print the graph, and return the exit status."""
    raw, where = settings_of(args)
    print(build_graph(raw, where, args, keep_unavailable=True).draw())
    return 0
