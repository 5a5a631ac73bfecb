"""The sections of a report that follow from the record of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from models.datasets.base import LabelledImage
from models.training.quantities import duration, megabytes
from models.training.record import Record
from models.training.report.page import (
    Cell,
    Section,
    bar,
    charts,
    code,
    items,
    paragraph,
    table,
    tiles,
)
from models.training.report.pictures import PARTS

MAX_ROWS = 100
"""Rows of the table of classes."""
UNEVEN = 3.0
"""Ratio of the most frequent to the rarest class from which on the report points at it."""
DATA_PARTS = {"train": "training", **PARTS}


def lead(record: Record, about: str) -> str:
    """Return the top of the page: what the model is, and its main figures.

    Args:
        record: the record.
        about: what the method is.
    """
    backbone = record.backbone
    values = [(f"{value:.3f}", f"{name}, test images") for name, value in _first(record.test)]
    values += [
        (f"{record.image_ms:.1f} ms", "CPU time for an image, one thread"),
        (megabytes(record.size_bytes), "size of the model"),
        (duration(record.train_s), "training"),
    ]
    return (
        paragraph(f"Method {record.method}: {about}. Backbone {backbone['name']}, which has seen "
                  f"{backbone['seen']}; seed {record.seed}.", soft=True)
        + tiles(values)
        + paragraph("Validation images chose the weights and thresholds; test images were used "
                    "only for the figures.", soft=True)
    )  # fmt: skip


def data(record: Record, images: Mapping[str, Sequence[LabelledImage]]) -> Section:
    """Return the summary of the data.

    Args:
        record: the record.
        images: part -> its images.
    """
    sizes = [
        (DATA_PARTS[part], len(own), sum(record.counts[part].values()), *_sizes(own))
        for part, own in images.items()
    ]
    head = ("part", "images", "examples", "smallest px", "median px", "largest px")
    return Section("Data", table(head, sizes) + _classes(record))


def notes(record: Record) -> Section:
    """Return what was found and chosen on the way."""
    return Section("Notes", items(record.notes))


def _classes(record: Record) -> str:
    counts = record.counts
    labels = [label for label in record.labels if label in counts["train"]]
    most = max((counts["train"][label] for label in labels), default=0)
    shown = labels
    if len(labels) > MAX_ROWS:
        shown = sorted(labels, key=lambda label: counts["train"][label])[:MAX_ROWS]
    rows = [
        (label, *(counts[part].get(label, 0) for part in DATA_PARTS),
         bar(counts["train"][label] / max(1, most)))
        for label in shown
    ]  # fmt: skip
    text = f"<h3>Examples of each class</h3>{table(('class', *DATA_PARTS.values(), ''), rows)}"
    if len(labels) > len(shown):
        text += paragraph(f"These are the {len(shown)} rarest of {len(labels)} classes.")
    return text + "".join(paragraph(line) for line in _imbalance(record, labels))


def _imbalance(record: Record, labels: Sequence[str]) -> Iterator[str]:
    """Yield what is uneven among the classes."""
    counts = record.counts["train"]
    present = [label for label in labels if counts[label]]
    if len(present) > 1:
        rare, often = min(present, key=counts.__getitem__), max(present, key=counts.__getitem__)
        ratio = counts[often] / counts[rare]
        if ratio >= UNEVEN:
            yield (
                f"The classes are uneven: {often} has {ratio:.1f} times as many training examples "
                f"as {rare}. Compare figures that are means over classes, and add examples of the "
                "rare ones."
            )
        elif ratio > 1:
            yield f"The most frequent class has {ratio:.1f} times the examples of the rarest."
    for part, name in DATA_PARTS.items():
        empty = [label for label in labels if not record.counts[part].get(label)]
        if empty:
            more = f", and {len(empty) - 20} more" if len(empty) > 20 else ""
            why = "it is not learned" if part == "train" else "the figures leave it out"
            yield f"No {name} image has: {', '.join(empty[:20])}{more}; {why}."


def training(record: Record, pictures: Sequence[tuple[str, bytes]]) -> Section:
    """Return the course of the training."""
    text = ""
    if record.curves and record.best_epoch >= 0:
        epochs = len(record.curves)
        text = paragraph(
            f"{epochs} epochs; the weights after epoch {record.best_epoch + 1} are kept, because "
            "the first figure on the validation images was the best there."
        )
    return Section("Training", text + charts(pictures))


def results(record: Record, pictures: Sequence[tuple[str, bytes]]) -> Section:
    """Return the figures, with the pictures of the test images."""
    names = dict.fromkeys([*record.validation, *record.test])
    rows = [(name, record.validation.get(name), record.test.get(name)) for name in names]
    text = table(("figure", "validation", "test"), rows)
    if record.thresholds:
        shown = ", ".join(f"{name} {value:g}" for name, value in record.thresholds.items())
        text += paragraph(f"Thresholds chosen on the validation images: {shown}.")
    if pictures:
        text += f"<h3>On the test images</h3>{charts(pictures)}"
    return Section("Results", text)


def comparison(record: Record, pictures: Sequence[tuple[str, bytes]]) -> Section:
    """Return the table of transfer against training from random weights."""
    if not record.comparison:
        return Section("Transfer against scratch", "")
    figures = list(record.test)
    rows = [
        (
            trial.start,
            f"{trial.part:.0%}",
            trial.images,
            *(trial.test.get(name) for name in figures),
            duration(trial.train_s),
        )
        for trial in record.comparison
    ]
    text = (
        "The method was trained again with the same settings and seed, from the weights of the "
        "backbone and from random ones (LSUV: each layer scaled to unit variance), with a part of "
        "the training images, at least one of each class. All figures are of the same test images."
    )
    head = ("start", "part", "images", *figures, "time")
    return Section("Transfer against scratch", paragraph(text) + table(head, rows)
                   + charts(pictures))  # fmt: skip


def model(record: Record) -> Section:
    """Return what the model is made of, and what it costs."""
    backbone = record.backbone
    rows: list[tuple[object, ...]] = [
        ("speed", f"{record.image_ms:.1f} ms CPU time for an image, with one thread"),
        ("size", megabytes(record.size_bytes)),
        ("parameters", f"{record.parameters:,}"),
        ("labels", f"{len(record.labels)}"),
        ("training", f"{duration(record.train_s)} ({duration(record.cpu_s)} of CPU time) on "
                     f"{record.device}, with {record.threads} thread{'s' * (record.threads > 1)}"),
        ("exported model", f"gives the outputs of the network within {record.difference:.0e}"
                           " of the largest value, on validation images"),
        ("backbone", backbone["name"]),
        ("its weights", backbone["origin"]),
        ("their licence", backbone["licence"]),
        ("they have seen", backbone["seen"]),
        ("their sha256", backbone["sha256"]),
    ]  # fmt: skip
    return Section("Model", table(("", ""), rows))


def steps(record: Record) -> Section:
    """Return what can be done with the model."""
    text = "".join(f"<h3>{name}</h3>{code(command)}" for name, command in record.next_steps.items())
    return Section("Use it", text)


def again(record: Record) -> Section:
    """Return all that is needed to make the model again."""
    settings = table(("setting", "value"), list(_flat(record.settings)))
    versions = table(("package", "version"), list(record.versions.items()))
    return Section(
        "Make it again",
        code(record.command) + f"<h3>Settings</h3>{settings}<h3>Versions</h3>{versions}",
    )


def _first(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    return list(figures.items())[:2]


def _sizes(images: Sequence[LabelledImage]) -> tuple[Cell | str, ...]:
    """Return the smallest, median and largest image, by area."""
    ordered = sorted((image.size for image in images), key=lambda size: size[0] * size[1])
    if not ordered:
        return "-", "-", "-"
    picked = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
    return tuple(f"{width} x {height}" for width, height in picked)


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings as (key, value), keys of tables joined by dots."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, float):
            yield f"{before}{key}", f"{np.float32(value):.4g}"
        else:
            yield f"{before}{key}", msgspec.json.encode(value).decode().strip('"')
