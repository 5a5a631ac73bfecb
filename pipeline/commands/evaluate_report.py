"""The folder of `run.py evaluate --report`: curves as PNG, and a page of the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import DataSet
from models.evaluation.matching import confusions, match_images
from models.evaluation.plots import confusion_png, hota_png, precision_recall_png
from models.evaluation.report import write_worst_images
from pipeline.commands.evaluation import Measured
from pipeline.errors import ConfigError
from stages.capture.image_folder import read_image


def write_report(folder: Path, data: DataSet, measured: Measured) -> None:
    """Write the pictures of an evaluation; files of these names are replaced.

    Args:
        folder: folder to write to; it is made where it is missing.
        data: the data set.
        measured: the evaluation.

    Raises:
        ConfigError: the folder cannot be written.
        EvaluationError: matplotlib is not installed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tracking = measured.evaluation.tracking
        if tracking is not None:
            (folder / "hota.png").write_bytes(hota_png(tracking))
        elif measured.confusions is not None:
            _write_confusions(folder, measured.confusions, measured.evaluation.labels)
        else:
            _write_of_images(folder, data, measured)
    except OSError as error:
        raise ConfigError(f"--report {folder}: cannot be written: {error.strerror}") from None


def _write_of_images(folder: Path, data: DataSet, measured: Measured) -> None:
    evaluation, boxes, curves = measured.evaluation, measured.boxes, measured.curves
    assert curves is not None, "images have curves"
    assert evaluation.confidence is not None, "images have figures at a confidence"
    labels, confidence = evaluation.labels, evaluation.confidence.confidence
    (folder / "precision_recall.png").write_bytes(precision_recall_png(curves, labels))
    for kind, own in measured.shape_curves.items():
        (folder / f"precision_recall_{kind}.png").write_bytes(precision_recall_png(own, labels))
    matches = match_images(boxes, labels, confidence)
    _write_confusions(folder, confusions(boxes, matches, len(labels)), labels)
    paths = {image.name: image.path for image in data.images}

    def load(name: str) -> NDArray[np.uint8]:
        pixels = read_image(paths[name])
        assert pixels is not None, "an image that was processed can be decoded"
        return pixels

    model = evaluation.model.name if evaluation.model is not None else "model"
    title = f"{model} on {data.root.name}, at confidence {confidence:g}"
    write_worst_images(folder, title, boxes, matches, labels, load)


def _write_confusions(folder: Path, counts: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Write which class is taken for which; a row of false boxes, if any, follows the classes."""
    square = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    square[: len(counts)] = counts
    seen = np.flatnonzero(square.sum(axis=0) + square.sum(axis=1))
    shown = np.union1d(seen, [len(labels)])  # the background stays the last
    names = [labels[i] for i in shown if i < len(labels)]
    (folder / "confusion.png").write_bytes(confusion_png(square[np.ix_(shown, shown)], names))
