"""The command `bench`: measures the pipeline against its limits."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from pipeline import bench
from pipeline.commands.arguments import count
from pipeline.commands.options import ROOT, add_settings, build_graph, settings_of
from pipeline.commands.terminal import check_writable, print_error, set_up_logging, write_json
from pipeline.errors import RunError
from pipeline.supervisor.lifecycle import EXIT_FAILED

BENCH_CONFIG = ROOT / "configs" / "bench.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_settings(parser, BENCH_CONFIG)
    parser.add_argument(
        "--json", type=Path, metavar="FILE.json", help="write the measurements as JSON"
    )
    parser.add_argument(
        "--rounds", type=count, default=3, help="number of interleaved rounds (default: 3)"
    )


def main(args: argparse.Namespace) -> int:
    """Print the measurements, and return the exit status."""
    set_up_logging(logging.WARNING, None)
    raw, where = settings_of(args)
    bench.check(build_graph(raw, where, args))
    if args.json is not None:
        check_writable(args.json)
    start = [sys.executable, str(ROOT / "run.py"), "run", str(args.config or BENCH_CONFIG), "-q"]
    repeated = {"--source": args.source, "--set": args.set, "--model": args.model}
    for option, values in repeated.items():
        for value in values or ():
            start += [option, value]
    for option, value in {"--device": args.device, "--confidence": args.confidence}.items():
        if value is not None:
            start += [option, str(value)]
    try:
        figures = bench.bench(
            lambda: build_graph(raw, where, args),
            args.rounds,
            [*start, "--sink", "events=-"],
        )
    except RunError as error:
        print_error(error)
        return EXIT_FAILED
    print(bench.as_text(figures))
    return 0 if args.json is None or write_json(args.json, figures) else EXIT_FAILED
