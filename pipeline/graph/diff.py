"""Differences between the graph of a run and that of new settings; pure comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from pipeline.context import Context
from pipeline.graph.graph import Graph, Node, StreamSpec
from pipeline.stage import Source


@dataclass(frozen=True)
class StreamChanges:
    """The streams that new settings remove, add or change."""

    removed: list[str] = field(default_factory=list)
    added: list[StreamSpec] = field(default_factory=list)
    changed: list[StreamSpec] = field(default_factory=list)
    """Other settings, same source; index and slots are those of the running stream."""
    replaced: list[StreamSpec] = field(default_factory=list)
    """Another source: another stream under the same name."""
    other_slots: list[str] = field(default_factory=list)
    """Names of the streams whose new number of slots takes effect at the next start."""


def needs_new_run(old: Graph, new: Graph) -> bool:
    """Return whether stages were added, removed or moved, or need another layout of memory."""
    return _shape(old) != _shape(new)


def changed_stages(old: Graph, new: Graph) -> Iterator[tuple[Node, Node]]:
    """Yield the stages, without the source, whose settings or offers have changed.

    Args:
        old: that of the run.
        new: one for which `needs_new_run` is false.
    """
    for node, fresh in zip(old.nodes, new.nodes, strict=True):
        if issubclass(node.kind, Source):
            continue
        context = with_offers_of(node.context, fresh.context)
        if not (_same(node.settings, fresh.settings) and _same(node.context, context)):
            yield node, fresh


def with_offers_of(context: Context, fresh: Context) -> Context:
    """Return a stage's context with what new settings change in it.

    The streams and the start of the run stay: they differ in every run, which is no reason to
    restart a stage.
    """
    return msgspec.structs.replace(
        context,
        confidence=fresh.confidence,
        offers=fresh.offers,
        own_offers=fresh.own_offers,
        offers_behind=fresh.offers_behind,
    )


def changed_streams(have: Mapping[str, StreamSpec], wanted: Iterable[StreamSpec]) -> StreamChanges:
    """Compare the streams.

    Args:
        have: running streams by name; those that were added on request stay.
        wanted: streams of the new settings.
    """
    changes = StreamChanges()
    by_name = {stream.name: stream for stream in wanted}
    for name, stream in have.items():
        if name not in by_name and not stream.requested:
            changes.removed.append(name)
    for name, stream in by_name.items():
        old = have.get(name)
        if old is None:
            changes.added.append(stream)
            continue
        if stream.info.identity != old.info.identity:
            changes.replaced.append(stream)
            continue
        if stream.slots != old.slots:
            changes.other_slots.append(name)
        new = replace(
            stream, index=old.index, slots=old.slots, added=old.added, requested=old.requested
        )
        if not (
            new.settings.max_age_ms == old.settings.max_age_ms
            and _same(new.capture, old.capture)
            and new.live == old.live
        ):
            changes.changed.append(new)
    return changes


def _shape(graph: Graph) -> object:
    return (
        [
            (
                node.name,
                node.kind,
                node.after.name if node.after else None,
                node.process,
                node.replicas,
            )
            for node in graph.nodes
        ],
        graph.config.placement,
        graph.slot_bytes,
    )


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays compare element by element
        return False
