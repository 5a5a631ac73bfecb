"""The checked graph of a run: its stages, streams and processes. Nothing is started here.

A graph is a tree: the source at its root, each stage after one other, the last stages (leaves)
the sinks. Several stages after the same one each get every frame. `build.py` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config, StreamSettings
from pipeline.context import Context, SourceInfo
from pipeline.stage import NO_RESOURCES, Resources, Settings, Stage


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
    context: Context = field(default_factory=Context)
    fixed_replicas: int | None = None
    """See `Resolved.replicas`."""
    resources: Resources = NO_RESOURCES
    """See `Stage.resources`; of a source, each stream has its own."""
    effective: Mapping[str, Any] = field(default_factory=dict)
    """See `Stage.effective`."""
    next: list[Node] = field(default_factory=list)
    withheld: tuple[str, ...] = ()
    """Names of arrays that a last stage does not get, because another branch hides them."""

    @property
    def leaf(self) -> bool:
        """Whether no stage follows."""
        return not self.next

    @property
    def replicas(self) -> int:
        """Number of its workers, at most."""
        return self.fixed_replicas or 1

    @property
    def replicated(self) -> bool:
        """Whether the stage decides on a number of replicas, which may be one."""
        return self.fixed_replicas is not None

    @property
    def adding(self) -> list[Node]:
        """The next stages whose branches add arrays; they share the room of the slot."""
        return [
            child
            for child in self.next
            if child.kind.gives or any(node.kind.gives for node in child.behind())
        ]

    def before(self) -> Iterator[Node]:
        """Yield the stages before it, nearest first."""
        node = self.after
        while node is not None:
            yield node
            node = node.after

    def behind(self) -> Iterator[Node]:
        """Yield the stages behind it, nearest first."""
        level = self.next
        while level:
            yield from level
            level = [child for node in level for child in node.next]


@dataclass(frozen=True)
class StreamSpec:
    """A source in its place."""

    index: int
    name: str
    settings: StreamSettings
    capture: Settings
    """The source stage's settings for this stream."""
    info: SourceInfo
    slots: int
    resources: Resources = NO_RESOURCES
    """See `Stage.resources`."""
    added: bool = False
    """Whether it was added during the run: its failure is no reason to end the run."""
    requested: bool = False
    """Whether it was added at the status page; the settings file does not list it."""

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace."""
        return self.info.live

    @property
    def source(self) -> str:
        """Source of the stream, without credentials."""
        return self.info.shown


@dataclass(frozen=True, eq=False)
class WorkerSpec:
    """A process to be started."""

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


class ExternalFiles(NamedTuple):
    """Files that are read or written beside the graph."""

    reads: Mapping[str, Path] = {}
    """Name for messages -> a file that no stage may write."""
    writes: Mapping[str, Path] = {}
    """Option of the command line -> the file that it has written."""


NO_EXTERNAL_FILES = ExternalFiles()


@dataclass(frozen=True, eq=False)
class Graph:
    """Everything a run needs to know before it starts."""

    config: Config
    streams: tuple[StreamSpec, ...]
    nodes: tuple[Node, ...]
    workers: tuple[WorkerSpec, ...]
    slot_bytes: int
    images: int = 1
    """Images of a frame in its slot, at most: that of the source, and those that stages give."""
    external: ExternalFiles = NO_EXTERNAL_FILES

    @property
    def leaves(self) -> int:
        """The last stages, as a bit set of their indices."""
        return sum(1 << node.index for node in self.nodes if node.leaf)

    @property
    def ordered(self) -> tuple[str, ...]:
        """Names of the ordered stages."""
        return tuple(node.name for node in self.nodes if node.kind.ordered)

    def workers_of(self, node: Node) -> list[int]:
        """Return the indices of the workers that run a stage."""
        return [worker.index for worker in self.workers if node in worker.nodes]

    def draw(self) -> str:
        """Return the graph as text: streams, tree of stages, processes."""
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


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
