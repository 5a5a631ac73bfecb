"""The result of `run.py evaluate`: its figures as tables and as JSON, and the change since one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from rich.table import Table

from models.datasets.base import DataSet
from models.evaluation.arrays import check_unique
from models.evaluation.compare import Difference, compare_detections, compare_tracks
from models.evaluation.detection import (
    DetectionFigures,
    ImageBoxes,
    PrecisionCurves,
    evaluate_detections,
)
from models.evaluation.matching import ConfidenceFigures, confidence_figures
from models.evaluation.tracking import TrackingFigures, clip_sums, tracking_figures
from models.evaluation.tracks import ClipBoxes, FrameBoxes
from pipeline.commands.evaluate_run import Run
from pipeline.errors import ConfigError

VERSION = 1
"""Version of the JSON file; a file of another version is refused."""
MAX_ROWS = 20
"""Classes in the table; the JSON file has all of them."""
OF_IMAGES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "small": "ap_small",
    "medium": "ap_medium",
    "large": "ap_large",
    "AR100": "ar_100",
}
"""Column of the table -> field of the figures."""
OF_CLIPS = {
    "HOTA": "hota",
    "DetA": "det_a",
    "AssA": "ass_a",
    "MOTA": "mota",
    "IDF1": "idf1",
    "switches": "id_switches",
    "missed": "missed",
    "false": "false",
}


class DataFacts(msgspec.Struct, frozen=True):
    """The data set of an evaluation."""

    path: str
    format: str
    images: int
    clips: int
    sha256: str
    """Of labels, names and true objects: the same for the same truth."""


class ModelFacts(msgspec.Struct, frozen=True):
    """The model of an evaluation."""

    name: str
    family: str
    sha256: str
    provider: str


class Detected(msgspec.Struct, frozen=True):
    """Found boxes of an image, or of a frame of a clip."""

    name: str
    """Name of the image, or of the clip."""
    frame: int | None
    boxes: list[list[float]]
    """x1, y1, x2, y2 in pixels."""
    numbers: list[int]
    """Classes of an image, indices into `labels`; track ids of a clip."""
    scores: list[float] | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a run over a data set, and the detections they were worked out from."""

    version: int = VERSION
    task: Literal["detect", "track"]
    data: DataFacts
    model: ModelFacts | None
    labels: tuple[str, ...]
    detection: DetectionFigures | None = None
    confidence: ConfidenceFigures | None = None
    tracking: TrackingFigures | None = None
    clips: dict[str, TrackingFigures] = {}
    """Figures of each clip."""
    notes: tuple[str, ...] = ()
    run: dict[str, Any] = {}
    """Summary of the run, with the ledger of its frames."""
    detections: tuple[Detected, ...] = ()
    truth: tuple[Detected, ...] = ()
    """True boxes of the frames of clips, for a comparison; those of images are in the data set."""


class Measured(NamedTuple):
    """An evaluation, and what the pictures of its report need beside it."""

    evaluation: Evaluation
    boxes: Sequence[ImageBoxes] = ()
    """Boxes of the images; empty for clips."""
    curves: PrecisionCurves | None = None
    """Curves of precision; None for clips."""


def evaluate_images(
    data: DataSet,
    found: Run,
    boxes: Sequence[ImageBoxes],
    confidence: float,
    notes: Sequence[str],
) -> Measured:
    """Work out the figures of a detector.

    Raises:
        EvaluationError: hotcoco is not installed, or an array is wrong.
    """
    labels = found.classes.labels
    result = evaluate_detections(boxes, labels)
    evaluation = Evaluation(
        task="detect",
        data=_data_facts(data),
        model=_model_facts(found),
        labels=labels,
        detection=result.figures,
        confidence=confidence_figures(boxes, labels, confidence),
        notes=tuple(notes),
        run=dict(found.summary),
        detections=tuple(_of_image(image) for image in boxes),
        truth=tuple(_truth_of_image(image) for image in boxes),
    )
    return Measured(evaluation, boxes, result.curves)


def evaluate_clips(
    data: DataSet, found: Run, clips: Sequence[ClipBoxes], notes: Sequence[str]
) -> Measured:
    """Work out the figures of a tracker.

    Raises:
        EvaluationError: an array is wrong.
    """
    check_unique("clips", [clip.name for clip in clips])
    sums = [clip_sums(clip) for clip in clips]
    evaluation = Evaluation(
        task="track",
        data=_data_facts(data),
        model=_model_facts(found),
        labels=found.classes.labels,
        tracking=tracking_figures(sums),
        clips={clip.name: tracking_figures([of]) for clip, of in zip(clips, sums, strict=True)},
        notes=tuple(notes),
        run=dict(found.summary),
        detections=tuple(
            Detected(clip.name, i, frame.found_boxes.tolist(), frame.found_ids.tolist())
            for clip in clips
            for i, frame in enumerate(clip.frames)
        ),
        truth=tuple(
            Detected(clip.name, i, frame.truth_boxes.tolist(), frame.truth_ids.tolist())
            for clip in clips
            for i, frame in enumerate(clip.frames)
        ),
    )
    return Measured(evaluation)


def load(path: Path) -> Evaluation:
    """Read the JSON file of an earlier evaluation.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: no result of an evaluation ({error}); name a file that --json has written"
        ) from None
    if found.version != VERSION:
        raise ConfigError(
            f"{path}: result of another version (found {found.version}, expected {VERSION}); "
            "evaluate again with --json"
        )
    return found


def differences(before: Evaluation, after: Evaluation) -> list[Difference]:
    """Compare two evaluations of the same data set.

    Raises:
        ConfigError: their data sets, classes or tasks differ.
        EvaluationError: their frames differ.
    """
    if (before.task, before.data.sha256) != (after.task, after.data.sha256):
        raise ConfigError(
            f"--against: another data set (found {before.data.path}, expected {after.data.path}); "
            "compare results over the same data"
        )
    if before.labels != after.labels:
        raise ConfigError(
            f"--against: other classes were measured (found {len(before.labels)}, expected "
            f"{len(after.labels)}); evaluate both models with the same labels"
        )
    if after.task == "track":
        return list(compare_tracks(_clips(before), _clips(after)))
    confidence = None if after.confidence is None else after.confidence.confidence
    return list(
        compare_detections(_images(before), _images(after), after.labels, confidence=confidence)
    )


def tables(evaluation: Evaluation) -> list[Table]:
    """Return the figures as tables for a terminal."""
    if evaluation.detection is None:
        return [_table_of_clips(evaluation)]
    figures, at = evaluation.detection, evaluation.confidence
    columns = list(OF_IMAGES)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", no_wrap=True)
    for name in ("images", "objects", *columns):
        table.add_column(name, justify="right")
    everything = [percent(getattr(figures, OF_IMAGES[name])) for name in columns]
    table.add_row("all", str(figures.images), str(figures.objects), *everything)
    present = [of for of in figures.classes if of.objects]
    for of in sorted(present, key=lambda of: -of.objects)[:MAX_ROWS]:
        own = [percent(of.ap), percent(of.ap50), percent(of.ap75)]
        table.add_row(of.label, str(of.images), str(of.objects), *own)
    if len(present) > MAX_ROWS:
        table.add_row(f"and {len(present) - MAX_ROWS} more")
    if at is None:
        return [table]
    total = at.total
    below = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        f"at confidence {at.confidence:g}",
        "precision",
        "recall",
        "F1",
        "missed",
        "false",
    ):
        below.add_column(name, justify="right")
    below.add_row(
        f"{total.right} right",
        *(percent(value) for value in (total.precision, total.recall, total.f1)),
        str(total.missed),
        str(total.false),
    )
    return [table, below]


def difference_lines(changes: Sequence[Difference]) -> list[str]:
    """Return one line for each figure that was compared."""
    lines = []
    for change in changes:
        text = f"{change.figure:10} {percent(change.first):>6} -> {percent(change.second):>6}"
        if change.difference is not None:
            text += f"  {change.difference * 100:+.1f}"
        if change.low is not None and change.high is not None:
            text += f"  (95 %: {change.low * 100:+.1f} to {change.high * 100:+.1f})"
        lines.append(text)
    return lines


def percent(value: float | None) -> str:
    """Return a share as a percentage; "-" where it is undefined."""
    return "-" if value is None else f"{value * 100:.1f}"


def _table_of_clips(evaluation: Evaluation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("clip")
    for name in ("frames", "tracks", *OF_CLIPS):
        table.add_column(name, justify="right")
    rows = dict(evaluation.clips)
    if evaluation.tracking is not None and len(rows) != 1:
        rows["all"] = evaluation.tracking
    for name, figures in rows.items():
        values = (getattr(figures, field) for field in OF_CLIPS.values())
        cells = [str(value) if isinstance(value, int) else percent(value) for value in values]
        table.add_row(name, str(figures.frames), str(figures.truth_tracks), *cells)
    return table


def _of_image(image: ImageBoxes) -> Detected:
    return Detected(
        image.name,
        None,
        image.found_boxes.tolist(),
        image.found_classes.tolist(),
        image.found_scores.tolist(),
    )


def _truth_of_image(image: ImageBoxes) -> Detected:
    # The area and whether it is ignored take the place of the scores.
    flags = np.stack([image.areas, image.ignored.astype(float)], axis=1).reshape(-1)
    size = [float(image.width), float(image.height)]
    return Detected(
        image.name,
        None,
        image.truth_boxes.tolist(),
        image.truth_classes.tolist(),
        [*size, *flags.tolist()],
    )


def _images(evaluation: Evaluation) -> list[ImageBoxes]:
    found = []
    for truth, own in zip(evaluation.truth, evaluation.detections, strict=True):
        width, height, *flags = truth.scores or [0.0, 0.0]
        areas, ignored = np.array(flags, np.float64).reshape(-1, 2).T
        found.append(
            ImageBoxes(
                truth.name,
                int(width),
                int(height),
                np.array(truth.boxes, np.float64).reshape(-1, 4),
                np.array(truth.numbers, np.intp),
                ignored.astype(np.bool_),
                areas,
                np.array(own.boxes, np.float64).reshape(-1, 4),
                np.array(own.scores or (), np.float64),
                np.array(own.numbers, np.intp),
            )
        )
    return found


def _clips(evaluation: Evaluation) -> list[ClipBoxes]:
    frames: dict[str, list[FrameBoxes]] = {}
    for truth, own in zip(evaluation.truth, evaluation.detections, strict=True):
        frames.setdefault(truth.name, []).append(
            FrameBoxes(
                np.array(truth.numbers, np.int64),
                np.array(truth.boxes, np.float64).reshape(-1, 4),
                np.array(own.numbers, np.int64),
                np.array(own.boxes, np.float64).reshape(-1, 4),
            )
        )
    return [ClipBoxes(name, own) for name, own in frames.items()]


def _data_facts(data: DataSet) -> DataFacts:
    truth = [
        data.labels,
        [(image.name, image.objects, image.classes) for image in data.images],
        [(clip.name, sorted(clip.objects.items())) for clip in data.clips],
    ]
    digest = hashlib.sha256(msgspec.msgpack.encode(truth)).hexdigest()
    return DataFacts(str(data.root), data.format, len(data.images), len(data.clips), digest)


def _model_facts(found: Run) -> ModelFacts | None:
    model = found.model
    if model is None:
        return None
    return ModelFacts(model.name, model.family, model.sha256, found.provider)
