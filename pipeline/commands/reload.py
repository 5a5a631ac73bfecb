"""The command `reload`: makes a running daemon reload its settings."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from pipeline.commands.arguments import count
from pipeline.errors import ConfigError
from pipeline.messages import printable
from pipeline.supervisor.supervisor import TITLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--pid", type=count, help="process id of the daemon, if several run")


def main(args: argparse.Namespace) -> int:
    """Send SIGHUP to the daemon, whose log reports the result; return the exit status."""
    running = find_runs()
    if args.pid is not None:
        running = {pid: config for pid, config in running.items() if pid == args.pid}
    if not running:
        raise ConfigError(
            "reload: no run of Eyeline was found"
            + (f" with process id {args.pid}" if args.pid else "")
        )
    if len(running) > 1:
        listed = ", ".join(f"{pid} ({config})" for pid, config in running.items())
        raise ConfigError(f"reload: several runs were found: {listed}; choose one with --pid")
    for pid, config in running.items():
        try:
            os.kill(pid, signal.SIGHUP)
        except PermissionError:
            raise ConfigError(f"reload: process {pid} belongs to another user: try sudo") from None
        print(f"{printable(config)}: asked process {pid} to reload it; its log reports the result")
    return 0


def find_runs() -> dict[int, str]:
    """Return the processes of runs here that reload on SIGHUP, with their settings files."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            title = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if title.startswith(f"{TITLE} "):
            found[int(entry.name)] = title.removeprefix(TITLE).strip()
    return found
