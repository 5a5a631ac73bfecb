"""`models inspect`: loads a model in a process of its own, and tries it on an image or a clip."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from models import golden, zoo
from models.contract import Contract
from models.errors import ModelError
from models.load_limit import limit_s
from models.results import describe
from models.runtime import Runtime
from pipeline import config as config_file
from pipeline.bench_process import Forked
from pipeline.bench_stages import blank_frame, call_in_process, open_stages
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.graph.build import build
from pipeline.graph.graph import Graph
from stages import LOCATIONS
from stages.details import frame_labels_of, semantic_of
from stages.detections import Detections, label, labels_of
from stages.drawing.annotator import annotator_of
from stages.inference.detector import Detector

MAX_FRAMES = 30
"""Frames of a clip that are looked at."""
TIMEOUT_S = 300.0
"""Seconds that trying a model may take."""
MEMORY_BYTES = 8 << 30
"""Address space of the process that loads a model, besides eight times the size of its file."""


class Loaded(NamedTuple):
    """A model that onnxruntime has loaded."""

    provider: str
    seconds: float


def load_apart(contract: Contract) -> Loaded:
    """Load a model in a process of its own, bounded in time and memory.

    Raises:
        SetupError: onnxruntime cannot load it, or not within the limits.
    """

    def load() -> object:
        start = time.monotonic()
        return [Runtime(contract, "cpu").provider, time.monotonic() - start]

    work = _limited(contract, load)
    return Loaded(*_result(work, "loading the model", limit_s(contract.size_bytes) + 10))


def compare_apart(contract: Contract, path: Path) -> float:
    """Return how far a model is from its golden outputs; it runs in a process of its own.

    Args:
        contract: contract of the model.
        path: its golden file.

    Returns:
        see `models.golden.difference`.

    Raises:
        SetupError: the golden file cannot be read, or the model cannot be loaded or take the input.
    """
    work = _limited(contract, lambda: golden.compare(path, Path(contract.path)))
    return float(_result(work, "running the golden input", TIMEOUT_S))


def _limited(contract: Contract, call: Callable[[], object]) -> Callable[..., None]:
    """Return the work of a process that calls a function, with a limit of its memory."""

    def work(report: Callable[[object], None]) -> None:
        limit = MEMORY_BYTES + 8 * contract.size_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            report(call())
        except ModelError as error:
            raise SetupError(str(error)) from None
        except MemoryError:
            raise SetupError(
                f"{contract.path}: loading takes more than {limit >> 30} GiB of memory; export the "
                "model again"
            ) from None

    return work


class Tried(NamedTuple):
    """Results of a model on an image or a clip."""

    frames: int
    objects: int
    """Of all frames, at the confidence."""
    picture: str
    """Path of the frame with the most objects, drawn."""
    odd: str
    """Description of results that look wrong; empty: they do not."""
    labels: dict[str, int]
    """Label -> number of objects, of frames or of pixels."""
    unit: str = ""
    """Unit of these numbers: "" objects, "frames of", "px of"."""


def try_on(model: str, source: str, picture: Path | None) -> Tried:
    """Run the stages for a model over an image, or the first frames of a clip.

    Args:
        model: as in the setting `model` of a stage.
        source: image, folder or clip.
        picture: file for the frame with the most objects; None: no file is written.

    Raises:
        SetupError: the model or the source cannot be used.
    """
    raw = {
        "streams": {"try": {"source": source, "frames": MAX_FRAMES}},
        "stages": {"capture": {"use": "capture"}, **_stages(model)},
    }
    graph = build(config_file.check(raw, "models inspect"), LOCATIONS, "models inspect")
    work = _work(graph, picture)
    return msgspec.convert(_result(work, "trying the model", TIMEOUT_S), Tried)


def _stages(model: str) -> dict[str, dict[str, Any]]:
    """Return the stages that run a model, by its task.

    Raises:
        SetupError: its answers cannot be drawn.
    """
    task = zoo.resolve(model).task
    own = {"model": model, "device": "cpu"}
    if task == "classify":
        return {"classify": {"use": "classify", "min_score": 0, "steady_s": 0, "top": 3, **own}}
    if task == "semantic":
        return {"semantic": {"use": "semantic", **own}}
    if task == "embed":
        raise SetupError(
            f"{model}: an embedding is a vector, which cannot be drawn; use it in a stage: "
            "embed_objects, behind a tracker"
        )
    return {
        "preprocess": {"use": "preprocess"},
        "detector": {"use": "detector", **own},
        "nms": {"use": "nms"},
    }


def _found(frame: Frame, labels: Sequence[str]) -> tuple[dict[str, int], str]:
    """Return the numbers of the labels of a frame, and their unit; see `Tried`."""
    counts = semantic_of(frame)
    if counts is not None:
        return counts.counts, "px of"
    best = frame_labels_of(frame)
    if best:
        return {best[0].label: 1}, "frames of"
    names = (label(labels, number) for number in Detections.of(frame).classes.tolist())
    return dict(Counter(names)), ""


def _work(graph: Graph, picture: Path | None) -> Callable[[Callable[[object], None]], None]:
    """Return the work of the process that tries a model."""

    def work(report: Callable[[object], None]) -> None:
        import cv2

        stages = open_stages(graph)
        context = graph.nodes[-1].context
        labels, annotator = labels_of(context), annotator_of(context, trail_frames=0)
        detectors = [stage for stage in stages.values() if isinstance(stage, Detector)]
        counts: Counter[str] = Counter()
        frames = objects = 0
        most, unit = -1, ""
        while frames < MAX_FRAMES:
            frame = blank_frame(graph, frames)
            if not all(call_in_process(node, stage, frame) for node, stage in stages.items()):
                break
            found, unit = _found(frame, labels)
            counts.update(found)
            objects += len(Detections.of(frame).boxes)
            frames += 1
            if sum(found.values()) > most:
                most = sum(found.values())
                if picture is not None and not cv2.imwrite(str(picture), annotator.draw(frame)):
                    raise SetupError(f"{picture}: cannot be written; choose another --out")
        odd = [found for detector in detectors for found in detector.results.odd()]
        report([frames, objects, str(picture), describe(odd) if odd else "", dict(counts), unit])

    return work


def _result(work: Callable[[Callable[[object], None]], None], task: str, timeout_s: float) -> Any:
    child = Forked(work, "models inspect", task)
    try:
        return child.receive(timeout_s)
    finally:
        child.end()
