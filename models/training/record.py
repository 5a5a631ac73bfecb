"""The record of a training, from which its report is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One training of the comparison of transfer and training from scratch."""

    start: str
    """What the backbone starts from, and which of its layers learn."""
    part: float
    """Part of the training images that is used."""
    images: int
    """Number of training images."""
    validation: dict[str, float]
    test: dict[str, float]
    train_s: float
    cpu_s: float


class Record(msgspec.Struct, kw_only=True):
    """Facts of a training: the content of `train.json`, and of the report."""

    name: str
    method: str
    command: str
    versions: dict[str, str]
    backbone: dict[str, str]
    settings: dict[str, Any]
    seed: int
    threads: int
    device: str
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    notes: list[str]
    curves: list[dict[str, float]] = []
    best_epoch: int = -1
    charts: dict[str, tuple[list[float], dict[str, list[float]]]] = {}
    validation: dict[str, float] = {}
    """Figures on the validation images, with which the weights and thresholds were chosen."""
    test: dict[str, float] = {}
    """Figures on the test images, which were used for nothing else."""
    thresholds: dict[str, float] = {}
    difference: float = 0.0
    """Largest difference of the exported model from the network."""
    train_s: float = 0.0
    """Time of features and training together, without that of earlier runs that were killed."""
    cpu_s: float = 0.0
    image_ms: float = 0.0
    """CPU time of the exported model for one image, with one thread."""
    size_bytes: int = 0
    parameters: int = 0
    comparison: list[Trial] = []
    """Trainings of `--compare`; empty: there were none."""
    next_steps: dict[str, str] = {}
    """What to do with the result -> the command."""


def write_record(path: Path, record: Record) -> None:
    """Write the record as JSON."""
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    part.replace(path)


def read_record(path: Path) -> Record:
    """Read a record."""
    return msgspec.json.decode(path.read_bytes(), type=Record)
