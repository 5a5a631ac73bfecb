"""The command `train`: from a backbone and labelled images to a model that runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from models.errors import DataFaults, ModelError
from models.training import METHODS
from pipeline.commands.arguments import count
from pipeline.commands.label_maps import add_map
from pipeline.commands.terminal import print_error
from pipeline.errors import ConfigError, SetupError
from pipeline.supervisor.lifecycle import EXIT_SETUP
from stages.capture.dataset import Format

LIST = "list"
"""Value of --layers that prints where a backbone can be cut."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    methods = "; ".join(f"{name}: {entry.help}" for name, entry in METHODS.items())
    parser.add_argument(
        "--method",
        default="codes",
        metavar="M",
        help=f"{methods}; all: each of them that the data can serve, and a table; module:Class: "
        "a method of your own (default: codes)",
    )
    parser.add_argument(
        "--backbone",
        default="mobilenetv2",
        metavar="B",
        help="mobilenetv2, efficientnet_lite0, ssdlite, an .onnx file, a file of weights (.pt, "
        ".pth, .safetensors), or timm:NAME (default: mobilenetv2)",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="DIR",
        help="labelled data set in any format that evaluate reads; may be repeated",
    )
    parser.add_argument(
        "--format", choices=get_args(Format), default="auto", help="format of the data set"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: runs/train/NAME)"
    )
    parser.add_argument("--name", help="name of the model (default: method and data set)")
    add_map(parser)
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--parts",
        type=Path,
        metavar="FILE.json",
        help="names of the images to train, validate and test with (default: drawn by the seed)",
    )
    parser.add_argument(
        "--group",
        metavar="REGEX",
        help="images with the same part of their names stay in one part, such as '^(.*)_' for the "
        "frames of a video",
    )
    parser.add_argument(
        "--val", type=_part, default=0.2, help="part of the images to validate with (default: 0.2)"
    )
    parser.add_argument(
        "--test", type=_part, default=0.2, help="part of the images to test with (default: 0.2)"
    )
    split.add_argument(
        "--fold",
        type=_fold,
        metavar="K/N",
        help="test with the K-th of N equal parts, as for the mean of N runs (default: see --test)",
    )
    parser.add_argument(
        "--per-class", type=count, metavar="N", help="train with N examples of each class at most"
    )
    parser.add_argument(
        "--fraction", type=_part, default=1.0, help="part of the training images that is used"
    )
    parser.add_argument(
        "--layers",
        metavar="N",
        help="blocks of the backbone that stay as they are; list: show them",
    )
    parser.add_argument("--epochs", type=count, metavar="N", help="epochs at most")
    parser.add_argument("--size", type=count, metavar="PX", help="side of the model's input")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one setting of the method by a value in YAML; may be repeated",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the random draws (default: 0)"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="CPU threads (default: one per usable core)"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="train again from random weights, and with 10 and 30 %% of the training images",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings and the result")


def main(args: argparse.Namespace) -> int:
    """Train, print the figures, and return the exit status."""
    from pipeline.commands import train_all, train_run

    try:
        if args.layers == LIST:
            return train_run.list_layers(args.backbone)
        if not args.data:
            raise ConfigError("--data: no data set; name a folder of labelled images")
        if args.method == train_all.ALL:
            return train_all.train_all(args)
        return train_run.train(args)
    except DataFaults as error:
        for fault in error.faults:
            print_error(fault)
        return EXIT_SETUP
    except ModelError as error:
        raise SetupError(str(error)) from None


def _fold(text: str) -> tuple[int, int]:
    """Convert K/N, a fold of cross-validation."""
    number, _, folds = text.partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) > 1):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, found {text!r}")
    return int(number), int(folds)


def _part(text: str) -> float:
    """Convert a part from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a part from 0 to 1, found {text!r}")
    return value
