"""Progress of a training: a bar with the time left in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models.training.method import Progress as Step
from models.training.quantities import duration

LINE_S = 15.0
"""Time between two lines, where there is no terminal."""
REFRESH_S = 0.2


class TrainProgress:
    """Shows how far a training is.

    Args:
        quiet: whether nothing is shown.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = Progress(
            TextColumn("{task.description:9}"),
            BarColumn(24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._tasks: dict[str, int] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._shown = 0.0

    def __enter__(self) -> TrainProgress:
        if self._terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._bar.refresh()
            self._bar.stop()

    def estimate(self, seconds: float) -> None:
        """Print how long the training will take at most."""
        if not self._quiet:
            print(f"takes about {duration(seconds)}", flush=True)

    def report(self, step: Step) -> None:
        """Show a step, a few times a second at most."""
        now = time.monotonic()
        first = step.phase not in self._started
        if first:
            self._started[step.phase] = (now, step.done)
        last = step.done >= step.total
        pause = REFRESH_S if self._terminal else LINE_S
        if self._quiet or not (first or last or now > self._shown + pause):
            return
        self._shown = now
        if self._terminal:
            if first:
                self._tasks[step.phase] = self._bar.add_task(
                    step.phase, total=step.total, text=step.text
                )
            self._bar.update(
                self._tasks[step.phase],  # type: ignore[arg-type]
                completed=step.done,
                text=step.text,
            )
            self._bar.refresh()
            return
        began, done = self._started[step.phase]
        rate = (now - began) / max(1, step.done - done)
        left = "" if first or last else f", {duration(rate * (step.total - step.done))} left"
        print(f"{step.phase}: {step.done} of {step.total}{left}  {step.text}".rstrip(), flush=True)
