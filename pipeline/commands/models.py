"""The command `models`: lists, inspects, fetches or verifies models."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from models import zoo
from models.card_writer import card_for
from models.errors import ModelError, NothingToCompare
from models.golden import TOLERANCE
from pipeline.commands.download_progress import show_progress
from pipeline.commands.options import ROOT
from pipeline.commands.terminal import print_error
from pipeline.commands.try_model import Tried, compare_apart, load_apart, try_on
from pipeline.errors import ConfigError, RunError, SetupError
from pipeline.supervisor.lifecycle import EXIT_FAILED

DEMO_CLIP = ROOT / "tests" / "clips" / "demo.mp4"
"""Clip on which verify runs a model, where it is at hand."""
MAX_LABELS = 8
"""Labels that --try names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["inspect", "fetch", "verify"],
        help="describe a model, download its weights, or compare them with its card and check its "
        "results",
    )
    parser.add_argument("what", nargs="?", metavar="FILE|NAME", help="model file, or card name")
    parser.add_argument(
        "--card", action="store_true", help="inspect: write a card with comments for a model file"
    )
    parser.add_argument(
        "--try",
        dest="source",
        metavar="SOURCE",
        help="inspect, verify: run the model on an image, or on the first frames of a clip "
        "(verify: the demonstration clip by default)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("try.jpg"),
        metavar="FILE.jpg",
        help="image in which --try draws the results (default: try.jpg)",
    )
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
                    f"{card.name:24} {card.task or 'detect':9} {card.family:8} "
                    f"{card.weights.licence or '?':12} {where}"
                )
        elif args.action == "inspect" and args.card:
            print(card_for(Path(args.what)), end="")
        elif args.action == "inspect":
            return _inspect(args)
        elif args.action == "fetch":
            with show_progress(args.what) as progress:
                path = zoo.fetch(args.what, progress, args.accept_licence)
            print(path)
        else:
            return _verify(args)
    except NothingToCompare as error:
        print_error(error)
        return EXIT_FAILED
    except RunError as error:
        print_error(error)
        return EXIT_FAILED
    except ModelError as error:
        raise SetupError(str(error)) from None
    return 0


def _inspect(args: argparse.Namespace) -> int:
    """Describe a model, load it, and try it where that is asked for."""
    contract = zoo.resolve(args.what)
    print(contract.describe())
    loaded = load_apart(contract)
    print(f"{'loads':<8} {loaded.provider} in {loaded.seconds:.1f} s")
    if args.source is None:
        return 0
    tried = try_on(args.what, args.source, args.out)
    counts = sorted(tried.labels.items(), key=lambda item: -item[1])
    unit = f" {tried.unit} " if tried.unit else " "
    shown = ", ".join(f"{count}{unit}{label}" for label, count in counts[:MAX_LABELS]) or "nothing"
    print(f"{'found':<8} {shown} in {tried.frames} frames; drawn in {tried.picture}")
    if not counts:
        print(
            "If there is something to find: check input.scale, input.colour, input.resize and "
            "output in the card."
        )
    return _report_odd(args.what, tried)


def _verify(args: argparse.Namespace) -> int:
    """Compare a model file with its card, and look at the results that it gives."""
    path = zoo.verify(args.what)
    print(f"{path}: matches its card")
    if not _gives_golden_outputs(args.what):
        return EXIT_FAILED
    source = args.source or (str(DEMO_CLIP) if DEMO_CLIP.exists() else None)
    if source is None:
        print("results not looked at: name an image or a clip with --try")
        return 0
    tried = try_on(args.what, source, None)
    status = _report_odd(args.what, tried)
    if status == 0:
        found = sum(tried.labels.values()) if tried.unit else tried.objects
        unit = tried.unit.removesuffix(" of") or "objects"
        print(f"{found} {unit} in {tried.frames} frames of {source}: nothing odd")
    return status


def _gives_golden_outputs(name: str) -> bool:
    """Compare a model with its golden outputs, where the card names some."""
    path = zoo.golden_of(name)
    if path is None:
        return True
    found = compare_apart(zoo.resolve(name), path)
    if found <= TOLERANCE:
        how = f"within {found:.0e} of the largest value" if found else "exactly"
        print(f"{path}: the model gives these outputs {how}")
        return True
    how = "have another shape, or are not finite" if math.isinf(found) else f"differ by {found:.1e}"
    print_error(
        f"{path}: the model gives other outputs for the golden input (they {how}, at most "
        f"{TOLERANCE:.0e} of the largest value); use another onnxruntime or device, or write the "
        "golden file again"
    )
    return False


def _report_odd(model: str, tried: Tried) -> int:
    """Report results that look wrong, and return the exit status."""
    if not tried.odd:
        return 0
    print_error(f"{model}: {tried.odd}")
    return EXIT_FAILED
