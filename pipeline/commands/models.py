"""The command `models`: lists, inspects, fetches or verifies models."""

from __future__ import annotations

import argparse
from pathlib import Path

from models import zoo
from models.card_writer import card_for
from models.errors import ModelError, NothingToCompare
from pipeline.commands.terminal import print_error
from pipeline.errors import ConfigError, SetupError
from pipeline.supervisor.lifecycle import EXIT_FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["inspect", "fetch", "verify"],
        help="describe a model, download its weights, or compare them with its card",
    )
    parser.add_argument("what", nargs="?", metavar="FILE|NAME", help="model file, or card name")
    parser.add_argument(
        "--card", action="store_true", help="inspect: write a card with comments for a model file"
    )


def main(args: argparse.Namespace) -> int:
    """List, inspect, fetch or verify models."""
    if args.action is not None and args.what is None:
        raise ConfigError(f"models {args.action}: expected the name of a card, or a file")
    try:
        if args.action is None:
            for model in zoo.known():
                where = "available" if model.weights else f"run.py models fetch {model.card.name}"
                card = model.card
                print(
                    f"{card.name:24} {card.task:9} {card.family:8} "
                    f"{card.weights.licence or '?':12} {where}"
                )
        elif args.action == "inspect" and args.card:
            print(card_for(Path(args.what)), end="")
        elif args.action == "inspect":
            print(zoo.resolve(args.what).describe())
        elif args.action == "fetch":
            print(zoo.fetch(args.what))
        else:
            print(f"{zoo.verify(args.what)}: matches its card")
    except NothingToCompare as error:
        print_error(error)
        return EXIT_FAILED
    except ModelError as error:
        raise SetupError(str(error)) from None
    return 0
