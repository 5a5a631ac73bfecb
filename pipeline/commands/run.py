"""The command `run`: runs the pipeline to its end."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import setproctitle
from rich.console import Console

from pipeline.commands.options import DEFAULT_CONFIG, add_settings, build_graph, settings_of
from pipeline.commands.terminal import (
    LiveTable,
    check_writable,
    closing_lines,
    print_error,
    set_up_logging,
    write_json,
)
from pipeline.graph.graph import Graph
from pipeline.graph.resources import left_by
from pipeline.stage import InferenceStage
from pipeline.supervisor.lifecycle import EXIT_FAILED, EXIT_OK, EXIT_SETUP
from pipeline.supervisor.supervisor import TITLE, Supervisor

MAX_FILES = 6
"""Files of one sink that the closing lines name one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_settings(parser)
    parser.add_argument(
        "--summary", type=Path, metavar="FILE.json", help="write statistics of the run as JSON"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write a trace to open in Perfetto"
    )
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("-q", "--quiet", action="store_true", help="only warnings, no table")
    verbosity.add_argument("-v", "--verbose", action="store_true", help="debug messages too")


def main(args: argparse.Namespace) -> int:
    """Run the pipeline to its end, and return the exit status."""
    console = Console(stderr=True)
    table = console.is_terminal and not args.quiet
    level = logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    set_up_logging(level, console if table else None)
    graph = graph_of(args)
    for path in (args.summary, args.trace):
        if path is not None:
            check_writable(path)
    # SIGHUP from a closed terminal ends the run; a daemon, which has none, reloads its settings.
    rebuild = None if sys.stdin.isatty() or sys.stderr.isatty() else lambda: graph_of(args)
    if rebuild is not None:
        setproctitle.setproctitle(f"{TITLE} {args.config or DEFAULT_CONFIG}")
    while True:
        supervisor = Supervisor(graph, args.trace, level, rebuild, str(args.config or ""))
        if table:
            with LiveTable(console) as live:
                code = supervisor.run(live.tick)
                live.draw(supervisor)
        else:
            code = supervisor.run()
        if code != EXIT_OK or supervisor.successor is None:
            break
        graph = supervisor.successor
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run has ended; its files must be written whole
    if args.summary is not None and not write_json(args.summary, supervisor.summary()):
        code = code or EXIT_FAILED
    if not args.quiet and code != EXIT_SETUP:
        for line in closing_lines(supervisor):
            logging.info("%s", line)
        streams = [name.partition("#")[0] for name in supervisor.streams.summary()]
        for line in results(graph, streams):
            logging.info("%s", line)
    if code == EXIT_OK:
        for line in empty_results(supervisor):
            logging.warning("%s", line)
    if supervisor.lifecycle.error:
        print_error(supervisor.lifecycle.error)
    return code


def graph_of(args: argparse.Namespace) -> Graph:
    """Make the graph that the arguments ask for."""
    raw, where = settings_of(args)
    return build_graph(raw, where, args)


def empty_results(supervisor: Supervisor) -> list[str]:
    """Return a line for each stage that ran a model and found nothing in the whole run."""
    lines = []
    for node in supervisor.graph.nodes:
        frames = sum(row.processed for row in supervisor.status.rows_of(node))
        counts = supervisor.status.counts_of(node.name)
        if issubclass(node.kind, InferenceStage) and frames and counts.get("boxes") == 0:
            lines.append(
                f"stages.{node.name}: no object in {frames} frames; if there were some, try the "
                "model on an image: run.py models inspect MODEL --try IMAGE"
            )
    return lines


def results(graph: Graph, streams: Sequence[str]) -> list[str]:
    """Return a line that lists the files and folders the sinks have written.

    Args:
        graph: that of the run.
        streams: names of all streams of the run.
    """
    left = []
    for paths in left_by(graph, streams):
        files = [str(path) for path in paths]
        left += files if len(files) <= MAX_FILES else [f"{files[0]} … and {len(files) - 1} more"]
    return [f"results: {', '.join(left)}"] if left else []
