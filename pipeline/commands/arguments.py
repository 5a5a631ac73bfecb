"""The parser of the command line, and the types of its arguments."""

from __future__ import annotations

import argparse
import difflib
import importlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from pipeline.commands import COMMANDS
from pipeline.commands.terminal import print_error
from pipeline.config import is_number
from pipeline.messages import display_value, name_of
from pipeline.supervisor.lifecycle import EXIT_SETUP
from pipeline.urls import display_url


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ModuleType]:
    """Parse a command line.

    Only the module of the command that is used is imported.

    Args:
        argv: the arguments behind the program's name. `run` may be left out, so that
            "run.py --source 0" and "run.py my.yaml" are runs.

    Returns:
        The arguments, and the module of the command.
    """
    words = list(argv)
    if not words or words[0] not in (*COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    top = Parser(prog="run.py", description="Eyeline: cameras and files in, tracked objects out.")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    module = importlib.import_module(COMMANDS[words[0]].module) if words[0] in COMMANDS else None
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.help)
        if module is not None and name == words[0]:
            module.add_arguments(parser)
    args, unknown = top.parse_known_args(words)
    args.words = words
    assert module is not None, "--help ends the program"
    if unknown:
        config = vars(args).get("config")
        close = difflib.get_close_matches(str(config)[:100], COMMANDS, n=1, cutoff=0.6)
        if isinstance(config, Path) and close and not config.exists():
            # A misspelt command with arguments of its own.
            print_error(f"{display_url(str(config))}: no such command; did you mean {close[0]!r}?")
            raise SystemExit(EXIT_SETUP)
        top.prog = f"run.py {words[0]}"
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args, module


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message without what may be a secret, and exit with status 2."""
        message = re.sub(
            r"invalid choice: '(.*)' \(",
            lambda m: f"invalid choice: {display_value(m[1])} (",
            message,
        )
        text, colon, words = message.partition("unrecognized arguments: ")
        if colon:
            shown = (name_of(word.partition("=")[0]) for word in words.split())
            message = f"{text}{colon}{' '.join(shown)}"
        message = re.sub(
            r"(ambiguous option: [^= ]*)\S*|(ignored explicit argument).*", r"\1\2", message
        )
        print_error(f"{message}; see {self.prog} --help")
        self.exit(EXIT_SETUP)


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text) if is_number(text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"expected a number from 1 to 999999999, found {name_of(text)}"
        )
    return value


def score(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value
