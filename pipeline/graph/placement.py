"""Placement of the stages of a graph: processes, replicas and slots."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pipeline.config import Config
from pipeline.errors import GraphError
from pipeline.graph.graph import Node, StreamSpec, WorkerSpec
from pipeline.memory.worker_table import MAX_HOLDS
from pipeline.messages import display_value
from pipeline.stage import BatchSettings, Settings, Source


def usable_cores() -> int:
    """Return the number of usable processors: the affinity, or a smaller CPU quota (cgroup)."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no control group with a quota
    return cores


def place(nodes: list[Node], config: Config, cores: int, where: str) -> list[list[Node]]:
    """Group the stages by process."""
    processes = len(nodes) - 1 + len(config.streams) + sum(n.replicas - 1 for n in nodes)
    separate = config.placement == "separate" or processes <= cores
    groups: dict[str, list[Node]] = {}
    group_of: dict[Node, str] = {}
    for node in nodes:
        before = group_of[node.after] if node.after else None
        if node.process is not None:
            key = f"process {node.process}"
        elif separate or before is None or node.replicated or node.kind.isolated:
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
    name = group[0].process
    at = f"{where}: {'one process' if name is None else f'process {display_value(name)}'} ({names})"
    if ordered and replicas > 1:
        raise GraphError(
            f"{at}: {ordered[0]} must see frames in order and cannot be replicated; give it "
            "another process, or set replicas: 1"
        )
    if source in group:
        for node in group:
            if node.after is not None and node.after not in group:
                raise GraphError(
                    f"{at}: {node.name} follows {node.after.name} of another process, and the "
                    f"process of {source.name} takes no frames from others; give {node.name} "
                    "another process"
                )
        if ordered and len(config.streams) > 1:
            raise GraphError(
                f"{at}: each stream has its own {source.name} process, and {ordered[0]} must run "
                "in one process; give it another one"
            )
        if replicas > 1:
            raise GraphError(
                f"{at}: {source.name} cannot be replicated; give the replicated stage another "
                "process, or set replicas: 1"
            )


def workers(groups: list[list[Node]], streams: list[StreamSpec]) -> tuple[WorkerSpec, ...]:
    """Make the processes of the groups: one per replica, and per stream those of the source."""
    made: list[WorkerSpec] = []
    for group in groups:
        name = "+".join(node.name for node in group)
        if issubclass(group[0].kind, Source):
            for stream in streams:
                own = name if len(streams) == 1 else f"{name}.{stream.name}"
                made.append(WorkerSpec(len(made), own, tuple(group), stream.index))
            continue
        replicas = max(node.replicas for node in group)
        for i in range(replicas):
            own = name if replicas == 1 and not group[0].replicated else f"{name}.{i + 1}"
            made.append(WorkerSpec(len(made), own, tuple(group), None))
    return tuple(made)


def batch_of(settings: Settings) -> int:
    """Return how many frames a stage with these settings takes at once, at most."""
    return min(settings.batch, MAX_HOLDS) if isinstance(settings, BatchSettings) else 1


def slots_for(replicas: int, live: bool, nodes: Sequence[Node]) -> int:
    """Return the number of slots that keeps the replicas busy, for live sources no more."""
    batch = max(batch_of(node.settings) for node in nodes)
    if live:
        # One frame is captured while the replicas work. With a single replica the stages behind it
        # need one too, or the two would wait for each other.
        return replicas * batch + (2 if replicas == 1 else 1)
    return 2 * replicas * batch + 4
