"""The run that an evaluation measures: the stages of some settings, fed by a data set."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console

from models.contract import Contract
from models.datasets.base import Clip, DataSet
from models.evaluation.classification import TOP
from pipeline.commands.evaluate_boxes import Classes, match_classes
from pipeline.commands.options import (
    build_graph,
    name_in_settings,
    settings_of,
    stages_with,
    unique_name,
)
from pipeline.commands.terminal import LiveTable
from pipeline.context import ArrayOffer, Context
from pipeline.errors import ConfigError, RunError, SetupError
from pipeline.graph.graph import Graph
from pipeline.graph.load import load_class
from pipeline.stage import Source, Stage
from pipeline.supervisor.lifecycle import EXIT_OK, EXIT_SETUP
from pipeline.supervisor.supervisor import Supervisor
from stages import LOCATIONS
from stages.capture.dataset import DatasetSettings
from stages.sinks.score import Score, Scored

MAX_FRAME = (3840, 2160)
"""Width and height in pixels of the largest image that needs no `max_frame`."""
STREAM = "data"
"""Stream of the images of a data set."""
RESULTS = {
    "detect": ("boxes", "boxes"),
    "classify": ("frame_labels", "classes of whole images"),
    "semantic": ("semantic_map", "classes of pixels"),
}
"""Task of a data set -> the array that is measured, and words for it."""
LABELS_OF = {
    **dict.fromkeys(("detect", "track"), "classes"),
    "classify": "frame_labels",
    "semantic": "semantic_map",
}
"""Task of a data set -> the array whose numbers have the labels of the model."""
WHOLE = ("classify", "semantic")
"""Tasks without boxes; each is that of a model too, and the name of its stage."""
ALL_CLASSES = {"top": TOP, "min_score": 0.0, "every_s": 0.0}
"""Settings of a stage that classifies frames: so many classes of each, whatever their scores."""


class Run(NamedTuple):
    """A run that has ended."""

    detections: Mapping[str, list[Scored]]
    """Stream -> its frames, in order."""
    classes: Classes
    """The classes that are measured."""
    model: Contract | None
    provider: str
    summary: Mapping[str, Any]
    """See `run.py run --summary`."""
    confidence: float | None
    """Score of an object by the settings, or the card of the model."""


def stream_names(clips: tuple[Clip, ...]) -> dict[str, Clip]:
    """Return clips by the names of their streams, which have letters, digits, - and _ only."""
    named: dict[str, Clip] = {}
    for clip in clips:
        name = name_in_settings(clip.name, name_in_settings(f"clip_{clip.name}", "clip"))
        named[unique_name(name, named)] = clip
    return named


def run(
    args: argparse.Namespace,
    data: DataSet,
    settings: DatasetSettings,
    renames: Mapping[str, str],
    folder: Path,
) -> Run:
    """Run the stages on a data set.

    Args:
        args: arguments of the command.
        data: the data set.
        settings: how it is read.
        renames: label of the model -> that of the data set.
        folder: empty folder for the detections.

    Raises:
        SetupError: the settings cannot work with the data set.
        RunError: the run failed, or was interrupted.
    """
    scores = folder / "scores.jsonl"
    raw, where = settings_of(args)
    if args.config is None and data.task in WHOLE:
        if not args.model:
            raise ConfigError(
                f"evaluate: the data set has {RESULTS[data.task][1]} (format {data.format}); name "
                "a model that gives them with --model, or settings with --config"
            )
        _use_own_stage(raw["stages"], data.task)
    for table in stages_with("streams", raw["stages"]).values():
        table.pop("streams", None)  # rules for streams that the data set replaces
    confidence = raw.get("confidence")
    if data.images:
        _use_images(raw, data, settings, args.min_score)
    else:
        _use_clips(raw, data, args)
    last = list(raw["stages"])[-1]
    raw["stages"]["score"] = {"use": "score", "after": last, "path": str(scores)}
    graph = build_graph(raw, where, args)
    node = next(node for node in graph.nodes if node.kind is Score)
    contract = _model_of(node.context)
    labels = _labels_of(node.context, LABELS_OF[data.task])
    classes = match_classes(labels, data.labels, renames)
    supervisor = _run(graph, args)
    if confidence is None and contract is not None:
        confidence = contract.thresholds.score
    detections: dict[str, list[Scored]] = {stream.name: [] for stream in graph.streams}
    decoder = msgspec.json.Decoder(Scored)
    with scores.open("rb") as file:
        for line in file:
            found = decoder.decode(line)
            detections[found.stream].append(found)
    summary = supervisor.summary()
    providers = (str(row.get("provider") or "") for row in summary["stages"].values())
    return Run(
        detections,
        classes,
        contract,
        next(filter(None, providers), ""),
        summary,
        confidence,
    )


def _run(graph: Graph, args: argparse.Namespace) -> Supervisor:
    console = Console(stderr=True)
    level = logging.WARNING if args.quiet else logging.INFO
    supervisor = Supervisor(graph, log_level=level)
    if console.is_terminal and not args.quiet:
        with LiveTable(console) as live:
            code = supervisor.run(live.tick)
    else:
        code = supervisor.run()
    if code != EXIT_OK:
        kind = SetupError if code == EXIT_SETUP else RunError
        raise kind(f"evaluate: {supervisor.lifecycle.error or 'interrupted'}")
    return supervisor


def _use_images(
    raw: dict[str, Any], data: DataSet, settings: DatasetSettings, min_score: float
) -> None:
    """Put a data set in the place of the source, and leave out the stages behind the results."""
    stages = raw["stages"]
    kinds = _kinds(stages)
    array, missing = RESULTS[data.task]
    giving = [name for name, kind in kinds.items() if _gives(kind, array)]
    untracked = [name for name in giving if not _gives(kinds[name], "ids")]
    if not untracked:
        raise ConfigError(
            f"evaluate: no stage of the settings gives {missing} (the data set has format "
            f"{data.format}); add one"
        )
    names = list(stages)[: list(stages).index(untracked[-1]) + 1]
    kept = [name for name in names if not _gives(kinds[name], "ids")]
    raw["stages"] = {name: stages[name] for name in kept}
    for name in kept:
        if issubclass(kinds[name], Source):
            raw["stages"][name] = {"use": "dataset"}
    own = msgspec.structs.asdict(settings)
    raw["streams"] = {STREAM: {key: value for key, value in own.items() if value is not None}}
    for name in giving if data.task == "classify" else ():
        known = kinds[name].Settings.__struct_fields__
        stages[name] |= {key: value for key, value in ALL_CLASSES.items() if key in known}
    # A curve of precision needs the weak boxes too.
    raw["confidence"] = min_score
    for table in stages_with("min_score", raw["stages"]).values():
        table.pop("min_score", None)
        table.pop("class_scores", None)
    width = max(image.size[0] for image in data.images)
    height = max(image.size[1] for image in data.images)
    if width * height > MAX_FRAME[0] * MAX_FRAME[1]:
        raw["max_frame"] = f"{width}x{height}"


def _use_clips(raw: dict[str, Any], data: DataSet, args: argparse.Namespace) -> None:
    """Make a stream of each clip, and leave out what follows the last stage that gives tracks."""
    stages = raw["stages"]
    tracking = [name for name, kind in _kinds(stages).items() if _gives(kind, "ids")]
    if not tracking:
        raise ConfigError("evaluate: no stage of the settings tracks objects; add a tracker")
    kept = list(stages)[: list(stages).index(tracking[-1]) + 1]
    raw["stages"] = {name: stages[name] for name in kept}
    raw["streams"] = {}
    for name, clip in stream_names(data.clips).items():
        table: dict[str, Any] = {"source": str(clip.source)}
        if clip.source.is_dir():
            table |= {"sequence": True} | ({"fps": clip.fps} if clip.fps else {})
        if args.frames:
            table["frames"] = args.frames
        raw["streams"][name] = table


def _use_own_stage(stages: dict[str, Any], task: str) -> None:
    """Put the stage of a task in the place of those that detect, with the model of the detector."""
    [source, detector] = (stages[name] for name in ("capture", "detector"))
    stages.clear()
    stages |= {"capture": source, task: detector | {"use": task}}


def _labels_of(context: Context, array: str) -> tuple[str, ...]:
    """Return the labels that the nearest stage offers with an array; empty: it has none."""
    for offer in context.offers:
        if isinstance(offer, ArrayOffer) and offer.array == array:
            names = msgspec.structs.asdict(offer).get("names")
            if names is not None:
                return tuple(names)
    return ()


def _model_of(context: Context) -> Contract | None:
    """Return the nearest model, also one that a stage offers to itself."""
    for offer in context.offers:
        if isinstance(offer, Contract):
            return offer
        own = msgspec.structs.asdict(offer) if isinstance(offer, msgspec.Struct) else {}
        if isinstance(contract := own.get("contract"), Contract):
            return contract
    return None


def _kinds(stages: Mapping[str, Any]) -> dict[str, type[Stage]]:
    return {
        name: load_class(str(table.get("use")), LOCATIONS, f"stages.{name}")
        for name, table in stages.items()
        if isinstance(table, dict)
    }


def _gives(kind: type[Stage], array: str) -> bool:
    return any(given.name == array for given in kind.gives)
