"""The command `evaluate`: measures how right the stages are on a labelled data set."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import get_args

import msgspec
from rich.console import Console

from models.datasets.base import DataSet
from models.errors import EvaluationError
from models.evaluation.arrays import optional_module
from pipeline.commands.arguments import score
from pipeline.commands.evaluate_against import differences
from pipeline.commands.evaluate_boxes import clip_boxes, image_pairs
from pipeline.commands.evaluate_data import prepare
from pipeline.commands.evaluate_main import with_main_objects
from pipeline.commands.evaluate_report import write_report
from pipeline.commands.evaluate_run import STREAM, Run, run, stream_names
from pipeline.commands.evaluate_tables import difference_lines, tables
from pipeline.commands.evaluate_whole import pixels_of, ranks_of
from pipeline.commands.evaluation import (
    Measured,
    evaluate_classes,
    evaluate_clips,
    evaluate_images,
    evaluate_maps,
    load,
)
from pipeline.commands.label_maps import add_map
from pipeline.commands.options import ROOT, add_changes
from pipeline.commands.terminal import check_writable, print_error, set_up_logging, write_json
from pipeline.errors import ConfigError, RunError, SetupError
from pipeline.supervisor.lifecycle import EXIT_FAILED
from stages.capture.dataset import DatasetSettings, Format

EVALUATE_CONFIG = ROOT / "configs" / "evaluate.yaml"
MIN_SCORE = 0.001
"""Lowest score of a box that counts in a curve of precision, as in the published figures."""
CONFIDENCE = 0.5
"""Score of an object where neither the settings nor the card of the model state one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.set_defaults(default_config=EVALUATE_CONFIG, source=None, sink=None, live=False)
    parser.add_argument(
        "data", help="data set: annotation file, folder, or a clip beside its ground truth"
    )
    parser.add_argument(
        "--format", choices=get_args(Format), default="auto", help="format of the data set"
    )
    parser.add_argument(
        "--split",
        metavar="PART",
        help="part of the data set, such as val, or FILE.json:test (default: all of it)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="CONFIG",
        help="settings file whose stages are measured (default: configs/evaluate.yaml)",
    )
    add_changes(parser)
    add_map(parser)
    parser.add_argument(
        "--min-score",
        type=score,
        default=MIN_SCORE,
        metavar="SCORE",
        help=f"lowest score of a box that counts in average precision (default: {MIN_SCORE})",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="MODEL=DATA",
        help="a label of the model that the data set calls by another name; may be repeated",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE.json", help="write figures and detections as JSON"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="write curves as PNG, and a page of the images with the most errors",
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE.json", help="compare with an earlier --json file"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings, no table")


def main(args: argparse.Namespace) -> int:
    """Measure, print the figures, and return the exit status."""
    set_up_logging(logging.WARNING if args.quiet else logging.INFO, None)
    renames = dict(_rename(text) for text in args.rename)
    settings = DatasetSettings(
        data=args.data, format=args.format, split=args.split, frames=args.frames
    )
    earlier = None if args.against is None else load(args.against)
    if args.json is not None:
        check_writable(args.json)
    try:
        with tempfile.TemporaryDirectory(prefix="eyeline-") as folder:
            data, main = prepare(args, settings, Path(folder) / "maps")
            _check_wishes(args, data.task)
            found = run(args, data, settings, renames, Path(folder))
            measured = _evaluate(data, main, found)
        evaluation = measured.evaluation
        changes = [] if earlier is None else differences(earlier, evaluation)
        if args.report is not None:
            write_report(args.report, data, measured)
    except RunError as error:
        print_error(error)
        return EXIT_FAILED
    except EvaluationError as error:
        raise SetupError(str(error)) from None
    console = Console()
    for table in tables(evaluation):
        console.print(table)
    for line in (*difference_lines(changes), *evaluation.notes):
        print(line)
    if args.json is None:
        return 0
    report = msgspec.to_builtins(evaluation) | {"against": msgspec.to_builtins(changes)}
    return 0 if write_json(args.json, report) else EXIT_FAILED


def _evaluate(data: DataSet, main: DataSet | None, found: Run) -> Measured:
    classes = found.classes
    notes = [*data.notes, *classes.notes]
    if not data.images:
        clips, more = clip_boxes(stream_names(data.clips), found.detections, classes)
        return evaluate_clips(data, found, clips, [*notes, *more])
    frames = found.detections[STREAM]
    if data.task == "classify":
        ranks, more = ranks_of(data, frames, classes)
        return evaluate_classes(data, found, ranks, [*notes, *more])
    if data.task == "semantic":
        pixels, more = pixels_of(data, frames, classes)
        return evaluate_maps(data, found, pixels, [*notes, *more])
    confidence = CONFIDENCE if found.confidence is None else found.confidence
    pairs, more = image_pairs(data, frames, classes)
    measured = evaluate_images(data, found, pairs, confidence, [*notes, *more])
    return measured if main is None else with_main_objects(measured, main, frames, classes)


def _check_wishes(args: argparse.Namespace, task: str) -> None:
    """Check before the run that what is asked for can be made, and by packages that are there.

    Raises:
        ConfigError: there are no pictures of this task.
        SetupError: a package is not installed.
    """
    if task == "semantic" and args.report is not None:
        raise ConfigError("--report: there are no pictures for maps of classes; use --json")
    wanted = {"hotcoco": task == "detect", "matplotlib": args.report is not None}
    try:
        for name in (name for name, is_wanted in wanted.items() if is_wanted):
            optional_module(name)
    except EvaluationError as error:
        raise SetupError(str(error)) from None


def _rename(text: str) -> tuple[str, str]:
    own, equals, other = text.partition("=")
    if not equals or not own or not other:
        raise ConfigError(f"--rename: expected MODEL_LABEL=DATA_LABEL (found {text!r})")
    return own, other
