"""Progress of a download: a bar on a terminal, else a line for every tenth."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from models.download import Progress

STEP = 10
"""Percent between two lines."""
STEP_BYTES = 10_000_000
"""Bytes between two lines, where the size of the file is unknown."""


@contextlib.contextmanager
def show_progress(name: str, file: TextIO | None = None) -> Iterator[Progress]:
    """Show the progress of a download while the context is open.

    Args:
        name: name of the model.
        file: file to write to; None: stderr.
    """
    console = Console(file=file or sys.stderr)
    if not console.is_terminal:
        yield _Lines(name, file or sys.stderr)
        return
    from rich import progress as bars  # here, because its import takes longer than most commands

    with bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Writes a line for every tenth of a download."""

    def __init__(self, name: str, file: TextIO) -> None:
        self._name = name
        self._file = file
        self._shown = 0
        """Number of steps that have a line."""

    def __call__(self, done: int, total: int | None) -> None:
        """Take the number of bytes there are, and the number expected, if known."""
        step = done * 100 // (total * STEP) if total else done // STEP_BYTES
        if step == self._shown:
            return
        if step > self._shown:  # else the download began again
            part = f"{step * STEP} % of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
            print(f"{self._name}: {part}", file=self._file, flush=True)
        self._shown = step
