"""`train --method all`: every method that the data can serve, and their figures in one table."""

from __future__ import annotations

import argparse
import copy

from rich.console import Console
from rich.table import Table

from models.errors import DataError, TrainingError
from models.training import METHODS, load
from models.training.quantities import duration, megabytes
from models.training.record import Record, read_record
from pipeline.commands.terminal import print_error
from pipeline.commands.train_run import RECORD, RUNS, is_finished, model_name, train

ALL = "all"
TABLE = "table.md"
HEADER = ("method", "figures on the test images", "training, CPU", "CPU per image", "size")


def train_all(args: argparse.Namespace) -> int:
    """Train every method that the data can serve, and return the exit status.

    A method that is finished in the folder is not trained again, so that an interrupted command
    goes on where it was.
    """
    folder = args.out or RUNS / model_name(ALL, args.data[0])
    records, left_out = [], []
    for name in METHODS:
        own = copy.copy(args)
        own.method, own.name, own.out = name, name, folder / name
        try:
            own.set = _settings(args, name)
            if "epochs" not in load(name).Settings.__struct_fields__:
                own.epochs = None
            if not is_finished(own.out, name):
                print(f"--- {name}: {METHODS[name].help}", flush=True)
                train(own)
            records.append(read_record(own.out / RECORD))
        except (DataError, TrainingError) as error:
            left_out.append(f"{name}: {error}")
            print_error(left_out[-1])
    if not records:
        raise TrainingError(f"{args.data[0]}: no method can learn from it; see above")
    _print(records)
    for line in left_out:
        print(f"left out: {line}")
    (folder / TABLE).write_text(_markdown(records), "utf-8")
    print(f"table {folder / TABLE}")
    return 0


def _settings(args: argparse.Namespace, name: str) -> list[str]:
    """Return the settings of one method: those that it has, and those that begin with its name."""
    known = set(load(name).Settings.__struct_fields__)
    found = []
    for assignment in args.set:
        key, _, _ = assignment.partition("=")
        first, dot, _ = key.partition(".")
        if first in METHODS and dot:
            if first == name:
                found.append(assignment.removeprefix(f"{name}."))
        elif first in known:
            found.append(assignment)
    return found


def _cells(record: Record) -> tuple[str, ...]:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in list(record.test.items())[:3])
    return (
        record.method,
        figures,
        duration(record.cpu_s),
        f"{record.image_ms:.0f} ms" if record.image_ms >= 10 else f"{record.image_ms:.1f} ms",
        megabytes(record.size_bytes),
    )


def _print(records: list[Record]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(HEADER):
        table.add_column(name, justify="left" if number < 2 else "right")
    for record in records:
        table.add_row(*_cells(record))
    Console().print(table)


def _markdown(records: list[Record]) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *map(_cells, records)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
