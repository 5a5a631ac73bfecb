"""The charts of a report: losses and figures over epochs, and the further curves of a method."""

from __future__ import annotations

from collections.abc import Sequence

from models.evaluation.plots import lines_png
from models.training.record import Record

Chart = tuple[str, bytes]
"""Title, and a PNG."""
LOSS = "loss "
"""Before the name of a term in the curves of a record."""
MAX_CHARTS = 12
"""Further charts of a method."""


def curves_of(record: Record) -> list[Chart]:
    """Return the losses by term, and the figures on the validation images, over epochs."""
    epochs = list(range(1, len(record.curves) + 1))
    if not epochs:
        return []
    names = list(dict.fromkeys(name for row in record.curves for name in row))
    lines = {name: [row.get(name) for row in record.curves] for name in names}
    losses = {n.removeprefix(LOSS): up for n, up in lines.items() if n.startswith(LOSS)}
    figures = {name: up for name, up in lines.items() if not name.startswith(LOSS)}
    best = record.best_epoch + 1 if record.best_epoch >= 0 else None
    found = []
    if losses:
        if len(losses) > 1:
            epoch_by_epoch = zip(*losses.values(), strict=True)
            losses["sum"] = [sum(value or 0.0 for value in terms) for terms in epoch_by_epoch]
        title = "Loss on the training images, by term"
        found.append((title, lines_png(title, ("epoch", "mean loss"), epochs, losses, best)))
    if figures:
        title = "Figures on the validation images"
        png = lines_png(title, ("epoch", "figure"), epochs, figures, best, unit=True)
        found.append((title, png))
    return found


def further_charts(record: Record) -> list[Chart]:
    """Return the further curves of the method."""
    found = []
    for title, (across, lines) in list(record.charts.items())[:MAX_CHARTS]:
        up: dict[str, Sequence[float | None]] = dict(lines)
        head, _, axis = title.partition(" over ")
        found.append((title, lines_png(title, (axis or "", head if axis else ""), across, up)))
    return found


def comparison_chart(record: Record) -> list[Chart]:
    """Return the main figure over the number of training images, for each kind of weights."""
    trials = record.comparison
    if len({trial.images for trial in trials}) < 2 or not record.test:
        return []
    figure = next(iter(record.test))
    across = sorted({trial.images for trial in trials})
    lines: dict[str, Sequence[float | None]] = {}
    for start in dict.fromkeys(trial.start for trial in trials):
        own = {t.images: t.test.get(figure) for t in trials if t.start == start}
        lines[start] = [own.get(images) for images in across]
    title = "Transfer and training from random weights"
    axes = ("training images", f"{figure} on the test images")
    return [(title, lines_png(title, axes, across, lines, unit=True))]
