"""The pipeline against its limits, measured interleaved in one run, so that ratios hold on a
machine whose speed drifts.

    D   CPU time of one bare inference: the model alone, one process per core, nothing else
    X   CPU time of what else must be done per frame, measured stage by stage in one process:
        decode, resize, decode of outputs, NMS, tracking, the sinks
    limit = cores / (D + X)     what these cores could do if moving frames cost nothing
    plain   a loop that does all of it in one process, as a script would: the best of the model on
        all cores with threads that spin (onnxruntime's default), on all without, and on one
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from pipeline.bench_figures import as_text as as_text
from pipeline.bench_figures import check_plausible, cpu_model
from pipeline.bench_process import Forked
from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame, Header
from pipeline.graph.graph import Graph, Node
from pipeline.graph.placement import usable_cores
from pipeline.stage import InferenceStage, Settings, Source, Stage
from pipeline.supervisor.lifecycle import EXIT_SETUP, Phase
from pipeline.supervisor.processes import Child
from pipeline.supervisor.supervisor import Supervisor

BARE_S = 3.0
ALONE_FRAMES = 150
"""Frames over which each stage's own work is measured."""
LEAST_FRAMES = 2
"""The first one pays for memory and caches."""
SEQUENTIAL_FRAMES = 120
START_TIMEOUT_S = 60.0


def bench(build: Callable[[], Graph], rounds: int, start_command: Sequence[str]) -> dict[str, Any]:
    """Measure a graph.

    Args:
        build: makes the graph anew; its streams should end, and none be live.
        rounds: how often everything is measured in turn; medians count.
        start_command: a command that runs the graph and writes events to standard output, to
            measure the time from its start to the first detection.

    Returns:
        Figures as `--json` writes them.

    Raises:
        SetupError: there is nothing in it that can be measured, or too little.
        RunError: a measurement failed.
    """
    graph = build()
    cores = usable_cores()
    model = check(graph)
    bare: list[dict[str, float]] = []
    alone: list[dict[str, float]] = []
    whole: list[dict[str, float]] = []
    starts: list[float] = []
    for _ in range(rounds):
        starts.append(_start(start_command))
        bare.append(_bare(graph, model, min(cores, model.replicas)))
        alone.append(_alone(graph, model))
        whole.append(_pipeline(build(), model.name))
    parts = {name: median(a[name] for a in alone) for name in alone[0]}
    sequential_fps = parts.pop("fps")
    d_ms = median(b["cpu_ms"] for b in bare)
    x_ms = sum(parts.values())
    limit_fps = cores / (d_ms + x_ms) * 1e3
    fps = median(w["fps"] for w in whole)
    check_plausible(parts, fps / sequential_fps, cores + (not all(w["on_cpu"] for w in whole)))
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "bare_fps": round(median(b["fps"] for b in bare), 2),
        "limit_fps": round(limit_fps, 2),
        "pipeline_fps": round(fps, 2),
        "ratio_to_limit": round(fps / limit_fps, 4),
        "ratios": [
            round(w["fps"] / (cores / (b["cpu_ms"] + _sum(a)) * 1e3), 4)
            for w, b, a in zip(whole, bare, alone, strict=True)
        ],
        "sequential_fps": round(sequential_fps, 2),
        "ratio_to_plain": round(fps / sequential_fps, 4),
        "start_s": round(median(starts), 3),
        "d_ms": round(d_ms, 3),
        "x_ms": round(x_ms, 3),
        "x_parts_ms": {name: round(value, 3) for name, value in parts.items()},
        "work_share": round((d_ms + x_ms) / median(w["cpu_ms"] for w in whole), 4),
        "overhead_ms": round(median(w["cpu_ms"] for w in whole) - d_ms - x_ms, 3),
        "pipeline_cpu_ms": round(median(w["cpu_ms"] for w in whole), 3),
        "latency_ms": {q: round(median(w[q] for w in whole), 2) for q in ("p50", "p99")},
        "rounds": rounds,
        "processes": [worker.name for worker in graph.workers],
    }


def check(graph: Graph) -> Node:
    """See, before anything starts, that a graph can be measured; the stage that runs the model.

    Raises:
        SetupError: it cannot.
    """
    runs_model = (node for node in graph.nodes if issubclass(node.kind, InferenceStage))
    replicated = (node for node in graph.nodes if node.replicated)
    model = next(itertools.chain(runs_model, replicated), None)
    if model is None:
        raise SetupError("bench: the graph has no stage that runs a model; add a detector")
    for stream in graph.streams:
        if stream.live:
            raise SetupError(
                f"bench: {stream.name} is live and sets its own pace: measure with a file"
            )
        frames = stream.info.frames
        if frames is not None and frames < LEAST_FRAMES:
            raise _too_few(frames)
    return model


def _too_few(frames: int) -> SetupError:
    many = "1 frame is" if frames == 1 else f"{frames} frames are"
    return SetupError(
        f"bench: {many} over before they can be measured: take more, with `loop` and "
        "`frames` of the stream"
    )


def _sum(parts: dict[str, float]) -> float:
    return sum(value for name, value in parts.items() if name != "fps")


def _start(command: Sequence[str]) -> float:
    """Seconds from the start of a command to its first event with an object in it."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seconds = None
    try:
        while seconds is None and time.monotonic() - begin < START_TIMEOUT_S:
            # Without a buffer, so that `select` sees all that is there.
            left_s = START_TIMEOUT_S - (time.monotonic() - begin)
            if not select.select([process.stdout], [], [], max(0.0, left_s))[0]:
                break
            line = process.stdout.readline()
            if not line:
                break
            if json.loads(line)["objects"]:
                seconds = time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=START_TIMEOUT_S)
    if seconds is None:
        raise RunError(f"bench: no object was found; {errors.decode().strip()}")
    return seconds


def _bare(graph: Graph, model: Node, processes: int) -> dict[str, float]:
    """The model alone, on the input that the stages before it make of the first picture."""
    go_in, go_out = os.pipe()

    def work(report: Callable[[object], None]) -> None:
        os.close(go_out)
        stages = _open(graph, upto=model)
        frame = _blank(graph)
        for node, stage in stages.items():
            _call(node, stage, frame)
        stage = stages[model]
        # The model without what is made of its outputs, if the stage separates the two.
        infer = stage.infer if isinstance(stage, InferenceStage) else stage.process
        infer(frame)
        report("ready")
        os.read(go_in, 1)
        begin, cpu, count = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begin < BARE_S:
            infer(frame)
            count += 1
        report((count, time.monotonic() - begin, time.process_time() - cpu))

    children = [Forked(work) for _ in range(processes)]
    for child in children:
        child.receive()
    os.close(go_in)
    os.close(go_out)  # end of file is the starting shot
    results = [child.receive() for child in children]
    for child in children:
        child.end()
    return {
        "fps": sum(count / wall for count, wall, _ in results),
        "cpu_ms": sum(cpu for _, _, cpu in results) / sum(count for count, _, _ in results) * 1e3,
    }


def _alone(graph: Graph, model: Node) -> dict[str, float]:
    """Every stage in one process, one after the other: CPU milliseconds per frame of each."""

    def work(report: Callable[[object], None]) -> None:
        stages = _open(graph)
        used = dict.fromkeys(stages, 0.0)
        inference = _Inference(stages[model])
        frames, more = 0, True
        while more and frames <= ALONE_FRAMES:
            frame = _blank(graph)
            for node, stage in stages.items():
                start, infer_s = time.process_time(), inference.used_s
                more = _call(node, stage, frame)
                used[node] += time.process_time() - start - (inference.used_s - infer_s)
                if not more:
                    break
            frames += more
            if frames == 1:
                # The first frame pays for memory and caches.
                used = dict.fromkeys(stages, 0.0)
        for stage in stages.values():
            stage.close()
        if frames < LEAST_FRAMES:
            raise _too_few(frames)
        report({node.name: value / (frames - 1) * 1e3 for node, value in used.items()})

    child = Forked(work)
    parts = child.receive()
    child.end()
    plain: Sequence[Any] = (model.settings,)
    if issubclass(model.kind, InferenceStage):
        plain = model.kind.single_process(model.settings)
    fps = max(_sequential(graph, model, settings) for settings in plain)
    return {**parts, "fps": fps}


class _Inference:
    """CPU time of what a stage calls `infer`, within its `process`: D has it, so X must not.

    It is measured in the call that it is part of, so the rest of the call cannot be negative.
    A stage that is no `InferenceStage` is all inference.
    """

    def __init__(self, stage: Stage) -> None:
        self.used_s = 0.0
        name = "infer" if isinstance(stage, InferenceStage) else "process"
        call: Callable[[Frame], Any] = getattr(stage, name)

        def timed(frame: Frame) -> Any:
            start = time.process_time()
            try:
                return call(frame)
            finally:
                self.used_s += time.process_time() - start

        setattr(stage, name, timed)


def _sequential(graph: Graph, model: Node, settings: Settings) -> float:
    """Frames per second of one process that does it all, as a plain script would.

    Args:
        graph: what to do.
        model: the stage that runs the model.
        settings: in place of its own.
    """

    def work(report: Callable[[object], None]) -> None:
        stages = _open(graph, settings, model)
        frames, begin, more = 0, time.monotonic(), True
        while more and frames <= SEQUENTIAL_FRAMES:
            frame = _blank(graph)
            for node, stage in stages.items():
                more = _call(node, stage, frame)
                if not more:
                    break
            frames += more
            if frames == 1:
                begin = time.monotonic()
        report((frames - 1) / (time.monotonic() - begin))

    child = Forked(work)
    fps = child.receive()
    child.end()
    return float(fps)


class _Sample(NamedTuple):
    """A pipeline at one moment."""

    time_s: float
    delivered: int
    cpu_s: float
    """Of the workers and the supervisor."""


def _pipeline(graph: Graph, model: str) -> dict[str, float]:
    """The pipeline in its steady state: from the first tenth of the frames to the last whole look
    before the end, so that neither loading the model nor draining counts."""
    samples: list[_Sample] = []

    def look(supervisor: Supervisor) -> None:
        if supervisor.lifecycle.phase == Phase.RUNNING and all(
            child.alive for child in supervisor.processes.children.values()
        ):
            delivered = sum(stream.row.latency.count for stream in supervisor.streams)
            cpu_s = time.process_time() + sum(map(_cpu_s, supervisor.processes.children.values()))
            samples.append(_Sample(time.monotonic(), delivered, cpu_s))

    supervisor = Supervisor(graph, log_level=logging.WARNING)
    code = supervisor.run(look)
    if code:
        kind = SetupError if code == EXIT_SETUP else RunError
        raise kind(f"bench: {supervisor.lifecycle.error or 'interrupted'}")
    summary = supervisor.summary()["streams"]
    provider = str(supervisor.summary()["stages"][model].get("provider") or "CPU")
    frames = sum(stream["delivered"] for stream in summary.values())
    steady = [sample for sample in samples if sample.delivered >= frames / 10]
    if len(steady) < 2 or steady[-1].delivered == steady[0].delivered:
        raise _too_few(frames)
    first, last = steady[0], steady[-1]
    measured = last.delivered - first.delivered
    return {
        "fps": measured / (last.time_s - first.time_s),
        "cpu_ms": (last.cpu_s - first.cpu_s) / measured * 1e3,
        "p50": max(stream["latency_ms"]["p50"] for stream in summary.values()),
        "p99": max(stream["latency_ms"]["p99"] for stream in summary.values()),
        "on_cpu": provider.startswith("CPU"),
    }


def _cpu_s(child: Child) -> float:
    """CPU time of all threads of a worker."""
    total_ns = 0
    try:
        for thread in os.listdir(f"/proc/{child.pid}/task"):
            with open(f"/proc/{child.pid}/task/{thread}/schedstat") as file:
                total_ns += int(file.read().split()[0])
    except OSError:
        return 0.0  # it has ended between two looks
    return total_ns / 1e9


def _open(
    graph: Graph,
    change: Settings | None = None,
    upto: Node | None = None,
) -> dict[Node, Stage]:
    """The stages of a graph in this process, opened, in the order they are worked in."""
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


def _call(node: Node, stage: Stage, frame: Frame) -> bool:
    """Have a stage work on a frame; False if it is a source that has ended."""
    if not isinstance(stage, Source):
        stage.process(frame)
        return True
    stage.offer(frame)
    if not stage.collect():
        return False
    frame.header.height, frame.header.width = frame["image"].shape[:2]
    return True


@functools.lru_cache(maxsize=1)
def _memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


def _blank(graph: Graph) -> Frame:
    """A frame in memory that is used again and again, as a slot is."""
    memory = _memory(graph.slot_bytes)
    header = Header(stream=0, seq=0, attempt=0, slot=0, generation=1, limit=graph.slot_bytes)
    return Frame(header, graph.streams[0].name, memory)
