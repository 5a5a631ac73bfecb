"""From settings to a checked graph: stages joined, arrays matched, offers resolved."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from pipeline.config import (
    Config,
    StreamSettings,
    convert,
    did_you_mean,
    known_keys,
    refuse_unknown,
)
from pipeline.context import ArrayOffer, Context, SourceInfo, StageOffer
from pipeline.errors import ConfigError, GraphError, StageUnavailable
from pipeline.graph import placement, resources
from pipeline.graph.arrays import (
    check_answer,
    check_arrays,
    check_hidden,
    images_in_slot,
    slot_bytes,
)
from pipeline.graph.graph import NO_EXTERNAL_FILES, ExternalFiles, Graph, Node, StreamSpec
from pipeline.graph.load import LINKS, Registry, load_class, settings_of
from pipeline.messages import display_value
from pipeline.stage import Resolved, Resources, Settings, Source, Stage
from pipeline.stage_errors import call_stage

T = TypeVar("T")

MAX_STAGES = 200


def build(
    config: Config,
    registry: Registry,
    where: str,
    cores: int | None = None,
    external: ExternalFiles = NO_EXTERNAL_FILES,
    keep_unavailable: bool = False,
) -> Graph:
    """Join the configured stages, check that they fit, and place them in processes.

    Args:
        config: the settings.
        registry: the names a stage's `use` may give.
        where: the settings file's name, for messages.
        cores: number of processors to plan for; None: those that this process may use.
        external: files that no stage may write.
        keep_unavailable: keep the last stages that this machine cannot run, to draw the graph;
            else they are left out with a line in the log.

    Raises:
        ConfigError: an unknown stage, bad settings.
        GraphError: stages that do not join.
        SetupError: settings that point at something that cannot work.
    """
    cores = cores or placement.usable_cores()
    nodes = _nodes(config, registry, where)
    _join(nodes, config, where)
    for node in nodes:
        check_arrays(node, where)
    check_hidden(nodes, where)
    streams = _resolve(nodes, config, where, keep_unavailable)
    for node in nodes:
        check_answer(node, where)
    resources.check(nodes, streams, list(config.streams), external, where)
    groups = placement.place(nodes, config, cores, where)
    workers = placement.workers(groups, streams)
    busiest = max(node.replicas for node in nodes)
    width, height = (int(side) for side in config.max_frame.split("x"))
    return Graph(
        config=config,
        streams=tuple(
            replace(stream, slots=stream.slots or placement.slots_for(busiest, stream.live, nodes))
            for stream in streams
        ),
        nodes=tuple(nodes),
        workers=workers,
        slot_bytes=slot_bytes(nodes, width * height * 3),
        images=images_in_slot(nodes),
        external=external,
    )


def add_stream(
    graph: Graph, index: int, name: str, table: Mapping[str, Any], where: str
) -> StreamSpec:
    """Make one more stream for a graph that runs.

    Args:
        graph: that of the run.
        index: number of the stream in the run.
        name: name of the stream.
        table: its settings, as under `streams` in a settings file.
        where: start of messages.

    Raises:
        ConfigError: bad settings.
        SetupError: settings that point at something that cannot work.
    """
    source = graph.nodes[0]
    own = {k: v for k, v in graph.config.stages[source.name].items() if k not in LINKS}
    stream = _stream(source.kind, own, index, name, table, where)
    names = [*(other.name for other in graph.streams), name]
    resources.check(graph.nodes, [stream], names, graph.external, where)
    busiest = max(node.replicas for node in graph.nodes)
    slots = stream.slots or placement.slots_for(busiest, stream.live, graph.nodes)
    return replace(stream, slots=slots, added=True)


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
        # The settings of a source are complete only with those of a stream, see `_stream`.
        if issubclass(kind, Source):
            refuse_unknown(own, known_keys(kind.Settings, ""), LINKS, at)
            settings = Settings()
        else:
            settings = settings_of(own, kind, at)
        nodes.append(
            Node(len(nodes), name, table["use"], kind, settings, None, table.get("process"))
        )
    if len(nodes) > MAX_STAGES:
        raise GraphError(
            f"{where}: stages: too many (found {len(nodes)}); use at most {MAX_STAGES}"
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
                f"{did_you_mean(after, [name for name in names if name != node.name])}"
            )
        if issubclass(node.kind, Source):
            if after is not None:
                raise GraphError(
                    f"{where}: stages.{node.name}: after: a source stage cannot follow another "
                    "stage; remove `after`"
                )
        else:
            node.after = names[after] if after is not None else above
            if node.after is None:
                raise GraphError(
                    f"{where}: stages.{node.name}: the first stage must be a source "
                    f"(found {node.kind.__name__}); add `capture: {{use: capture}}` before it"
                )
            node.after.next.append(node)
        above = node
    sources = [node.name for node in nodes if issubclass(node.kind, Source)]
    if len(sources) != 1:
        raise GraphError(
            f"{where}: stages: expected one source stage (found "
            f"{', '.join(sources) or 'none'}); list cameras and files under `streams`"
        )
    for node in nodes:
        seen = [node]
        for before in node.before():
            if before in seen:
                cycle = " -> ".join(n.name for n in reversed([*seen, before]))
                raise GraphError(f"{where}: stages: {cycle} is a cycle; change an `after`")
            seen.append(before)
    # Workers run stages in the order of their indices, so each comes after the one it follows.
    nodes.sort(key=lambda node: len(list(node.before())))
    for index, node in enumerate(nodes):
        node.index = index


def _resolve(
    nodes: list[Node], config: Config, where: str, keep_unavailable: bool
) -> list[StreamSpec]:
    """Let every stage check its settings, and give each the offers of the others."""
    source = nodes[0]
    own = {k: v for k, v in config.stages[source.name].items() if k not in LINKS}
    streams = [
        _stream(source.kind, own, index, name, table, f"{where}: streams.{name}")
        for index, (name, table) in enumerate(config.streams.items())
    ]
    run = Context(
        streams=tuple(stream.name for stream in streams),
        live=any(stream.live for stream in streams),
        confidence=config.confidence,
        started_ns=time.monotonic_ns(),
    )
    offers: dict[Node, tuple[object, ...]] = {source: ()}
    for node in nodes[1:]:
        at = f"{where}: stages.{node.name}"
        try:
            resolved = _resolve_stage(node.kind, node.settings, at)
        except StageUnavailable as error:
            if not node.leaf:
                raise
            if keep_unavailable:
                offers[node] = ()
                continue
            logging.warning("%s; leaving it out", str(error).removeprefix(f"{where}: "))
            _leave_out(node)
            continue
        node.fixed_replicas, offers[node] = resolved.replicas, _valid_offers(node, resolved)
        node.resources = _resources(node.kind, node.settings, at)
        _warn_of_lost_state(node.kind, at)
    nodes[:] = [node for node in nodes if node in offers]
    for index, node in enumerate(nodes):
        node.index = index
    for node in nodes:
        before = [offer for other in node.before() for offer in offers[other]]
        behind = [offer for other in node.behind() for offer in offers[other]]
        node.context = msgspec.structs.replace(
            run,
            stage=node.name,
            offers=(*offers[node], *before),
            own_offers=len(offers[node]),
            offers_behind=tuple(behind),
        )
        if node is not source:
            # Made here so that it can be refused here; the worker makes its own.
            at = f"{where}: stages.{node.name}"
            stage = call_stage(at, "__init__", node.kind, node.settings, node.context)
            node.effective = call_stage(at, "effective", stage.effective)
    return streams


def _warn_of_lost_state(kind: type[Stage], at: str) -> None:
    """Warn of a stage whose state would silently be lost with its process."""
    has_state, has_restore = kind.state is not Stage.state, kind.restore is not Stage.restore
    if has_state and not kind.ordered:
        logging.warning("%s: has `state`, which is not saved; set `ordered = True`", at)
    elif has_state != has_restore:
        missing = "restore" if has_state else "state"
        logging.warning("%s: has no `%s`: a crash loses its state; add it", at, missing)


def _valid_offers(node: Node, resolved: Resolved) -> tuple[object, ...]:
    """Return the offers of a stage, without those about an array that it does not give."""
    given = {array.name for array in node.kind.gives}
    return tuple(
        msgspec.structs.replace(offer, stage=node.name) if isinstance(offer, StageOffer) else offer
        for offer in resolved.offers
        if not isinstance(offer, ArrayOffer) or offer.array in given
    )


def _leave_out(node: Node) -> None:
    assert node.after is not None
    node.after.next.remove(node)


def _resolve_stage(kind: type[Stage], settings: Settings, at: str) -> Resolved:
    return _checked(call_stage(at, "resolve", kind.resolve, settings), Resolved, at, "resolve")


def _resources(kind: type[Stage], settings: Settings, at: str) -> Resources:
    found = call_stage(at, "resources", kind.resources, settings)
    return _checked(found, Resources, at, "resources")


def _checked(result: object, kind: type[T], at: str, method: str) -> T:
    if not isinstance(result, kind):
        raise GraphError(
            f"{at}: {method}: expected a {kind.__name__} (found {type(result).__name__}); see "
            "pipeline/stage.py"
        )
    return result


def _stream(
    kind: type[Stage],
    own: Mapping[str, Any],
    index: int,
    name: str,
    table: Mapping[str, Any],
    at: str,
) -> StreamSpec:
    """Make a stream from its settings; those that are missing are taken from the source stage."""
    of_stream = known_keys(StreamSettings, "")
    settings = convert({k: v for k, v in table.items() if k in of_stream}, StreamSettings, at)
    rest = {**own, **{k: v for k, v in table.items() if k not in of_stream}}
    capture = convert(rest, kind.Settings, at, tuple(of_stream))
    offers = _resolve_stage(kind, capture, at).offers
    info = next((offer for offer in offers if isinstance(offer, SourceInfo)), SourceInfo())
    slots = 0 if settings.slots == "auto" else settings.slots
    used = _resources(kind, capture, at)
    return StreamSpec(index, name, settings, capture, info, slots, used)
