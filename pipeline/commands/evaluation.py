"""The result of `run.py evaluate`: its figures, and the JSON file that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.datasets.base import DataSet, DataTask
from models.evaluation.arrays import check_unique
from models.evaluation.classification import ClassificationFigures, evaluate_ranks
from models.evaluation.detection import (
    DetectionFigures,
    ImageBoxes,
    PrecisionCurves,
    evaluate_detections,
)
from models.evaluation.localization import LocalizationFigures
from models.evaluation.matching import MIN_IOU, ConfidenceFigures, confidence_figures
from models.evaluation.semantic import SemanticFigures, semantic_figures
from models.evaluation.shapes import evaluate_shapes
from models.evaluation.tracking import TrackingFigures, clip_sums, tracking_figures
from models.evaluation.tracks import ClipBoxes
from pipeline.commands.evaluate_boxes import ImagePair
from pipeline.commands.evaluate_run import Run
from pipeline.commands.evaluate_shapes import Kind, Shapes, shapes_of
from pipeline.commands.evaluate_whole import Pixels, Ranks
from pipeline.errors import ConfigError

VERSION = 2
"""Version of the JSON file; a file of another version is refused."""


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
    """Classes of an image, indices into `labels`, best first where there are no boxes, -1 for one
    that is not measured; track ids of a clip."""
    scores: list[float] | None = None


class ImageOverlaps(msgspec.Struct, frozen=True):
    """Overlaps of the masks, keypoints or rotated boxes of an image."""

    pairs: list[tuple[int, int, float]]
    """Found object, true object, and their overlap, of at least .5. Of keypoints, found objects are
    the best 20 of each class."""
    areas: list[float]
    """px² of each found object."""
    truth_areas: list[float]
    ignored: list[bool]
    """Of each true object, whether it does not count."""
    crowd: list[bool]
    """Of each true object, whether several found ones may match it."""


class ShapeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of masks, keypoints or rotated boxes."""

    kind: Kind
    figures: DetectionFigures
    """As those of boxes; of keypoints, `ar_100` is the recall of the best 20."""
    confidence: ConfidenceFigures
    sigmas: tuple[float, ...] = ()
    """Of each keypoint."""
    images: tuple[ImageOverlaps, ...]
    """In the order of `detections`."""


class ImagePixels(msgspec.Struct, frozen=True):
    """Pixels of an image."""

    name: str
    counts: list[tuple[int, int, int, int]]
    """Class, then its pixels: right, found and true; without classes that have none."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a run over a data set, and the detections they were worked out from."""

    version: int = VERSION
    task: DataTask
    data: DataFacts
    model: ModelFacts | None
    labels: tuple[str, ...]
    detection: DetectionFigures | None = None
    confidence: ConfidenceFigures | None = None
    shapes: tuple[ShapeFigures, ...] = ()
    """Of what both the model and the data set have besides boxes."""
    localization: LocalizationFigures | None = None
    """Of the images with one main object, where the model gives one per image."""
    classification: ClassificationFigures | None = None
    semantic: SemanticFigures | None = None
    tracking: TrackingFigures | None = None
    clips: dict[str, TrackingFigures] = {}
    """Figures of each clip."""
    notes: tuple[str, ...] = ()
    run: dict[str, Any] = {}
    """Summary of the run, with the ledger of its frames."""
    detections: tuple[Detected, ...] = ()
    truth: tuple[Detected, ...] = ()
    """Truth of each of `detections`, for a comparison. Of an image with boxes, `scores` are its
    width and height, and the area and whether it is ignored of each box."""
    pixels: tuple[ImagePixels, ...] = ()
    """Of maps of classes."""


class Measured(NamedTuple):
    """An evaluation, and what the pictures of its report need beside it."""

    evaluation: Evaluation
    boxes: Sequence[ImageBoxes] = ()
    """Boxes of the images; empty for clips."""
    curves: PrecisionCurves | None = None
    """Curves of precision of the boxes; None where there are no boxes of images."""
    shape_curves: Mapping[Kind, PrecisionCurves] = {}
    """Those of masks, keypoints and rotated boxes."""
    confusions: NDArray[np.int64] | None = None
    """(C, C + 1) of classes of whole images; see `ClassificationResult`."""


def evaluate_images(
    data: DataSet,
    found: Run,
    pairs: Sequence[ImagePair],
    confidence: float,
    notes: Sequence[str],
) -> Measured:
    """Work out the figures of a detector.

    Raises:
        EvaluationError: hotcoco is not installed, or an array is wrong.
    """
    labels = found.classes.labels
    boxes = [pair.boxes for pair in pairs]
    result = evaluate_detections(boxes, labels)
    shapes, more = shapes_of(pairs)
    results = [evaluate_shapes(shape.images, labels) for shape in shapes]
    evaluation = Evaluation(
        task="detect",
        data=_data_facts(data),
        model=_model_facts(found),
        labels=labels,
        detection=result.figures,
        confidence=confidence_figures(boxes, labels, confidence),
        shapes=tuple(
            _shape_figures(shape, own.figures, labels, confidence)
            for shape, own in zip(shapes, results, strict=True)
        ),
        notes=(*notes, *more),
        run=dict(found.summary),
        detections=tuple(_of_image(image) for image in boxes),
        truth=tuple(_truth_of_image(image) for image in boxes),
    )
    curves = {shape.kind: own.curves for shape, own in zip(shapes, results, strict=True)}
    return Measured(evaluation, boxes, result.curves, curves)


def evaluate_classes(data: DataSet, found: Run, ranks: Ranks, notes: Sequence[str]) -> Measured:
    """Work out the figures of a classifier of whole images.

    Raises:
        EvaluationError: an array is wrong.
    """
    labels = found.classes.labels
    result = evaluate_ranks(ranks.truth, ranks.ranked, labels)
    evaluation = Evaluation(
        task="classify",
        data=_data_facts(data),
        model=_model_facts(found),
        labels=labels,
        classification=result.figures,
        notes=tuple(notes),
        run=dict(found.summary),
        detections=tuple(
            Detected(name, None, [], row)
            for name, row in zip(ranks.names, ranks.ranked.tolist(), strict=True)
        ),
        truth=tuple(
            Detected(name, None, [], [number])
            for name, number in zip(ranks.names, ranks.truth.tolist(), strict=True)
        ),
    )
    return Measured(evaluation, confusions=result.confusions)


def evaluate_maps(data: DataSet, found: Run, pixels: Pixels, notes: Sequence[str]) -> Measured:
    """Work out the figures of a model that gives a class for each pixel.

    Raises:
        EvaluationError: an array is wrong.
    """
    labels = found.classes.labels
    evaluation = Evaluation(
        task="semantic",
        data=_data_facts(data),
        model=_model_facts(found),
        labels=labels,
        semantic=semantic_figures(pixels.counts, labels),
        notes=tuple(notes),
        run=dict(found.summary),
        pixels=tuple(
            ImagePixels(
                name,
                [(n, *counts[n].tolist()) for n in np.flatnonzero(counts.any(axis=1)).tolist()],
            )
            for name, counts in zip(pixels.names, pixels.counts, strict=True)
        ),
    )
    return Measured(evaluation)


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


def _shape_figures(
    shapes: Shapes, figures: DetectionFigures, labels: Sequence[str], confidence: float
) -> ShapeFigures:
    return ShapeFigures(
        kind=shapes.kind,
        figures=figures,
        confidence=confidence_figures(shapes.images, labels, confidence),
        sigmas=shapes.sigmas,
        images=tuple(_overlaps_of(image) for image in shapes.images),
    )


def _overlaps_of(image: ImageBoxes) -> ImageOverlaps:
    overlaps = image.overlaps
    assert overlaps is not None, "shapes have overlaps"
    rows, columns = np.nonzero(overlaps.values >= MIN_IOU)
    values = overlaps.values[rows, columns].tolist()
    return ImageOverlaps(
        list(zip(rows.tolist(), columns.tolist(), values, strict=True)),
        overlaps.areas.tolist(),
        image.areas.tolist(),
        image.ignored.tolist(),
        overlaps.crowd.tolist(),
    )


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
