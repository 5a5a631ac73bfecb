"""Transfer against training from scratch: a method again from random weights, and with less data.

The starts are the weights of the backbone; random ones, with the same layers frozen, which shows
what the backbone has seen; and, where a method can train all layers, random ones that all learn,
which is training from scratch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.datasets.base import LabelledImage
from models.training import backbones
from models.training.data import Prepared
from models.training.method import Job, Method
from models.training.record import Record, Trial

PARTS = (0.1, 0.3, 1.0)
"""Parts of the training images."""
FOLDER = "compare"
RESULT = "trial.json"


class Planned(NamedTuple):
    """A training that the comparison needs."""

    start: str
    part: float
    job: Job
    key: str
    """Text that differs where its result would."""


class Saved(msgspec.Struct, frozen=True):
    """The file of a finished trial."""

    key: str
    trial: Trial


def plan(method: type[Method], job: Job, folder_name: str = FOLDER) -> Iterator[Planned]:
    """Yield the trainings of a comparison, without the one that the job itself is.

    Args:
        method: the method.
        job: the job that is compared.
        folder_name: folder of the trainings, in that of the job.
    """
    blank = backbones.random(job.backbone, job.seed)
    starts = [
        ("transfer", name_of(job), job.backbone, job.settings),
        ("random", f"random, {_frozen(method)}", blank, job.settings),
    ]
    scratch = method.from_scratch(job.settings)
    if scratch is not None:
        starts.append(("scratch", "random, all layers learn", blank, scratch))
    for short, start, backbone, settings in starts:
        for part in PARTS:
            if short == "transfer" and part == 1.0:
                continue
            own = job._replace(
                backbone=backbone,
                settings=settings,
                train=part_of(job.train, part, job.seed),
                folder=job.folder / folder_name / f"{short}-{part:.0%}".replace("%", ""),
            )
            yield Planned(start, part, own, _key(method, own))


def name_of(job: Job) -> str:
    """Return the name of the start from the weights of the backbone."""
    return f"{job.backbone.name}, has seen {job.backbone.seen}"


def trial_of(job: Job, record: Record) -> Trial:
    """Return the finished training itself as a row of the comparison."""
    return Trial(
        start=name_of(job),
        part=1.0,
        images=len(job.train),
        validation=record.validation,
        test=record.test,
        train_s=record.train_s,
        cpu_s=record.cpu_s,
    )


def read_trial(planned: Planned) -> Trial | None:
    """Return the result of a training that has ended before; None: it has not."""
    try:
        saved = msgspec.json.decode((planned.job.folder / RESULT).read_bytes(), type=Saved)
    except (OSError, msgspec.DecodeError):
        return None
    return saved.trial if saved.key == planned.key else None


def run(method: Method, planned: Planned, prepared: Prepared) -> Trial:
    """Train, measure, and write the result; continues where an interrupted run ended.

    Args:
        method: the method, made for the job of the plan.
        planned: the training.
        prepared: the examples, of which the validation and test images are used.

    Raises:
        TrainingError: it cannot be trained.
    """
    folder = planned.job.folder
    folder.mkdir(parents=True, exist_ok=True)
    start, cpu = time.monotonic(), time.process_time()
    method.fit()
    took, used = time.monotonic() - start, time.process_time() - cpu
    trial = Trial(
        start=planned.start,
        part=planned.part,
        images=len(planned.job.train),
        validation=dict(method.measure(prepared.val, method.predict(prepared.val))),
        test=dict(method.measure(prepared.test, method.predict(prepared.test))),
        train_s=took,
        cpu_s=used,
    )
    part = folder / f"{RESULT}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(Saved(planned.key, trial))))
    part.replace(folder / RESULT)
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    return trial


def part_of(images: Sequence[LabelledImage], part: float, seed: int) -> list[LabelledImage]:
    """Return a part of the images, of each class alike and at least one of each.

    A smaller part is inside a larger one of the same seed. An image with several classes counts for
    the rarest of them.
    """
    classes = [{*image.classes, *(o.number for o in image.objects)} for image in images]
    numbers, counts = np.unique([n for own in classes for n in own], return_counts=True)
    often = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    groups: dict[int | None, list[int]] = {}
    for at in np.random.default_rng(seed).permutation(len(images)).tolist():
        rarest = min(classes[at], key=lambda n: (often[n], n), default=None)
        groups.setdefault(rarest, []).append(at)
    kept = [at for own in groups.values() for at in own[: max(1, round(part * len(own)))]]
    return [images[at] for at in sorted(kept)]


def _frozen(method: type[Method]) -> str:
    return "the same layers learn" if method.from_scratch(method.Settings()) else "frozen"


def _key(method: type[Method], job: Job) -> str:
    names = [image.name for image in (*job.train, *job.val)]
    facts: Any = (
        f"{method.__module__}:{method.__qualname__}", job.backbone.sha256, job.settings, job.labels,
        names, job.seed, job.threads, job.device,
    )  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
