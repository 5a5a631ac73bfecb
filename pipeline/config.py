"""From a YAML file to typed, immutable, strict settings; every error names file and key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from pipeline import yaml_reader
from pipeline.errors import ConfigError
from pipeline.messages import display_value, name_of
from pipeline.stage import Settings
from pipeline.text_files import read_text
from pipeline.urls import display_url

NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")

ROOT = Path(__file__).resolve().parents[1]

T = TypeVar("T")


class SupervisorSettings(Settings, frozen=True):
    """Limits for workers that die, hang, or are asked to stop."""

    restarts: Annotated[int, Meta(ge=0)] = 10
    """Restarts of one worker within `window_s`; its next death ends the run."""
    window_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """Seconds over which the restarts of a worker are counted."""
    hang_s: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    """Seconds without a heartbeat after which a worker is killed and restarted; must be longer than
    the longest single call of a stage."""
    stop_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 10.0
    """Seconds that frames in flight may take to drain when the run is asked to stop."""


class StreamSettings(Settings, frozen=True):
    """Settings of a stream for the pipeline; its other keys are settings of the capture stage."""

    slots: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = "auto"
    """Frames that may be in flight: sets latency, not throughput. auto: just enough to keep the
    detector busy; live streams share those beyond one each."""
    max_age_ms: Annotated[float, Meta(gt=0)] | None = None
    """Age in milliseconds from which a live frame is dropped (`stale`) before a stage processes it;
    null: never."""


class Config(Settings, frozen=True):
    """A whole settings file, with the settings of streams and stages still as written."""

    streams: dict[Annotated[str, Meta(pattern=NAME)], dict[str, Any]]
    """Name -> `source` and further settings, see `StreamSettings` and the capture stage."""
    stages: dict[Annotated[str, Meta(pattern=NAME)], dict[str, Any]]
    """Name -> `use`, `after`, `process`, and the settings of the stage itself."""
    placement: Literal["auto", "separate"] = "auto"
    """auto: each stage in a process of its own where there are cores for it, else stages share
    processes; separate: always a process of its own."""
    max_frame: Annotated[str, Meta(pattern=r"^\d{1,5}x\d{1,5}$")] = "3840x2160"
    """Largest image, as WIDTHxHEIGHT: sets the size of a slot. Memory is only used for the images
    that arrive."""
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Score that a detection needs to start or confirm a track, and to reach the sinks where there
    is no tracker. A confirmed track may continue with weaker ones, see the tracker. null: the score
    on the card of the model; without a card, the settings of nms and tracker."""
    supervisor: SupervisorSettings = SupervisorSettings()
    """Restarts of workers, and the time they have to stop."""


def load(path: Path) -> dict[str, Any]:
    """Read a settings file, with `${NAME}` replaced from the environment; not yet checked.

    `${EYELINE}` is the folder of run.py, so that files shipped with it are found from any working
    directory; a plain `${` is written `$${`.

    Raises:
        ConfigError: unreadable, not YAML, a key twice, an unknown environment variable.
    """
    try:
        text = read_text(path)
    except ConfigError as error:
        # A file that does not exist may be an address in the place of a file.
        shown = path if path.exists() else display_url(path)
        raise ConfigError(f"{shown}: cannot be read: {error}") from None
    try:
        raw = yaml_reader.parse(text)
    except yaml_reader.YamlError as error:
        advice = ""
        if re.search(r"[{\[,][^}'\"\n]*\$\{", text) and "expected ','" in str(error):
            advice = " (${NAME} inside { } needs quotes: '${NAME}')"
        raise ConfigError(f"{path}: {error}{advice}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected `streams:` and `stages:`, found {display_value(raw)}")
    expanded = _expand(raw, str(path), "")
    assert isinstance(expanded, dict)
    return expanded


def check(raw: Mapping[str, Any], where: str) -> Config:
    """Check everything but the settings of streams and stages, which the graph checks.

    Args:
        raw: settings as `load` returns them.
        where: name of the file, for messages.

    Raises:
        ConfigError: an unknown key, a missing key, a value out of bounds.
    """
    for table in ("streams", "stages"):
        entries = raw.get(table)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            if not isinstance(name, str) or not re.fullmatch(NAME.strip("^$"), name):
                raise ConfigError(
                    f"{where}: {table}: {display_value(name)} is not a valid name; use letters, "
                    "digits, - and _, beginning with a letter"
                )
            if not isinstance(value, dict):
                key = f"{table}.{name}"
                shown = display_value(value, "source" if table == "streams" else "")
                raise ConfigError(f"{where}: {key}: expected settings, found {shown}")
    config = convert(raw, Config, where)
    if not config.streams:
        raise ConfigError(f"{where}: streams: expected at least one, found none")
    if not config.stages:
        raise ConfigError(f"{where}: stages: expected at least one, found none")
    return config


def override(raw: dict[str, Any], assignment: str) -> None:
    """Apply one `--set stage.key=value`; the value is read as YAML.

    The first part may also be `supervisor`, or `streams.NAME`, or one of the top-level keys alone.

    Raises:
        ConfigError: not of that form, or no such stage.
    """
    path, equals, text = assignment.partition("=")
    parts = path.split(".")
    if not equals or not all(map(_KEY.fullmatch, parts)):
        # Not repeated in the message: without its key, it may be a secret.
        raise ConfigError("--set: expected STAGE.KEY=VALUE, as in --set nms.min_score=0.4")
    option = f"--set {path}"
    try:
        value = yaml_reader.parse(text)
    except yaml_reader.YamlError as error:
        raise ConfigError(f"{option}: {error}") from None
    if len(parts) == 1:
        if path in ("streams", "stages"):
            raise ConfigError(f"{option}: expected {path}.NAME.KEY=VALUE, found {path} alone")
        raw[path] = value
        return
    if parts[0] in ("supervisor", "streams", "stages"):
        tables = parts[:-1]
    else:
        tables = ["stages", *parts[:-1]]
        known = list(raw.get("stages") or {})
        if tables[1] not in known:
            raise ConfigError(
                f"{option}: no stage is named {tables[1]!r}{did_you_mean(tables[1], known)}"
            )
    table = raw
    for part in tables:
        if table.get(part) is None:
            table[part] = {}
        table = table[part]
        if not isinstance(table, dict):
            raise ConfigError(f"{option}: expected {part!r} to be a table, found one value")
    table[parts[-1]] = value


def convert(raw: Any, kind: type[T], where: str, also: tuple[str, ...] = ()) -> T:
    """Check raw settings against a Struct.

    Args:
        raw: settings as read.
        kind: the Struct.
        where: start of each message.
        also: other keys that are allowed here, for suggestions.

    Raises:
        ConfigError: a message that starts with `where` and names the key.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), raw, kind, also)}") from None


def refuse_unknown(
    raw: Mapping[str, Any], known: list[str], also: tuple[str, ...], where: str
) -> None:
    """Refuse unknown keys.

    Raises:
        ConfigError: there is one.
    """
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"{where}: {name_of(key)}: unknown key{did_you_mean(str(key), [*known, *also])}"
            )


def is_number(text: str) -> bool:
    """Return whether a text is an index, a class or a count: up to nine digits.

    Python refuses to convert thousands of digits, and no number here is that large.
    """
    return text.isdecimal() and len(text) < 10


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return the end of a message about an unknown word: a similar word, or all known ones."""
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _expand(value: Any, where: str, key: str) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, where, f"{key}.{name_of(k)}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, where, f"{key}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if name == "EYELINE" and name not in os.environ:
            return str(ROOT)
        if name not in os.environ:
            raise ConfigError(f"{where}: {key}: environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$\$\{|\$\{(\w+)\}", replace, value)


def _explain(message: str, raw: Any, kind: Any, also: tuple[str, ...]) -> str:
    """Return msgspec's message with the key in front, and a suggestion for an unknown key."""
    key, text = _key_and_text(message, raw, kind, also)
    return f"{key}: {text}" if key else text


def _key_and_text(message: str, raw: Any, kind: Any, also: tuple[str, ...]) -> tuple[str, str]:
    text, _, path = message.partition(" - at ")
    key = path.strip("`").removeprefix("$").lstrip(".")
    table, entry, _ = key.partition("[...]")
    types = get_args(_type_at(kind, table))
    for name, value in _at(raw, table).items() if entry and len(types) == 2 else ():
        # msgspec does not name the entry of a table that is wrong.
        try:
            msgspec.convert(value, types[1])
        except msgspec.ValidationError as error:
            below, text = _key_and_text(str(error), value, types[1], ())
            return f"{table}.{name_of(name)}.{below}".rstrip("."), text
    key = key.replace("[...]", "")
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if unknown:
        known = known_keys(kind, key)
        key = f"{key}.{name_of(unknown[1])}".lstrip(".")
        return key, f"unknown key{did_you_mean(unknown[1], [*known, *also])}"
    missing = re.search(r"missing required field `([^`]*)`", text)
    if missing:
        return f"{key}.{missing[1]}".lstrip("."), "missing"
    text = text[0].lower() + text[1:]
    if text.startswith("invalid enum value"):
        choices = ", ".join(str(choice) for choice in _choices(_type_at(kind, key)))
        text = f"expected one of {choices}"
    value = _at(raw, key)
    if value is not None and ", got " not in text:
        text += f", found {display_value(value, key)}"
    if "`bool`" in text and str(value).lower() in ("yes", "no", "on", "off", "y", "n"):
        text += "; write true or false"
    return key, text


def known_keys(kind: Any, key: str) -> list[str]:
    """Return the keys of the Struct at a dotted key below `kind`."""
    kind = _type_at(kind, key)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _type_at(kind: Any, key: str) -> Any:
    """Return the type at a dotted key below a Struct."""
    for part in filter(None, key.split(".")):
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return None
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.encode_name == part), None)
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
    return kind


def _choices(kind: Any) -> list[Any]:
    """Return the values that a Literal, or the Literals in a union, allow."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _at(raw: Any, key: str) -> Any:
    for part in filter(None, key.split(".")):
        if not isinstance(raw, Mapping) or part not in raw:
            return None
        raw = raw[part]
    return raw
