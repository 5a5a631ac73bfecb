#!/usr/bin/env python3
"""Eyeline's command line: reads settings, checks them, runs the pipeline. See `run.py --help`."""

from __future__ import annotations

import os
import signal
import sys

for _fd in range(3):
    # A daemon may be started with some of these closed; no socket may take their place.
    try:
        os.fstat(_fd)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _cannot_start(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Print in one line why the imports below fail, and exit with status 2."""
    root = os.path.dirname(os.path.abspath(__file__))
    version = sys.version.partition(" ")[0]
    python = os.path.join(root, ".venv", "bin", "python")
    words = " ".join(str(error).split())[:120]
    if sys.version_info < (3, 11):  # noqa: UP036 - here, and only here, an older one may come by
        text = f"Eyeline needs Python 3.11 or newer (found {version}); install one"
    elif "Too many" in words or "memory" in words or issubclass(kind, MemoryError | RuntimeError):
        text = f"cannot start ({kind.__name__}: {words}); check the limits of this shell, ulimit -a"
    elif not isinstance(error, ImportError | OSError):
        text = f"cannot start ({kind.__name__}: {words}); a file is damaged, check it out again"
    elif os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(root, ".venv")):
        text = f"a package is damaged or missing ({words}); remove .venv, then run `make install`"
    else:
        text = f"{words} in {sys.executable}; run `make install`, then {python} run.py"
    print(f"run.py: {text}", file=sys.stderr, flush=True)
    os._exit(2)


if __name__ == "__main__":
    sys.excepthook = _cannot_start  # until main() has its own guard
    # Until the supervisor heeds signals: nothing has been started yet that would need an end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    # Names of files, arguments and texts are UTF-8 whatever the locale says, as OpenCV takes them;
    # Python decides this before its first line, and so must be started again.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

# Before numpy and OpenCV are imported: stages are the unit of parallelism, so libraries start no
# threads of their own (the supervisor could not fork safely if they did), and what FFmpeg and
# OpenCV have to say on stderr is said in our own words.
for _name, _value in (
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("OPENCV_LOG_LEVEL", "OFF"),
    ("OPENCV_FFMPEG_LOGLEVEL", "-8"),  # see stages/capture/opencv_live.py, which hears it
    ("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28)),  # of an image; more are refused unread
    ("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1"),  # seconds; a silent webcam cannot be interrupted
):
    os.environ.setdefault(_name, _value)

import argparse
import difflib
import json
import logging
import math
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import setproctitle
from rich.console import Console

from models import zoo
from models.errors import ModelError, NothingToCompare
from pipeline import bench
from pipeline import config as config_file
from pipeline.commands.terminal import LiveTable, closing_lines, lasting, set_up_logging
from pipeline.errors import ConfigError, EyelineError, RunError, SetupError
from pipeline.graph import graph as graph_of
from pipeline.graph.schema import schema as settings_schema
from pipeline.messages import display_value, name_of, one_line, printable
from pipeline.service.service import Service, files_in
from pipeline.supervisor.supervisor import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SETUP,
    TITLE,
    Supervisor,
    find_runs,
)
from pipeline.urls import HIDDEN, display_url
from stages import FILE_PER_STREAM, SINKS, STAGES
from stages.sinks.files.output_path import check_local, stream_path

ROOT = Path(__file__).resolve().parent
DEFAULT_CONFIG = ROOT / "configs" / "demo.yaml"
BENCH_CONFIG = ROOT / "configs" / "bench.yaml"
DAEMON_CONFIG = ROOT / "configs" / "daemon.yaml"
MEDIA = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"),
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
)
"""Endings of what is a source rather than a settings file."""
MOST_FILES = 6
"""Of one sink that are named one by one at the end."""
COMMANDS = ("run", "check", "bench", "models", "reload", "schema", "service")


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for word in argv:
        if any("\ud800" <= c <= "\udfff" for c in word):
            _complain("an argument is not text in UTF-8; rename the file, or write it in UTF-8")
            return EXIT_SETUP
    # `run` may be left out: "run.py --source 0" and "run.py my.yaml" are runs.
    if not argv or argv[0] not in (*COMMANDS, "-h", "--help"):
        argv.insert(0, "run")
    args = parser().parse_args(argv)
    # For stages of the user's own, `use: my_package.my_module:MyStage`.
    sys.path.append("")
    try:
        status = int(args.command(args))
        sys.stdout.flush()
        return status
    except RunError as error:
        _complain(error)
        return EXIT_FAILED
    except EyelineError as error:
        _complain(error)
        return EXIT_SETUP
    except BrokenPipeError:
        return EXIT_FAILED
    except OSError as error:  # no memory, no descriptors, a full disk behind standard output
        _show_traceback(args)
        _complain(f"{error.filename or _place(error)}: {error.strerror or error}")
        os._exit(EXIT_FAILED)  # what is left in a buffer would be tried again, and complained of
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # a mistake of ours; run() has stopped and reaped its processes
        _show_traceback(args)
        _complain(f"{_place(error)}: {type(error).__name__}: {error}")
        return EXIT_FAILED


def _place(error: BaseException) -> str:
    """File and line of this program at which an error arose."""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if Path(step.filename).resolve().is_relative_to(ROOT)]
    own = [step for step in own if ".venv" not in step.filename] or steps
    if not own:
        return "run.py"
    file = Path(own[-1].filename).resolve()
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}:{own[-1].lineno}"


def _show_traceback(args: argparse.Namespace) -> None:
    """Print how an error came about, where `--verbose` asks for it."""
    if getattr(args, "verbose", False):
        traceback.print_exc()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        # Of what was written in the wrong place, nothing is repeated that may be a secret.
        message = re.sub(
            r"invalid choice: '(.*)' \(",
            lambda m: f"invalid choice: {display_value(m[1])} (",
            message,
        )
        what, colon, words = message.partition("unrecognized arguments: ")
        if colon:
            shown = (name_of(word.partition("=")[0]) for word in words.split())
            message = f"{what}{colon}{' '.join(shown)}"
        message = re.sub(
            r"(ambiguous option: [^= ]*)\S*|(ignored explicit argument).*", r"\1\2", message
        )
        _complain(f"{message}; see run.py --help")
        self.exit(EXIT_SETUP)


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = _Parser(prog="run.py", description="Eyeline: cameras and files in, tracked objects out.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the pipeline (the default command)")
    run.set_defaults(command=run_command)
    _add_settings(run)
    run.add_argument("--summary", type=Path, metavar="FILE.json", help="write the run in figures")
    run.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="write a trace to open in Perfetto"
    )
    loud = run.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="only warnings, no table")
    loud.add_argument("-v", "--verbose", action="store_true", help="also what is for debugging")

    check = commands.add_parser("check", help="check the settings and draw the graph")
    check.set_defaults(command=check_command)
    _add_settings(check)

    bench = commands.add_parser("bench", help="measure the pipeline against its limits")
    bench.set_defaults(command=bench_command)
    _add_settings(bench, BENCH_CONFIG)
    bench.add_argument("--json", type=Path, metavar="FILE.json", help="write the figures")
    bench.add_argument("--rounds", type=_count, default=3, help="interleaved rounds (default 3)")

    models = commands.add_parser("models", help="list, inspect, fetch or verify models")
    models.set_defaults(command=models_command)
    models.add_argument("action", nargs="?", choices=["inspect", "fetch", "verify"])
    models.add_argument("what", nargs="?", metavar="FILE|NAME")

    reload = commands.add_parser("reload", help="have a running daemon read its settings anew")
    reload.set_defaults(command=reload_command)
    reload.add_argument("--pid", type=_count, help="of the daemon, if several run")

    schema = commands.add_parser("schema", help="print the JSON schema of the settings")
    schema.set_defaults(command=schema_command)

    service = commands.add_parser("service", help="install, remove or show it as a systemd service")
    service.set_defaults(command=service_command)
    actions = service.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, what in (
        ("install", "write and start the service, or bring it up to date"),
        ("uninstall", "stop and remove it"),
        ("status", "say how it is doing"),
    ):
        command = actions.add_parser(action, help=what)
        command.add_argument("--name", default="eyeline", help="of the service (default: eyeline)")
        command.add_argument("--user", action="store_true", help="a service of yours, without root")
        if action == "install":
            command.add_argument(
                "config", nargs="?", type=Path, help="settings file (default: configs/daemon.yaml)"
            )
        if action != "status":
            command.add_argument("--dry-run", action="store_true", help="say what, change nothing")
    return top


def _add_settings(command: argparse.ArgumentParser, default: Path = DEFAULT_CONFIG) -> None:
    """The arguments that choose a settings file and replace parts of it."""
    command.set_defaults(default_config=default)
    command.add_argument(
        "config", nargs="?", type=Path, help=f"settings file (default: configs/{default.name})"
    )
    command.add_argument(
        "--source",
        action="append",
        metavar="S",
        help="camera index, file, folder or address; replaces the streams; may be repeated",
    )
    command.add_argument("--model", metavar="M", help="name of a card, a card, or an .onnx file")
    command.add_argument(
        "--sink",
        action="append",
        metavar="KIND[=TARGET]",
        help=f"{', '.join(SINKS)}; replaces the sinks; may be repeated",
    )
    command.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda", "tensorrt", "openvino"],
        help="where the detector runs",
    )
    command.add_argument(
        "--confidence",
        type=_score,
        metavar="SCORE",
        help="0 to 1: what a detection must score to count as an object (default: by the model)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="replace one setting by a value in YAML; may be repeated",
    )
    command.add_argument(
        "--frames", type=_count, metavar="N", help="end each stream after N pictures"
    )
    command.add_argument(
        "--live", action="store_true", help="play files at their own pace, as if live"
    )


def _count(text: str) -> int:
    value = int(text) if config_file.is_number(text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"expected a number from 1 to 999999999, found {name_of(text)}"
        )
    return value


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The settings that the arguments ask for, and the name of the file they come from."""
    path = args.config or args.default_config
    try:
        raw = config_file.load(path)
    except ConfigError as error:
        raise ConfigError(_not_settings(str(args.config or "")) or str(error)) from None
    where = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    for table in ("streams", "stages"):
        if not isinstance(raw.get(table), dict):
            wrong = display_value(raw.get(table), "source")
            raise ConfigError(f"{where}: {table}: expected a table, found {wrong}")
    if args.source:
        raw["streams"] = _streams(args.source)
    if args.sink:
        _replace_sinks(raw, args.sink)
    for table in raw["stages"].values():
        if _use_of(table) == "detector":
            if args.model is not None:
                table["model"] = args.model
            if args.device:
                table["device"] = args.device
    if args.confidence is not None:
        raw["confidence"] = args.confidence
    for table in raw["streams"].values():
        if isinstance(table, dict):
            if args.frames:
                table["frames"] = args.frames
            if args.live:
                table["mode"] = "live"
    for assignment in args.set:
        config_file.override(raw, assignment)
    return raw, where


def _not_settings(word: str) -> str | None:
    """What to say of a word that is no settings file but was meant for something else, if so."""
    source = re.sub(r"^(\w+):/(?=[^/]|$)", r"\1://", word)  # as it was before it was a path
    path = Path(word)
    if source.isdecimal() or "://" in source or path.is_dir() or path.suffix.lower() in MEDIA:
        source = display_url(source)
        return f"{source}: not a settings file; to read pictures from it: --source {source}"
    close = difflib.get_close_matches(word[:100], COMMANDS, n=1, cutoff=0.6)
    if close and not path.exists():
        return f"{display_url(word)}: no such command, and no such file; did you mean {close[0]!r}?"
    return None


def _streams(sources: list[str]) -> dict[str, Any]:
    streams: dict[str, Any] = {}
    for source in sources:
        if not source:
            raise ConfigError("--source: expected a camera index, file, folder or address")
        if source.isdecimal():
            name = f"camera{source[:9]}"
        elif "://" in source or display_url(source) == HIDDEN:
            name = f"stream{len(streams) + 1}"
        else:
            name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)
            if not re.match(config_file.NAME, name):
                name = f"stream{len(streams) + 1}"
        unique, n = name, 2
        while unique in streams:
            unique, n = f"{name}_{n}", n + 1
        streams[unique] = {"source": source}
    return streams


def _replace_sinks(raw: dict[str, Any], sinks: list[str]) -> None:
    stages = raw["stages"]
    for name in [n for n, table in stages.items() if _use_of(table) in SINKS]:
        del stages[name]
    if not stages:
        raise ConfigError("--sink: no stage is left to put it behind")
    last = list(stages)[-1]
    for sink in sinks:
        kind, equals, target = sink.partition("=")
        if kind not in SINKS:
            raise ConfigError(
                f"--sink: no sink is called {display_value(kind)}"
                f"{config_file.hint(kind, list(SINKS))}"
            )
        setting = SINKS[kind]
        name, n = kind, 2
        while name in stages:
            name, n = f"{kind}{n}", n + 1
        stages[name] = {"use": kind, "after": last}
        if setting == "port" and target and not target.isdecimal():
            raise ConfigError(f"--sink {kind}: expected a port number, {kind}=PORT")
        if equals and setting is None:
            raise ConfigError(f"--sink {kind}: takes no target")
        if target and setting is not None:
            stages[name][setting] = target
        elif setting is not None and (equals or _is_required(kind, setting)):
            raise ConfigError(f"--sink {kind}: expected {kind}={setting.upper()}")


def _use_of(table: Any) -> str:
    """Which stage a table is of; "" if it does not say, which is refused later."""
    use = table.get("use") if isinstance(table, dict) else None
    return use if isinstance(use, str) else ""


def _is_required(kind: str, setting: str) -> bool:
    settings = graph_of.load_class(kind, STAGES, "--sink").Settings
    return any(f.name == setting and f.required for f in msgspec.structs.fields(settings))


def _leave_out_windows(raw: dict[str, Any]) -> None:
    """Without a display, do without the window; other sinks go on."""
    windows = [n for n, t in raw["stages"].items() if _use_of(t) == "window"]
    if not windows:
        return
    from stages.sinks.window import display_problem

    problem = display_problem()
    if problem is None:
        return
    logging.warning("no window: %s", problem)
    for name in windows:
        del raw["stages"][name]


def _graph(args: argparse.Namespace) -> graph_of.Graph:
    raw, where = settings_of(args)
    _leave_out_windows(raw)
    return _build(raw, where, args)


def _build(raw: dict[str, Any], where: str, args: argparse.Namespace) -> graph_of.Graph:
    """The graph of some settings, none of whose sinks writes a file that is needed elsewhere."""
    options = {f"--{name}": getattr(args, name, None) for name in ("summary", "trace", "json")}
    others = graph_of.Others(
        read={"the settings file": args.config or args.default_config},
        written={option: path for option, path in options.items() if path is not None},
    )
    try:
        return graph_of.build(config_file.check(raw, where), STAGES, where, others=others)
    except SetupError as error:
        if args.config is None:  # a file that the user did not name does not help to find it
            raise type(error)(str(error).removeprefix(f"{where}: ")) from None
        raise


def run_command(args: argparse.Namespace) -> int:
    """Run the pipeline to its end."""
    console = Console(stderr=True)
    table = console.is_terminal and not args.quiet
    level = logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    set_up_logging(level, console if table else None)
    graph = _graph(args)
    for path in (args.summary, args.trace):
        if path is not None:
            _check_writable(path)
    # A terminal that is closed ends the run; a daemon, which has none, reads its settings anew.
    rebuild = None if sys.stdin.isatty() or sys.stderr.isatty() else lambda: _graph(args)
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
        signal.signal(number, signal.SIG_IGN)  # it ends anyway, and what is written shall be whole
    if args.summary is not None and not _write_json(args.summary, supervisor.summary()):
        code = code or EXIT_FAILED
    if not args.quiet and code != EXIT_SETUP:
        for line in closing_lines(supervisor):
            logging.info("%s", line)
        streams = [name.partition("#")[0] for name in supervisor.feeds.summary()]
        for line in _results(graph, streams):
            logging.info("%s", line)
    if supervisor.error:
        _complain(supervisor.error)
    return code


def _complain(error: object) -> None:
    """Say on one line of stderr what is wrong, whatever characters a path or a file brings in."""
    print(one_line(f"run.py: {error}"), file=sys.stderr)


def _results(graph: graph_of.Graph, streams: Iterable[str]) -> list[str]:
    """What the sinks have left: the files and folders that are there.

    Args:
        graph: what ran.
        streams: names of all streams that there were.
    """
    left = []
    for node in graph.nodes:
        files = _files_of(node, streams)
        left += files if len(files) <= MOST_FILES else [f"{files[0]} … and {len(files) - 1} more"]
        folder = Path(getattr(node.settings, "folder", os.devnull))
        if folder.is_dir() and os.access(folder, os.R_OK) and any(folder.iterdir()):
            left.append(str(folder))
    return [f"results: {', '.join(left)}"] if left else []


def _files_of(node: graph_of.Node, streams: Iterable[str]) -> list[str]:
    path = str(getattr(node.settings, "path", ""))
    names = [path]
    if node.use in FILE_PER_STREAM:
        names = list(dict.fromkeys(stream_path(path, s, node.facts["streams"]) for s in streams))
    names = [name for name in names if os.path.isfile(name)]
    if node.use == "video":
        return [str(part) for name in names for part in _parts_of(Path(name))]
    return names


def _parts_of(path: Path) -> Iterator[Path]:
    """A video, and the parts in which it went on."""
    from stages.sinks.video.video import part_path

    number, when = 1, 0
    # A part that is older than the one before it is of an earlier run.
    while (part := part_path(path, number)).is_file() and part.stat().st_mtime_ns >= when:
        yield part
        number, when = number + 1, part.stat().st_mtime_ns


def _check_writable(path: Path) -> None:
    check_local("output", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _write_json(path: Path, value: Any) -> bool:
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    except OSError as error:
        _complain(f"{path}: cannot be written: {error.strerror}")
        return False
    return True


def check_command(args: argparse.Namespace) -> int:
    """Check the settings and draw the graph; start nothing."""
    raw, where = settings_of(args)
    print(_build(raw, where, args).draw())
    return 0


def bench_command(args: argparse.Namespace) -> int:
    """Measure the pipeline against its limits."""
    set_up_logging(logging.WARNING, None)
    raw, where = settings_of(args)
    bench.check(_build(raw, where, args))
    if args.json is not None:
        _check_writable(args.json)
    start = [sys.executable, str(ROOT / "run.py"), "run", str(args.config or BENCH_CONFIG), "-q"]
    for option in ("source", "set"):
        for value in getattr(args, option) or ():
            start += [f"--{option}", value]
    for option in ("model", "device", "confidence"):
        if getattr(args, option) is not None:
            start += [f"--{option}", str(getattr(args, option))]
    try:
        figures = bench.bench(
            lambda: _build(raw, where, args),
            args.rounds,
            [*start, "--sink", "events=-"],
        )
    except RunError as error:
        _complain(error)
        return EXIT_FAILED
    print(bench.as_text(figures))
    return 0 if args.json is None or _write_json(args.json, figures) else EXIT_FAILED


def models_command(args: argparse.Namespace) -> int:
    """List, inspect, fetch or verify models."""
    if args.action is not None and args.what is None:
        raise ConfigError(f"models {args.action}: expected the name of a card, or a file")
    try:
        if args.action is None:
            for model in zoo.known():
                where = "here" if model.weights else f"run.py models fetch {model.card.name}"
                card = model.card
                print(
                    f"{card.name:24} {card.task:9} {card.family:8} "
                    f"{card.weights.licence or '?':12} {where}"
                )
        elif args.action == "inspect":
            print(zoo.resolve(args.what).describe())
        elif args.action == "fetch":
            print(zoo.fetch(args.what))
        else:
            print(f"{zoo.verify(args.what)}: as its card says")
    except NothingToCompare as error:
        _complain(error)
        return EXIT_FAILED
    except ModelError as error:
        raise SetupError(str(error)) from None
    return 0


def reload_command(args: argparse.Namespace) -> int:
    """Have a running daemon read its settings anew, by SIGHUP; its log says what came of it."""
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
        raise ConfigError(f"reload: several are running, say --pid: {listed}")
    for pid, config in running.items():
        try:
            os.kill(pid, signal.SIGHUP)
        except PermissionError:
            raise ConfigError(f"reload: process {pid} belongs to another user: try sudo") from None
        print(
            f"{printable(config)}: asked process {pid} to read it anew; its log says what came "
            "of it"
        )
    return 0


def schema_command(args: argparse.Namespace) -> int:
    """Print the JSON schema of the settings."""
    print(json.dumps(settings_schema(STAGES), indent=2))
    return 0


def _readyz(service: Service) -> str | None:
    """The address at which the service's status page says whether it is ready, if it has one."""
    path = service.settings_path()
    if path is None:
        return None
    try:
        with service.surroundings():
            config = config_file.check(config_file.load(path), str(path))
            nodes = graph_of.build(config, STAGES, str(path)).nodes
    except SetupError:
        return None  # it may still run, with the settings as they were
    for node in nodes:
        if node.use == "web":
            settings: Any = node.settings
            everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
            host = everywhere.get(settings.address, settings.address)
            return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/readyz"
    return None


def service_command(args: argparse.Namespace) -> int:
    """Install, remove or show the program as a service of systemd."""
    service = Service(args.name, args.user)
    if args.action == "status":
        code, lines = service.status(_readyz(service))
        print("\n".join(lines))
        return code
    if args.action == "install":
        config = (args.config or DAEMON_CONFIG).absolute()
        with service.surroundings():
            raw, where = config_file.load(config), str(config)
            _leave_out_windows(raw)
            args.config = config
            graph = _build(raw, where, args)
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
        _complain(error)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.excepthook = sys.__excepthook__
    sys.stderr = lasting(2, sys.stderr.encoding)
    sys.exit(main())
