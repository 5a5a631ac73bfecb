"""The command `service`: installs, removes or shows Eyeline as a service of systemd."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import config as config_file
from pipeline.commands.options import ROOT, build_graph
from pipeline.commands.terminal import print_error
from pipeline.errors import RunError, SetupError
from pipeline.graph.build import build
from pipeline.graph.resources import LOOPBACK, listeners
from pipeline.service.service import Service, files_in
from pipeline.supervisor.lifecycle import EXIT_FAILED
from stages import LOCATIONS

DAEMON_CONFIG = ROOT / "configs" / "daemon.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in (
        ("install", "write and start the service, or update it"),
        ("uninstall", "stop the service and remove it"),
        ("status", "show whether the service runs and is ready"),
    ):
        command = actions.add_parser(action, help=text)
        command.add_argument(
            "--name", default="eyeline", help="name of the service (default: eyeline)"
        )
        command.add_argument("--user", action="store_true", help="user service, no root needed")
        if action == "install":
            command.add_argument(
                "config", nargs="?", type=Path, help="settings file (default: configs/daemon.yaml)"
            )
        if action != "status":
            command.add_argument(
                "--dry-run", action="store_true", help="show the changes and make none"
            )


def main(args: argparse.Namespace) -> int:
    """Install, remove or show the service, and return the exit status."""
    service = Service(args.name, args.user)
    if args.action == "status":
        code, lines = service.status(_readyz(service))
        print("\n".join(lines))
        return code
    if args.action == "install":
        config = (args.config or DAEMON_CONFIG).absolute()
        with service.surroundings():
            raw, where = config_file.load(config), str(config)
            args.config = config
            graph = build_graph(raw, where, args)
        account = service.account(config, files_in(raw))
        unit = service.unit(config, graph.config.supervisor.stop_timeout_s, account)
        if args.dry_run:
            print(unit, end="")
            return 0
    elif args.dry_run:
        if service.installed() is None:
            print(f"{service.name} is not installed: there is no {service.unit_path}")
            return 0
        print(f"would stop and disable {service.name}, and remove {service.unit_path}")
        return 0
    try:
        for line in service.install(unit) if args.action == "install" else service.uninstall():
            print(line, flush=True)
    except RunError as error:
        print_error(error)
        return EXIT_FAILED
    return 0


def _readyz(service: Service) -> str | None:
    """Return the address at which the service reports whether it is ready, if it has one."""
    path = service.settings_path()
    if path is None:
        return None
    try:
        with service.surroundings():
            config = config_file.check(config_file.load(path), str(path))
            graph = build(config, LOCATIONS, str(path))
    except SetupError:
        return None  # it may still run, with the settings as they were
    for listen in listeners(graph, "readyz"):
        host = LOOPBACK.get(listen.host, listen.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{listen.port}/readyz"
    return None
