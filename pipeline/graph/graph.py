"""From settings to a checked graph, and from the graph to processes; nothing is started here.

A graph is a tree: the source at its root, each stage after one other, the last stages (leaves)
the sinks. Several stages after the same one each get every frame.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipeline.config import (
    Config,
    StreamSettings,
    convert,
    hint,
    known_keys,
    refuse_unknown,
)
from pipeline.errors import ConfigError, GraphError, SetupError
from pipeline.memory.saved_states import ANSWER_BYTES
from pipeline.memory.worker_table import MAX_HOLDS
from pipeline.messages import display_value
from pipeline.stage import Array, Settings, Source, Stage
from pipeline.urls import display_url

T = TypeVar("T")

Registry = Mapping[str, str]
"""Name of a stage in settings -> "module:Class"."""

LINKS = ("use", "after", "process")
"""Keys of a stage's table that say where it stands, not how it works."""

STDOUT = "-"
"""As a sink's path: standard output."""

MAX_STAGES = 200


@dataclass(eq=False)
class Node:
    """A stage in its place."""

    index: int
    name: str
    use: str
    kind: type[Stage]
    settings: Settings
    after: Node | None
    process: str | None
    facts: dict[str, Any] = field(default_factory=dict)
    effective: Mapping[str, Any] = field(default_factory=dict)
    """See `Stage.effective`."""
    next: list[Node] = field(default_factory=list)

    @property
    def leaf(self) -> bool:
        """Whether nothing follows."""
        return not self.next

    @property
    def replicas(self) -> int:
        """How many workers of it there may be."""
        return int(self.facts.get("replicas", 1))

    @property
    def replicated(self) -> bool:
        """Whether the stage itself tells how many replicas there are, be it one."""
        return "replicas" in self.facts

    def before(self) -> Iterator[Node]:
        """The stages before it, nearest first."""
        node = self.after
        while node is not None:
            yield node
            node = node.after

    def behind(self) -> Iterator[Node]:
        """The stages behind it, nearest first."""
        level = self.next
        while level:
            yield from level
            level = [child for node in level for child in node.next]


@dataclass(frozen=True)
class Stream:
    """A source in its place."""

    index: int
    name: str
    settings: StreamSettings
    capture: Settings
    """The source stage's settings for this stream."""
    live: bool
    slots: int
    added: bool = False
    """While the run was under way: what is the matter with it is no reason to end the run."""
    requested: bool = False
    """By a person at the status page; the settings file does not know it."""

    @property
    def source(self) -> str:
        """What it reads, fit to be shown."""
        return display_url(getattr(self.capture, "source", ""))


@dataclass(frozen=True, eq=False)
class Worker:
    """A process to be."""

    index: int
    name: str
    nodes: tuple[Node, ...]
    """The stages it runs, each after those it depends on."""
    stream: int | None
    """A capture worker's stream."""

    @property
    def title(self) -> str:
        """The process title."""
        return f"eyeline:{self.name}"


class Others(NamedTuple):
    """Files beside those of the graph."""

    read: Mapping[str, Path] = {}
    """What it is -> a file that nobody may write."""
    written: Mapping[str, Path] = {}
    """An option of the command line -> the file that it has written."""


NO_OTHERS = Others()


@dataclass(frozen=True, eq=False)
class Graph:
    """Everything a run needs to know before it starts."""

    config: Config
    streams: tuple[Stream, ...]
    nodes: tuple[Node, ...]
    workers: tuple[Worker, ...]
    slot_bytes: int
    others: Others = NO_OTHERS

    @property
    def leaves(self) -> int:
        """Bit set of the last stages."""
        return sum(1 << node.index for node in self.nodes if node.leaf)

    @property
    def ordered(self) -> tuple[str, ...]:
        """Names of the ordered stages."""
        return tuple(node.name for node in self.nodes if node.kind.ordered)

    def workers_of(self, node: Node) -> list[int]:
        """Indices of the workers that run a stage."""
        return [worker.index for worker in self.workers if node in worker.nodes]

    def stream(self, index: int, name: str, table: Mapping[str, Any], where: str) -> Stream:
        """One more stream for this graph.

        Args:
            index: its number in the run.
            name: its name.
            table: its settings, as they stand under `streams` in a settings file.
            where: what a complaint starts with.

        Raises:
            ConfigError: bad settings.
            SetupError: settings that point at something that cannot work.
        """
        source = self.nodes[0]
        own = {k: v for k, v in self.config.stages[source.name].items() if k not in LINKS}
        stream = _stream(source.kind, own, index, name, table, where)
        names = [other.name for other in self.streams] + [name]
        _check_paths(self.nodes, [stream], names, self.others, where)
        busiest = max(node.replicas for node in self.nodes)
        slots = stream.slots or _slots(busiest, stream.live, self.nodes)
        return replace(stream, slots=slots, added=True)

    def draw(self) -> str:
        """The graph as text: the tree of stages, then the processes."""
        lines = [
            f"{stream.name}: {stream.source} ({'live' if stream.live else 'lossless'}, "
            f"{stream.slots} slots)"
            for stream in self.streams
        ]
        self._draw(self.nodes[0], "", "", lines)
        processes = ", ".join(worker.name for worker in self.workers)
        lines.append(f"{len(self.workers)} processes: {processes}")
        return "\n".join(lines)

    def _draw(self, node: Node, mark: str, indent: str, lines: list[str]) -> None:
        values = ", ".join(f"{key} {_shown(value)}" for key, value in node.effective.items())
        what = f"{node.kind.__name__}  {values}".rstrip()
        times = f" x{len(self.workers_of(node))}" if node.replicated else ""
        lines.append(f"{mark}{node.name}{times}  {what}")
        for i, child in enumerate(node.next):
            last = i == len(node.next) - 1
            self._draw(
                child,
                indent + ("└─ " if last else "├─ "),
                indent + ("   " if last else "│  "),
                lines,
            )


def build(
    config: Config,
    registry: Registry,
    where: str,
    cores: int | None = None,
    others: Others = NO_OTHERS,
) -> Graph:
    """Join the configured stages, check that they fit, and place them in processes.

    Args:
        config: the settings.
        registry: the names a stage's `use` may give.
        where: the settings file's name, for messages.
        cores: how many processors to plan for; None: those this process may use.
        others: files that no stage may write.

    Raises:
        ConfigError: an unknown stage, bad settings.
        GraphError: stages that do not join.
        SetupError: settings that point at something that cannot work.
    """
    cores = cores or usable_cores()
    nodes = _nodes(config, registry, where)
    _join(nodes, config, where)
    for node in nodes:
        _check_arrays(node, where)
    streams = _resolve(nodes, config, where)
    for node in nodes:
        _check_answer(node, where)
    _check_paths(nodes, streams, list(config.streams), others, where)
    groups = _place(nodes, config, cores, where)
    workers = _workers(groups, streams)
    busiest = max(node.replicas for node in nodes)
    width, height = (int(side) for side in config.max_frame.split("x"))
    return Graph(
        config=config,
        streams=tuple(
            replace(stream, slots=stream.slots or _slots(busiest, stream.live, nodes))
            for stream in streams
        ),
        nodes=tuple(nodes),
        workers=workers,
        slot_bytes=-(-(width * height * 3 + _ROOM_FOR_ARRAYS) // (1 << 20)) * (1 << 20),
        others=others,
    )


_ROOM_FOR_ARRAYS = 40 << 20
"""Room in a slot beside the picture: model input, boxes. A float32 input of 1536 x 1536 fits."""


def usable_cores() -> int:
    """Processors this process may use: its affinity, or a smaller quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no such control group
    return cores


def load_class(use: str, registry: Registry, where: str) -> type[Stage]:
    """The class behind a `use`: a name of the table, or "module:Class".

    Raises:
        ConfigError: no such name, module or class, or not a stage.
    """
    if use not in registry and not re.fullmatch(r"[\w.]+:\w+", use):
        raise ConfigError(
            f"{where}: use: no stage is called {display_value(use)}{hint(use, list(registry))}"
        )
    module_name, _, class_name = registry.get(use, use).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: use: {use!r}: no module named {error.name!r}") from None
    except Exception as error:  # whatever a user's own module may raise
        raise ConfigError(
            f"{where}: use: {use!r}: cannot be imported: {type(error).__name__}: {error}"
        ) from None
    kind = getattr(module, class_name, None)
    if kind is None:
        raise ConfigError(
            f"{where}: use: {use!r}: module {module_name} has no class {class_name!r}"
        )
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise ConfigError(f"{where}: use: {use!r} is not a Stage (see pipeline/stage.py)")
    if kind in (Stage, Source):
        raise ConfigError(f"{where}: use: {use!r} is the base of all stages and does nothing")
    return kind


def _nodes(config: Config, registry: Registry, where: str) -> list[Node]:
    nodes: list[Node] = []
    for name, table in config.stages.items():
        at = f"{where}: stages.{name}"
        if not isinstance(table.get("use"), str):
            raise ConfigError(
                f"{at}: use: expected the name of a stage, found {display_value(table.get('use'))}"
            )
        for key in LINKS[1:]:
            if not isinstance(table.get(key), str | None):
                raise ConfigError(
                    f"{at}: {key}: expected a name, found {display_value(table[key])}"
                )
        kind = load_class(table["use"], registry, at)
        own = {key: value for key, value in table.items() if key not in LINKS}
        # The source's settings are complete only with a stream's own, see `_resolve`.
        if issubclass(kind, Source):
            refuse_unknown(own, known_keys(kind.Settings, ""), LINKS, at)
            settings = Settings()
        else:
            settings = convert(own, kind.Settings, at, LINKS)
        nodes.append(
            Node(len(nodes), name, table["use"], kind, settings, None, table.get("process"))
        )
    if len(nodes) > MAX_STAGES:
        raise GraphError(
            f"{where}: {len(nodes)} stages are more than the {MAX_STAGES} there may be"
        )
    return nodes


def _join(nodes: list[Node], config: Config, where: str) -> None:
    names = {node.name: node for node in nodes}
    above: Node | None = None
    for node in nodes:
        after = config.stages[node.name].get("after")
        if after is not None and after not in names:
            raise GraphError(
                f"{where}: stages.{node.name}: after: no stage is named {display_value(after)}"
                f"{hint(after, [name for name in names if name != node.name])}"
            )
        if issubclass(node.kind, Source):
            if after is not None:
                raise GraphError(
                    f"{where}: stages.{node.name}: after: a source comes after nothing"
                )
        else:
            node.after = names[after] if after is not None else above
            if node.after is None:
                raise GraphError(
                    f"{where}: stages.{node.name}: the first stage must be a source "
                    f"(use: capture), found {node.kind.__name__}"
                )
            node.after.next.append(node)
        above = node
    sources = [node.name for node in nodes if issubclass(node.kind, Source)]
    if len(sources) != 1:
        raise GraphError(
            f"{where}: stages: expected one source stage, found "
            f"{', '.join(sources) or 'none'}; cameras and files go under `streams`"
        )
    for node in nodes:
        seen = [node]
        for before in node.before():
            if before in seen:
                cycle = " -> ".join(n.name for n in reversed([*seen, before]))
                raise GraphError(f"{where}: stages: {cycle} is a cycle")
            seen.append(before)
    # Stages are worked on in the order of their indices, so each must come after what it follows.
    nodes.sort(key=lambda node: len(list(node.before())))
    for index, node in enumerate(nodes):
        node.index = index


def _check_arrays(node: Node, where: str) -> None:
    given: dict[str, tuple[Array, str]] = {}
    for before in reversed(list(node.before())):
        given.update({array.name: (array, before.name) for array in before.kind.gives})
    for want in node.kind.takes:
        if want.name not in given:
            if want.optional:
                continue
            raise GraphError(
                f"{where}: stages.{node.name}: takes {want.name!r}, which no stage before it "
                f"gives (given: {', '.join(given) or 'nothing'})"
            )
        have, giver = given[want.name]
        if not _fits(want, have):
            raise GraphError(
                f"{where}: stages.{node.name}: takes {_describe(want)}, {giver} gives "
                f"{_describe(have)}"
            )


def _check_answer(node: Node, where: str) -> None:
    """Refuse more boxes than an ordered stage's answer to a frame can be saved with."""
    boxes = node.facts.get("max_boxes")
    if boxes is None or not node.kind.ordered:
        return
    per_box = sum(
        np.dtype(array.dtype).itemsize * math.prod(side or 1 for side in array.shape[1:])
        for array in node.kind.gives
        if array.shape and array.shape[0] is None and array.dtype
    )
    room = ANSWER_BYTES - _ROOM_FOR_NAMES
    if boxes * per_box > room:
        raise GraphError(
            f"{where}: stages.{node.name}: its answer to a frame of {boxes} boxes cannot be saved "
            f"(found {boxes * per_box} bytes, room for {room}); set max_boxes of the stage that "
            f"suppresses boxes to at most {room // per_box}"
        )


_ROOM_FOR_NAMES = 1024
"""Of a saved answer, beside the values of its arrays."""


def _check_paths(
    nodes: Sequence[Node],
    streams: Sequence[Stream],
    names: Sequence[str],
    others: Others,
    where: str,
) -> None:
    """Refuse two writers of one file, and a writer of a file that is read.

    Args:
        nodes: all stages, the source first.
        streams: those whose sources count.
        names: of all streams.
        others: what is read and written beside the graph.
        where: what a complaint about a stage starts with.
    """
    paths = [(node, str(getattr(node.settings, "path", None) or STDOUT)) for node in nodes]
    sinks = [(node, path) for node, path in paths if path != STDOUT]
    _check_folders(nodes, streams, names, where)
    if not sinks and not others.written:
        return
    read: dict[object, str] = {_identity(file): what for what, file in others.read.items()}
    for node in nodes[1:]:
        for file in node.kind.reads(node.settings):
            read[_identity(file)] = f"read by stage {node.name}"
    for stream in streams:
        for file in nodes[0].kind.reads(stream.capture):
            read[_identity(file)] = f"the file of stream {stream.name}"
    written: dict[object, str] = {}
    of_streams: dict[object, str] = {}

    def claim(at: str, path: str, files: Sequence[str], taken: Mapping[object, str]) -> None:
        for file in (path, *files):
            other = taken.get(_identity(file))
            if other is not None:
                raise GraphError(f"{at} {file} is {other}: choose another")

    for node, path in sinks:
        if _may_be_shared(path):
            continue
        files, what = _of_streams(path, names), f"the file of stage {node.name}"
        at = f"{where}: stages.{node.name}: path:"
        claim(at, path, (), written)
        claim(at, path, files, read)
        written[_identity(path)] = what
        of_streams |= dict.fromkeys(map(_identity, files), what)
    for option, target in others.written.items():
        if not _may_be_shared(target):
            claim(option, str(target), (), read | of_streams | written)
            written[_identity(target)] = f"the file of {option}"


def _check_folders(
    nodes: Sequence[Node], streams: Sequence[Stream], names: Sequence[str], where: str
) -> None:
    """Refuse two stages that fill one folder, and one that fills the folder of a source's files."""
    filled = [
        (node, folder) for node in nodes for folder in node.kind.folders(node.settings, names)
    ]
    if not filled:
        return
    taken: dict[object, str] = {}
    for stream in streams:
        files = nodes[0].kind.reads(stream.capture)
        linked = {file.resolve().parent for file in files if file.is_symlink()}
        for folder in {file.parent for file in files} | linked:
            taken[_identity(folder)] = f"the folder of stream {stream.name}"
    for node, folder in filled:
        other = taken.setdefault(_identity(folder), f"the folder of stage {node.name}")
        if other != f"the folder of stage {node.name}":
            raise GraphError(
                f"{where}: stages.{node.name}: folder: {folder} is {other}: choose another"
            )


def _may_be_shared(path: str | Path) -> bool:
    """Whether what is there is no file, as /dev/null is none; of a folder others complain."""
    return os.path.exists(path) and not os.path.isfile(path)


def _identity(path: str | Path) -> object:
    """The same for two names of one file, be it there already or not."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _of_streams(path: str, names: Sequence[str]) -> list[str]:
    """The files of single streams, as sinks call them that write one for each."""
    if "{stream}" in path:
        return [path.replace("{stream}", name) for name in names]
    file = Path(path)
    if len(names) < 2 or not file.name:
        return []
    return [str(file.with_name(f"{file.stem}-{name}{file.suffix}")) for name in names]


def _fits(want: Array, have: Array) -> bool:
    if want.dtype and have.dtype and want.dtype != have.dtype:
        return False
    if want.shape is None or have.shape is None:
        return True
    if len(want.shape) != len(have.shape):
        return False
    return all(
        None in sides or sides[0] == sides[1] for sides in zip(want.shape, have.shape, strict=True)
    )


def _describe(array: Array) -> str:
    sides = "" if array.shape is None else " x ".join(str(side or "?") for side in array.shape)
    return f"{array.name!r} ({array.dtype or 'any type'} {sides})"


def _resolve(nodes: list[Node], config: Config, where: str) -> list[Stream]:
    """Let every stage check what its settings point at, and pass on what each tells."""
    source = nodes[0]
    started_ns = time.monotonic_ns()
    own = {k: v for k, v in config.stages[source.name].items() if k not in LINKS}
    streams = [
        _stream(source.kind, own, index, name, table, f"{where}: streams.{name}")
        for index, (name, table) in enumerate(config.streams.items())
    ]
    told_by = {
        node: dict(_at(f"{where}: stages.{node.name}", node.kind.resolve, node.settings))
        for node in nodes[1:]
    }
    told_by[source] = {"live": any(stream.live for stream in streams)}
    for node in nodes:
        # Nearest wins, and those before a stage win over those behind it.
        behind = _merged(told_by[other] for other in reversed(list(node.behind())))
        before = _merged(told_by[other] for other in reversed(list(node.before())))
        node.facts = behind | before | told_by[node]
        node.facts["behind"] = behind
        node.facts["confidence"] = config.confidence
        node.facts["streams"] = tuple(stream.name for stream in streams)
        node.facts["name"] = node.name
        node.facts["started_ns"] = started_ns
        if node is not source:
            # Made here to be refused here; the worker makes its own.
            stage = _at(f"{where}: stages.{node.name}", node.kind, node.settings, node.facts)
            node.effective = stage.effective()
    return streams


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _merged(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge what several stages offer to others; of the same fact the last counts."""
    return {key: value for some in facts for key, value in some.items() if key != "replicas"}


def _stream(
    kind: type[Stage],
    own: Mapping[str, Any],
    index: int,
    name: str,
    table: Mapping[str, Any],
    at: str,
) -> Stream:
    """A stream of the settings in `table`, where they say nothing those of the source stage."""
    of_stream = known_keys(StreamSettings, "")
    settings = convert({k: v for k, v in table.items() if k in of_stream}, StreamSettings, at)
    rest = {**own, **{k: v for k, v in table.items() if k not in of_stream}}
    capture = convert(rest, kind.Settings, at, tuple(of_stream))
    told = _at(at, kind.resolve, capture)
    slots = 0 if settings.slots == "auto" else settings.slots
    return Stream(index, name, settings, capture, bool(told.get("live")), slots)


def _at(place: str, call: Callable[..., T], *args: Any) -> T:
    """Call, and put the place in front of what is complained about."""
    try:
        return call(*args)
    except SetupError as error:
        raise type(error)(f"{place}: {error}") from None


def _place(nodes: list[Node], config: Config, cores: int, where: str) -> list[list[Node]]:
    """Group the stages by the process they share."""
    processes = len(nodes) - 1 + len(config.streams) + sum(n.replicas - 1 for n in nodes)
    apart = config.placement == "separate" or processes <= cores
    groups: dict[str, list[Node]] = {}
    group_of: dict[Node, str] = {}
    for node in nodes:
        before = group_of[node.after] if node.after else None
        if node.process is not None:
            key = f"process {node.process}"
        elif apart or before is None or node.replicated or node.kind.apart:
            key = f"stage {node.name}"
        elif node.kind.ordered and not any(n.kind.ordered for n in groups[before]):
            key = f"ordered after {before}"
        else:
            key = before
        groups.setdefault(key, []).append(node)
        group_of[node] = key
    for group in groups.values():
        _check_group(group, nodes[0], config, where)
    return list(groups.values())


def _check_group(group: list[Node], source: Node, config: Config, where: str) -> None:
    names = ", ".join(node.name for node in group)
    replicas = max(node.replicas for node in group)
    ordered = [node.name for node in group if node.kind.ordered]
    at = f"{where}: process {display_value(group[0].process)} ({names})"
    if ordered and replicas > 1:
        raise GraphError(
            f"{at}: {ordered[0]} must see frames in order and cannot be replicated: give it "
            "another process, or set replicas: 1"
        )
    if source in group:
        for node in group:
            if node.after is not None and node.after not in group:
                raise GraphError(
                    f"{at}: {node.name} follows {node.after.name}, which is in another process, "
                    f"and the process of {source.name} takes no frames from others"
                )
        if ordered and len(config.streams) > 1:
            raise GraphError(
                f"{at}: every stream has a {source.name} process of its own, and {ordered[0]} "
                "must be in one place: give it another process"
            )
        if replicas > 1:
            raise GraphError(
                f"{at}: {source.name} cannot be replicated: give the replicated stage another "
                "process, or set replicas: 1"
            )


def _workers(groups: list[list[Node]], streams: list[Stream]) -> tuple[Worker, ...]:
    workers: list[Worker] = []
    for group in groups:
        name = "+".join(node.name for node in group)
        if issubclass(group[0].kind, Source):
            for stream in streams:
                own = name if len(streams) == 1 else f"{name}.{stream.name}"
                workers.append(Worker(len(workers), own, tuple(group), stream.index))
            continue
        replicas = max(node.replicas for node in group)
        for i in range(replicas):
            own = name if replicas == 1 and not group[0].replicated else f"{name}.{i + 1}"
            workers.append(Worker(len(workers), own, tuple(group), None))
    return tuple(workers)


def _slots(replicas: int, live: bool, nodes: Sequence[Node]) -> int:
    """Enough frames in flight to keep the replicas busy, and for live sources no more."""
    batch = max(min(int(getattr(n.settings, "batch", 1)), MAX_HOLDS) for n in nodes)
    if live:
        # One frame is captured while the replicas work; with a single replica the stages behind
        # it need one too, or they would take turns with it.
        return replicas * batch + (2 if replicas == 1 else 1)
    return 2 * replicas * batch + 4
