"""The pipeline compared with its limits, measured interleaved in one run, so that the ratios hold
on a machine whose speed drifts.

    D   CPU time of bare inference per frame: the model alone, one process per core, nothing else;
        of further models, whose work depends on what the others find, that of their `infer` in X
    X   CPU time of all other work per frame, measured stage by stage in one process: decode,
        resize, decode of outputs, NMS, tracking, the sinks
    limit = cores / (D + X)     frames per second of these cores if moving frames cost nothing
    plain   a loop that does all of it in one process, as a script would: the best of the model on
        all cores with threads that spin (onnxruntime's default), on all without, and on one
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from pipeline.bench_figures import as_text as as_text
from pipeline.bench_figures import check_plausible, cpu_model
from pipeline.bench_process import Forked, time_to_first_object
from pipeline.bench_stages import blank_frame, call_in_process, open_stages
from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame
from pipeline.graph.graph import Graph, Node
from pipeline.graph.placement import usable_cores
from pipeline.stage import InferenceStage, Settings, Stage
from pipeline.supervisor.lifecycle import EXIT_SETUP, Phase
from pipeline.supervisor.processes import Child
from pipeline.supervisor.supervisor import Supervisor

BARE_S = 3.0
"""Seconds for which the model alone is measured."""
ALONE_FRAMES = 150
"""Frames over which the work of each stage is measured."""
MIN_FRAMES = 2
"""Fewest frames that can be measured; the first one pays for memory and caches."""
SEQUENTIAL_FRAMES = 120
"""Frames over which the plain loop is measured."""


def bench(build: Callable[[], Graph], rounds: int, start_command: Sequence[str]) -> dict[str, Any]:
    """Measure a graph.

    Args:
        build: makes the graph; its streams must end, and none be live.
        rounds: number of rounds, each of which measures every variant once; medians are reported.
        start_command: command that runs the graph and writes events to standard output, to measure
            the time from its start to the first detection.

    Returns:
        The figures as `--json` writes them.

    Raises:
        SetupError: the graph has nothing to measure, or too few frames.
        RunError: a measurement failed.
    """
    graph = build()
    cores = usable_cores()
    model = check(graph)
    bare: list[dict[str, float]] = []
    alone: list[_Alone] = []
    whole: list[dict[str, float]] = []
    starts: list[float] = []
    for _ in range(rounds):
        starts.append(time_to_first_object(start_command))
        bare.append(_bare(graph, model, min(cores, model.replicas)))
        alone.append(_alone(graph, model))
        whole.append(_pipeline(build(), model.name))
    parts = {name: median(a.parts[name] for a in alone) for name in alone[0].parts}
    sequential_fps = median(a.fps for a in alone)
    models = {model.name: median(b["cpu_ms"] for b in bare)}
    models |= {name: median(a.models[name] for a in alone) for name in alone[0].models}
    d_ms = sum(models.values())
    x_ms = sum(parts.values())
    limit_fps = cores / (d_ms + x_ms) * 1e3
    fps = median(w["fps"] for w in whole)
    check_plausible(parts, fps / sequential_fps, cores + (not all(w["on_cpu"] for w in whole)))
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "bare_fps": round(median(b["fps"] for b in bare) * models[model.name] / d_ms, 2),
        "limit_fps": round(limit_fps, 2),
        "pipeline_fps": round(fps, 2),
        "ratio_to_limit": round(fps / limit_fps, 4),
        "ratios": [
            round(w["fps"] / (cores / (b["cpu_ms"] + a.total_ms) * 1e3), 4)
            for w, b, a in zip(whole, bare, alone, strict=True)
        ],
        "sequential_fps": round(sequential_fps, 2),
        "ratio_to_plain": round(fps / sequential_fps, 4),
        "start_s": round(median(starts), 3),
        "d_ms": round(d_ms, 3),
        "d_parts_ms": {name: round(value, 3) for name, value in models.items()},
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
    """Check, before anything starts, that a graph can be measured.

    Returns:
        The stage that runs the model.

    Raises:
        SetupError: it cannot be measured.
    """
    runs_model = (node for node in graph.nodes if issubclass(node.kind, InferenceStage))
    replicated = (node for node in graph.nodes if node.replicated)
    model = next(itertools.chain(runs_model, replicated), None)
    if model is None:
        raise SetupError("bench: the graph has no stage that runs a model; add a detector")
    for stream in graph.streams:
        if stream.live:
            raise SetupError(
                f"bench: stream {stream.name} is live, so it sets the pace; use a file"
            )
        frames = stream.info.frames
        if frames is not None and frames < MIN_FRAMES:
            raise _too_few(frames)
    return model


def _too_few(frames: int) -> SetupError:
    many = "1 frame is" if frames == 1 else f"{frames} frames are"
    return SetupError(
        f"bench: {many} too few to measure; set `loop: true` and a larger `frames` of the stream"
    )


class _Alone(NamedTuple):
    """The work of all stages in one process, in milliseconds of CPU time per frame."""

    parts: dict[str, float]
    """Stage -> its work, without bare inference."""
    models: dict[str, float]
    """Stage that runs a further model -> its bare inference."""
    fps: float
    """Frames per second of the plain loop."""

    @property
    def total_ms(self) -> float:
        return sum(self.parts.values()) + sum(self.models.values())


def _bare(graph: Graph, model: Node, processes: int) -> dict[str, float]:
    """Measure the model alone, on the input that the stages before it make of the first image."""
    go_in, go_out = os.pipe()

    def work(report: Callable[[object], None]) -> None:
        os.close(go_out)
        stages = open_stages(graph, upto=model)
        frame = blank_frame(graph)
        for node, stage in stages.items():
            call_in_process(node, stage, frame)
        stage = stages[model]
        # The model without the decoding of its outputs, if the stage separates the two.
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
    os.close(go_out)  # end of file starts all of them
    results = [child.receive() for child in children]
    for child in children:
        child.end()
    return {
        "fps": sum(count / wall for count, wall, _ in results),
        "cpu_ms": sum(cpu for _, _, cpu in results) / sum(count for count, _, _ in results) * 1e3,
    }


def _alone(graph: Graph, model: Node) -> _Alone:
    """Measure every stage in one process: CPU milliseconds per frame of each."""

    def work(report: Callable[[object], None]) -> None:
        stages = open_stages(graph)
        used = dict.fromkeys(stages, 0.0)
        inference = {
            node: _Inference(stage)
            for node, stage in stages.items()
            if node is model or isinstance(stage, InferenceStage)
        }
        frames, more = 0, True
        while more and frames <= ALONE_FRAMES:
            frame = blank_frame(graph)
            for node, stage in stages.items():
                start = time.process_time()
                more = call_in_process(node, stage, frame)
                used[node] += time.process_time() - start
                if not more:
                    break
            frames += more
            if frames == 1:
                # The first frame pays for memory and caches.
                used = dict.fromkeys(stages, 0.0)
                for part in inference.values():
                    part.used_s = 0.0
        for stage in stages.values():
            stage.close()
        if frames < MIN_FRAMES:
            raise _too_few(frames)
        bare = {node: part.used_s for node, part in inference.items()}
        each_ms = 1e3 / (frames - 1)
        report(
            (
                {node.name: (s - bare.get(node, 0.0)) * each_ms for node, s in used.items()},
                {node.name: s * each_ms for node, s in bare.items() if node is not model},
            )
        )

    child = Forked(work)
    parts, models = child.receive()
    child.end()
    plain: Sequence[Any] = (model.settings,)
    if issubclass(model.kind, InferenceStage):
        plain = model.kind.single_process(model.settings)
    return _Alone(parts, models, max(_sequential(graph, model, settings) for settings in plain))


class _Inference:
    """CPU time of `infer` within the `process` of a stage: it is part of D, so X excludes it.

    It is measured inside the same call, so the rest of the call cannot be negative. A stage that is
    not an `InferenceStage` is all inference.
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
    """Return the frames per second of one process that does all the work, as a script would.

    Args:
        graph: the graph.
        model: the stage that runs the model.
        settings: settings of that stage, in place of its own.
    """

    def work(report: Callable[[object], None]) -> None:
        stages = open_stages(graph, settings, model)
        frames, begin, more = 0, time.monotonic(), True
        while more and frames <= SEQUENTIAL_FRAMES:
            frame = blank_frame(graph)
            for node, stage in stages.items():
                more = call_in_process(node, stage, frame)
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
    """Counts of a pipeline at one moment."""

    time_s: float
    delivered: int
    cpu_s: float
    """CPU time of the workers and the supervisor."""


def _pipeline(graph: Graph, model: str) -> dict[str, float]:
    """Measure the pipeline in its steady state: from the first tenth of the frames to the last
    sample before the end, so that neither loading the model nor draining counts."""
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
    """Return the CPU time of all threads of a worker."""
    total_ns = 0
    try:
        for thread in os.listdir(f"/proc/{child.pid}/task"):
            with open(f"/proc/{child.pid}/task/{thread}/schedstat") as file:
                total_ns += int(file.read().split()[0])
    except OSError:
        return 0.0  # it has just ended
    return total_ns / 1e9
