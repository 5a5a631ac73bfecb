"""The stages of a graph in one process, called one after the other: no edge, no worker.

For commands that measure stages (`bench`), or try a model (`models inspect --try`).
"""

from __future__ import annotations

import functools

from pipeline.frame import Frame, Header
from pipeline.graph.graph import Graph, Node
from pipeline.stage import Settings, Source, Stage


def open_stages(
    graph: Graph,
    change: Settings | None = None,
    upto: Node | None = None,
) -> dict[Node, Stage]:
    """Open the stages of a graph in this process, and return them in the order of processing.

    Args:
        graph: the graph.
        change: settings of the stage `upto`, in place of its own; all stages are opened then.
        upto: last stage to open; None: all.
    """
    stages: dict[Node, Stage] = {}
    for node in graph.nodes:
        settings = graph.streams[0].capture if issubclass(node.kind, Source) else node.settings
        if node is upto and change is not None:
            settings = change
        stage = stages[node] = node.kind(settings, node.context)
        stage.open()
        if node is upto and change is None:
            break
    return stages


def call_in_process(node: Node, stage: Stage, frame: Frame) -> bool:
    """Let a stage process a frame; return False if it is a source that has ended."""
    if not isinstance(stage, Source):
        stage.process(frame)
        stage.derive(frame)
        return True
    stage.offer(frame)
    if not stage.collect():
        return False
    frame.header.height, frame.header.width = frame["image"].shape[:2]
    return True


@functools.lru_cache(maxsize=1)
def _memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


def blank_frame(graph: Graph, seq: int = 0) -> Frame:
    """Return an empty frame in memory that is reused, as a slot is."""
    memory = _memory(graph.slot_bytes)
    header = Header(stream=0, seq=seq, attempt=0, slot=0, generation=1, limit=graph.slot_bytes)
    return Frame(header, graph.streams[0].name, memory)
