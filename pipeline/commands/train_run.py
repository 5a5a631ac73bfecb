"""The steps of `train`: data, backbone, method, training, files, and the closing lines."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec

from models import yaml_reader
from models.datasets.parts import write_parts
from models.errors import TrainingError
from models.files import cache_folder
from models.struct_errors import explain
from models.training import backbones, data, load, trainer
from models.training.backbone import Backbone, describe
from models.training.method import Job, Method
from models.training.method import Progress as Step
from models.training.packages import package
from models.training.quantities import duration, megabytes
from models.training.record import Record, read_record, write_record
from models.training.report.report import write_report
from models.training.trainer import Finished
from pipeline.commands.label_maps import read_maps
from pipeline.commands.train_compare import compare_starts
from pipeline.commands.train_next import next_steps
from pipeline.commands.train_progress import TrainProgress
from pipeline.graph.placement import usable_cores

RUNS = Path("runs/train")
"""Folder of the results, where --out does not name another."""

RECORD = "train.json"
REPORT = "report.html"


def list_layers(name: str) -> int:
    """Print where a backbone can be cut."""
    print(describe(backbones.load(name)))
    return 0


def train(args: argparse.Namespace) -> int:
    """Train as the arguments say, and return the exit status."""
    method = load(args.method)
    settings = settings_of(args, method)
    name = args.name or model_name(args.method, args.data[0])
    folder = args.out or RUNS / name
    _check_folder(folder, name, args.compare)
    if args.compare:
        package("torch")  # makes the random weights, for methods without it too
    backbone = backbones.load(args.backbone)
    progress = TrainProgress(args.quiet)
    prepared = prepare(args, method, folder, progress)
    folder.mkdir(parents=True, exist_ok=True)
    write_parts(folder / "parts.json", prepared.parts)
    record = _record(args, name, settings, backbone, prepared)
    before = _finished_before(folder, name, record)
    if not args.quiet:
        _print_data(prepared, folder)
    finished = _fit(args, method, backbone, prepared, record, folder, settings, progress)
    if before is not None:
        record.train_s, record.cpu_s = before.train_s, before.cpu_s
    write_report(finished, folder / REPORT)
    write_record(folder / RECORD, record)  # last: a run that was killed before is not finished
    if args.compare:
        job = finished.method.job
        compare_starts(
            method, job, prepared, record, args.quiet, lambda: write_record(folder / RECORD, record)
        )
        write_report(finished, folder / REPORT)
    _print_result(finished, args)
    return 0


def settings_of(args: argparse.Namespace, method: type[Method]) -> Any:
    """Return the settings of the method that the arguments ask for.

    Raises:
        TrainingError: a setting is unknown or wrong.
    """
    raw: dict[str, Any] = {}
    for key in ("epochs", "size"):
        if getattr(args, key) is not None:
            raw[key] = getattr(args, key)
    if args.layers is not None:
        raw["layers"] = yaml_reader.parse(args.layers)
    for assignment in args.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise TrainingError(f"--set {key}: expected KEY=VALUE, as in --set views=4")
        table = raw
        *tables, last = key.split(".")
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = yaml_reader.parse(text)
    try:
        return msgspec.convert(raw, method.Settings)
    except msgspec.ValidationError as error:
        raise TrainingError(f"{args.method}: {explain(error, method.Settings)}") from None


def prepare(
    args: argparse.Namespace, method: type[Method], folder: Path, progress: TrainProgress
) -> data.Prepared:
    """Read, check and split the data, and make the examples of the method."""
    request = data.Request(
        paths=args.data,
        format=args.format,
        parts=args.parts,
        val=args.val,
        test=args.test,
        seed=args.seed,
        group=args.group,
        fold=args.fold,
        mapping=read_maps(args.map) or None,
        per_class=args.per_class,
        fraction=args.fraction,
    )
    found = data.read(
        request, method.needs, lambda done, total: progress.report(Step("checking", done, total))
    )
    if not args.quiet:
        for line in found.lines:
            print(line)
    return data.prepare(found.data, found.parts, method.needs, request, folder)


def device_of(args: argparse.Namespace, method: type[Method]) -> str:
    """Return where to train: cuda, if PyTorch finds a GPU and it is not refused."""
    if not method.on_gpu or args.device == "cpu":
        return "cpu"
    cuda = bool(package("torch").cuda.is_available())
    if args.device == "cuda" and not cuda:
        raise TrainingError("--device cuda: PyTorch finds no GPU; install a build with CUDA")
    return "cuda" if cuda else "cpu"


def _fit(
    args: argparse.Namespace,
    method: type[Method],
    backbone: Backbone,
    prepared: data.Prepared,
    record: Record,
    folder: Path,
    settings: Any,
    progress: TrainProgress,
) -> Finished:
    record.device = device_of(args, method)
    job = Job(
        backbone=backbone,
        labels=prepared.labels,
        train=prepared.train,
        val=prepared.val,
        settings=settings,
        seed=args.seed,
        folder=folder,
        cache=cache_folder() / "features",
        device=record.device,  # type: ignore[arg-type]
        threads=record.threads,
        report=progress.report,
    )
    made = method(job)
    if not args.quiet:
        for line in made.advice():
            print(line)
    progress.estimate(made.estimate_s())
    with progress:
        finished = trainer.run(
            made,
            prepared,
            record,
            {"licence": backbone.licence, "origin": f"{backbone.name}: {backbone.origin}"[:900]},
        )
    finished.record.next_steps = next_steps(args, finished)
    return finished


def _record(
    args: argparse.Namespace,
    name: str,
    settings: Any,
    backbone: Backbone,
    prepared: data.Prepared,
) -> Record:
    about = {"name": backbone.name, "origin": backbone.origin, "licence": backbone.licence}
    return Record(
        name=name,
        method=args.method,
        command=f"python run.py {shlex.join(args.words)}",
        versions=trainer.versions(),
        backbone={**about, "seen": backbone.seen, "sha256": backbone.sha256},
        settings=msgspec.to_builtins(settings),
        seed=args.seed,
        threads=args.threads or usable_cores(),
        device="cpu",
        labels=prepared.labels,
        counts=prepared.counts,
        notes=list(prepared.notes),
    )


def is_finished(folder: Path, name: str) -> bool:
    """Return whether a training of this name has ended in a folder."""
    return (folder / f"{name}.yaml").exists() and (folder / RECORD).exists()


def _check_folder(folder: Path, name: str, compare: bool) -> None:
    """Refuse a folder with a finished model, which a second run would replace.

    A comparison may be added to it, see `_finished_before`.

    Raises:
        TrainingError: there is one.
    """
    if is_finished(folder, name) and not compare:
        raise TrainingError(_occupied(folder, name))


def _finished_before(folder: Path, name: str, record: Record) -> Record | None:
    """Return the record of the same training, if it has ended before in this folder.

    It is then made again from its checkpoint, in no time, and only what the comparison lacks is
    trained.

    Raises:
        TrainingError: a finished model is there, and it is of another training.
    """
    if not is_finished(folder, name):
        return None
    try:
        before = read_record(folder / RECORD)
    except (OSError, msgspec.DecodeError):
        raise TrainingError(_occupied(folder, name)) from None
    if _facts(before) != _facts(record):
        raise TrainingError(_occupied(folder, name))
    return before


def _facts(record: Record) -> tuple[object, ...]:
    """Return what decides which model a training makes."""
    settings = msgspec.json.encode(record.settings)
    backbone = record.backbone["sha256"]
    return record.method, settings, backbone, record.seed, record.labels, record.counts


def _occupied(folder: Path, name: str) -> str:
    return (
        f"{folder}: a finished model is there (found {name}.yaml); choose another folder with "
        "--out, or remove it"
    )


def model_name(method: str, data: str) -> str:
    """Return the name of a model, where the arguments do not name it."""
    text = f"{method.partition(':')[0]}-{Path(data).resolve().name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "model"


def _print_data(prepared: data.Prepared, folder: Path) -> None:
    for part, own in (("train", prepared.train), ("val", prepared.val), ("test", prepared.test)):
        counts = prepared.counts[part]
        shown = ", ".join(f"{label} {count}" for label, count in list(counts.items())[:12])
        more = len(counts) - 12
        print(f"{part:6}{len(own):5} images: {shown}{f', and {more} more' if more > 0 else ''}")
    for note in prepared.notes:
        print(note)


def _print_result(finished: Finished, args: argparse.Namespace) -> None:
    record = finished.record
    for part, figures in (("val", record.validation), ("test", record.test)):
        print(f"{part:6}" + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(
        f"model {finished.model}, {megabytes(record.size_bytes)}, {record.image_ms:.1f} ms CPU "
        f"per image, trained in {duration(record.train_s)}; equal to the network within "
        f"{record.difference:.0e}"
    )
    print(f"report {finished.model.parent / REPORT}")
    print(f"run it: {record.next_steps['Run it']}")
