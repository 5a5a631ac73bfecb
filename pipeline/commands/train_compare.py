"""`train --compare`: the trainings of a comparison, one after another, and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.training import compare
from models.training.data import Prepared
from models.training.method import Job, Method
from models.training.quantities import duration
from models.training.record import Record, Trial
from pipeline.commands.train_progress import TrainProgress


def compare_starts(
    method: type[Method],
    job: Job,
    prepared: Prepared,
    record: Record,
    quiet: bool,
    save: Callable[[], None],
) -> None:
    """Train as the comparison needs it, and add the results to the record.

    Args:
        method: the method.
        job: the job of the finished training.
        prepared: its examples.
        record: its record.
        quiet: whether only the table is printed.
        save: called after each training, when the record has one more.
    """
    planned = list(compare.plan(method, job))
    record.comparison = [compare.trial_of(job, record)]
    for number, one in enumerate(planned, 1):
        trial = compare.read_trial(one)
        if not quiet:
            print(
                f"comparison {number} of {len(planned)}: {one.start}; {one.part:.0%}, "
                f"{len(one.job.train)} images{', was finished before' if trial else ''}",
                flush=True,
            )
        if trial is None:
            progress = TrainProgress(quiet)
            made = method(one.job._replace(report=progress.report))
            progress.estimate(made.estimate_s())
            with progress:
                trial = compare.run(made, one, prepared)
        record.comparison.append(trial)
        record.comparison.sort(key=lambda t: (t.start != compare.name_of(job), t.start, t.part))
        save()
    print("\n".join(table(record.comparison)))


def table(trials: Sequence[Trial]) -> list[str]:
    """Return the lines of the table: a row for each training, figures of the test images."""
    names = list(trials[0].test)
    head = ["start", "images", *names, "time"]
    rows = [
        [
            trial.start,
            f"{trial.images} ({trial.part:.0%})",
            *(f"{trial.test.get(name, float('nan')):.3f}" for name in names),
            duration(trial.train_s),
        ]
        for trial in trials
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in (head, *rows)
    ]
