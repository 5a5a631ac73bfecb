"""The command `models`: lists, inspects, fetches or verifies models."""

from __future__ import annotations

import argparse

from models import zoo
from models.errors import ModelError, NothingToCompare
from pipeline.commands.download_progress import show_progress
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
        "--accept-licence",
        action="store_true",
        help="download weights under the GPL or AGPL, which you have read",
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
        elif args.action == "inspect":
            print(zoo.resolve(args.what).describe())
        elif args.action == "fetch":
            with show_progress(args.what) as progress:
                path = zoo.fetch(args.what, progress, args.accept_licence)
            print(path)
        else:
            print(f"{zoo.verify(args.what)}: matches its card")
    except NothingToCompare as error:
        print_error(error)
        return EXIT_FAILED
    except ModelError as error:
        raise SetupError(str(error)) from None
    return 0
