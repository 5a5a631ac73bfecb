"""From the arguments to settings and a graph: shared by run, check, bench and service."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from models import zoo
from models.errors import ModelError
from pipeline import config as config_file
from pipeline.commands import COMMANDS
from pipeline.commands.arguments import count, score
from pipeline.errors import ConfigError, SetupError
from pipeline.graph.build import build
from pipeline.graph.graph import ExternalFiles, Graph
from pipeline.graph.load import load_class
from pipeline.messages import display_value
from pipeline.urls import HIDDEN, display_url
from stages import LOCATIONS, SINKS, STAGES

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = ROOT / "configs" / "demo.yaml"
DETECTION = ("preprocess", "detector", "nms", "tracker")
"""Stages of detection, in whose place one stage names the frame or its pixels."""
WHOLE_FRAME = ("classify", "semantic")
"""Tasks of models of the whole frame; each has a stage of its name."""
MEDIA = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"),
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
)
"""Endings of files that are a source rather than settings."""


def add_settings(command: argparse.ArgumentParser, default: Path = DEFAULT_CONFIG) -> None:
    """Add the arguments that choose a settings file and replace parts of it."""
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
    command.add_argument(
        "--sink",
        action="append",
        metavar="KIND[=TARGET]",
        help=f"{', '.join(SINKS)}; replaces the sinks; may be repeated",
    )
    add_changes(command)
    command.add_argument(
        "--live", action="store_true", help="play files at their own pace, as if live"
    )


def add_changes(command: argparse.ArgumentParser) -> None:
    """Add the arguments that change single settings."""
    command.add_argument(
        "--model",
        action="append",
        metavar="[STAGE=]M",
        help="name of a card, a card file, or an .onnx file; STAGE= where several stages have one",
    )
    command.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda", "tensorrt", "openvino"],
        help="device on which the model runs",
    )
    command.add_argument(
        "--confidence",
        type=score,
        metavar="SCORE",
        help="score from 0 to 1 that makes a detection an object (default: the model's)",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="replace one setting by a value in YAML; may be repeated",
    )
    command.add_argument("--frames", type=count, metavar="N", help="end each stream after N frames")


def settings_of(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the settings that the arguments ask for, and the name of their file."""
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
    if args.config is None and path == DEFAULT_CONFIG:
        raw["stages"] = _suited(raw["stages"], args.model or [])
    _set_models(raw["stages"], args.model or [])
    if args.device:
        tables = stages_with("device", raw["stages"])
        if not tables:
            raise ConfigError("--device: no stage of the settings has a device; leave it out")
        for table in tables.values():
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
    """Return a message for a word that is a source or a misspelt command; None: it is neither."""
    source = re.sub(r"^(\w+):/(?=[^/]|$)", r"\1://", word)  # as it was before it was a path
    path = Path(word)
    if source.isdecimal() or "://" in source or path.is_dir() or path.suffix.lower() in MEDIA:
        source = display_url(source)
        return f"{source}: not a settings file; to use it as a source: --source {source}"
    close = difflib.get_close_matches(word[:100], COMMANDS, n=1, cutoff=0.6)
    if close and not path.exists():
        return f"{display_url(word)}: no such command, and no such file; did you mean {close[0]!r}?"
    return None


def _streams(sources: list[str]) -> dict[str, Any]:
    streams: dict[str, Any] = {}
    for source in sources:
        if not source:
            raise ConfigError(
                "--source: expected a camera index, file, folder or address (found nothing)"
            )
        if source.isdecimal():
            name = f"camera{source[:9]}"
        elif "://" in source or display_url(source) == HIDDEN:
            name = f"stream{len(streams) + 1}"
        else:
            name = name_in_settings(Path(source).stem, f"stream{len(streams) + 1}")
        streams[unique_name(name, streams)] = {"source": source}
    return streams


def name_in_settings(text: str, otherwise: str) -> str:
    """Make a name of a stream of a text: letters, digits, - and _.

    Args:
        text: text.
        otherwise: name for a text that gives none, as one that begins with a digit.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    return name if re.match(config_file.NAME, name) else otherwise


def unique_name(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken: with _2, _3 and so on where it is."""
    unique, n = name, 2
    while unique in taken:
        unique, n = f"{name}_{n}", n + 1
    return unique


def _replace_sinks(raw: dict[str, Any], sinks: list[str]) -> None:
    stages = raw["stages"]
    for name in [n for n, table in stages.items() if _use_of(table) in SINKS]:
        del stages[name]
    if not stages:
        raise ConfigError("--sink: the settings file has only sinks; add a source stage")
    last = list(stages)[-1]
    for sink in sinks:
        kind, equals, target = sink.partition("=")
        if kind not in SINKS:
            raise ConfigError(
                f"--sink: no sink is called {display_value(kind)}"
                f"{config_file.did_you_mean(kind, list(SINKS))}"
            )
        setting = SINKS[kind]
        name, n = kind, 2
        while name in stages:
            name, n = f"{kind}{n}", n + 1
        stages[name] = {"use": kind, "after": last}
        if setting == "port" and target and not target.isdecimal():
            raise ConfigError(f"--sink {kind}: expected a port number, {kind}=PORT")
        if equals and not setting:
            raise ConfigError(f"--sink {kind}: takes no target")
        if target and setting:
            stages[name][setting] = target
        elif setting and (equals or _is_required(kind, setting)):
            raise ConfigError(f"--sink {kind}: expected {kind}={setting.upper()}")


def stages_with(option: str, stages: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of the stages that have an option, in the order of the settings file."""
    entries = {name: STAGES.get(_use_of(table)) for name, table in stages.items()}
    return {name: stages[name] for name, of in entries.items() if of and option in of.options}


def _suited(stages: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """Return the default stages, or those for a model that names the frame, or its pixels.

    Without a settings file, the task of the model says which stage runs it.
    """
    try:
        task = zoo.resolve(models[0]).task if len(models) == 1 else None
    except ModelError:
        return stages  # the stage reports it, with its name
    if task not in WHOLE_FRAME:
        return stages
    replaced = {name for name, table in stages.items() if _use_of(table) in DETECTION}
    suited: dict[str, Any] = {}
    for name, table in stages.items():
        if name not in replaced:
            follows = isinstance(table, dict) and table.get("after") in replaced
            suited[name] = {**table, "after": task} if follows else table
        elif task not in suited:
            suited[task] = {"use": task}
    return suited


def _set_models(stages: dict[str, Any], models: list[str]) -> None:
    """Set the models: `STAGE=MODEL` in that stage, others from the first stage that has one on."""
    tables = stages_with("model", stages)
    free = list(tables)
    for model in models:
        stage, equals, rest = model.partition("=")
        if equals and stage in tables:
            tables[stage]["model"] = rest
        elif equals and re.match(config_file.NAME, stage) and not Path(model).exists():
            raise ConfigError(
                f"--model {stage}=...: no stage of this name has a model"
                f"{config_file.did_you_mean(stage, list(tables))}"
            )
        elif free:
            tables[free.pop(0)]["model"] = model
        else:
            raise ConfigError(
                f"--model: more models than stages that have one (found {len(models)} models, "
                f"{len(tables)} stages); leave one out"
            )


def _use_of(table: Any) -> str:
    """Return the `use` of a stage's table; "" where it is missing, which is refused later."""
    use = table.get("use") if isinstance(table, dict) else None
    return use if isinstance(use, str) else ""


def _is_required(kind: str, setting: str) -> bool:
    settings = load_class(kind, LOCATIONS, "--sink").Settings
    return any(f.name == setting and f.required for f in msgspec.structs.fields(settings))


def build_graph(
    raw: dict[str, Any], where: str, args: argparse.Namespace, keep_unavailable: bool = False
) -> Graph:
    """Make the graph of some settings, which writes no file that the arguments name."""
    options = {f"--{name}": getattr(args, name, None) for name in ("summary", "trace", "json")}
    external = ExternalFiles(
        reads={"the settings file": args.config or args.default_config},
        writes={option: path for option, path in options.items() if path is not None},
    )
    try:
        return build(
            config_file.check(raw, where),
            LOCATIONS,
            where,
            external=external,
            keep_unavailable=keep_unavailable,
        )
    except SetupError as error:
        if args.config is None:  # the name of a default file does not help
            raise type(error)(str(error).removeprefix(f"{where}: ")) from None
        raise
