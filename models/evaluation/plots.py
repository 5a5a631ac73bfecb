"""Figures as PNG pictures: precision over recall, confusions, HOTA over alpha, lines and bars.

Only matplotlib's objects are used, not pyplot: it has global state, and may open windows.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import optional_module
from models.evaluation.detection import PrecisionCurves
from models.evaluation.tracking import TrackingFigures
from models.evaluation.tracking_counts import ALPHAS
from models.text import shown

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours that people with a colour vision deficiency distinguish (Okabe & Ito, 2008)."""
STYLES = ("-", "--")
GREY = "#c8c8c8"
MAX_CURVES = 10
"""Number of classes that have a colour and a line in the legend."""
MAX_COUNTS = 20
"""Number of rows up to which the cells of a confusion matrix show their counts."""
MAX_LABELS = 100
"""Number of rows up to which a confusion matrix shows labels."""
MAX_CHARS = 24
"""Length limit of a label."""
MAX_POINTS = 40
"""Number of points of a line up to which they are marked."""
MAX_BARS = 60
"""Number of bars; of more, the lowest are drawn."""
LOG_RATIO = 30
"""Ratio of the largest to the smallest value from which on lines have a logarithmic axis."""
DPI = 110


def precision_recall_png(curves: PrecisionCurves, labels: Sequence[str]) -> bytes:
    """Draw precision over recall at IoU .50: the mean, and each class.

    Of more than ten classes, the ten with the lowest average precision have a colour, lowest first.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    figure, axes = _square("Precision over recall at IoU 0.50", "recall", "precision")
    areas = curves.precision.mean(axis=1)
    order = np.argsort(areas, kind="stable")
    coloured = order[:MAX_CURVES] if len(order) > MAX_CURVES else np.sort(order)
    grey = order[MAX_CURVES:]
    lines, names = [], []
    if curves.mean is not None:
        (line,) = axes.plot(curves.recall, curves.mean, color="black", linewidth=2.5, zorder=3)
        lines.append(line)
        names.append(f"mean of {len(areas)} classes  {curves.mean.mean():.3f}")
    for place, row in enumerate(coloured):
        colour, style = _look(place)
        (line,) = axes.plot(curves.recall, curves.precision[row], color=colour, linestyle=style)
        lines.append(line)
        names.append(f"{_label(labels[curves.classes[row]])}  {areas[row]:.3f}")
    for row in grey:
        (line,) = axes.plot(curves.recall, curves.precision[row], color=GREY, linewidth=0.7)
    if len(grey):
        lines.append(line)
        names.append(f"{len(grey)} classes with a higher AP50")
    _legend(axes, lines, names, "AP50")
    return _png(figure)


def confusion_png(counts: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw a confusion matrix; a colour is the part of a row, so that rare classes show too.

    Args:
        counts: (C, C), or (C + 1, C + 1) with background last; a row per true class and a column
            per found class.
        labels: (C,) names of the classes.

    Raises:
        EvaluationError: the shape is wrong, or matplotlib is not installed.
    """
    names = [_label(label) for label in labels]
    if counts.shape == (len(labels) + 1,) * 2:
        names.append("(background)")
    elif counts.shape != (len(labels),) * 2:
        raise EvaluationError(
            f"confusions: not a row and a column per label (found {counts.shape} for "
            f"{len(labels)} labels); give the labels of these counts"
        )
    size = len(names)
    side = min(4 + 0.42 * size, 16)
    figure = optional_module("matplotlib.figure").Figure(
        figsize=(side + 1, side), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.7, label="part of the row")
    axes.set(title="Confusions of classes", xlabel="found class", ylabel="true class")
    ticks = range(size) if size <= MAX_LABELS else ()
    font = float(np.clip(650 / max(size, 1), 5, 10))
    axes.set_xticks(ticks, names[: len(ticks)], rotation=90, fontsize=font)
    axes.set_yticks(ticks, names[: len(ticks)], fontsize=font)
    if size <= MAX_COUNTS:
        for row, column in np.argwhere(counts > 0):
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if parts[row, column] > 0.5 else "black",
            )
    return _png(figure)


def hota_png(figures: TrackingFigures) -> bytes:
    """Draw HOTA, DetA, AssA and LocA over the IoU threshold alpha.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    figure, axes = _square("Tracking over the IoU threshold", "alpha (IoU)", "accuracy")
    curves = (
        ("HOTA", figures.hota_curve, figures.hota),
        ("DetA", figures.det_a_curve, figures.det_a),
        ("AssA", figures.ass_a_curve, figures.ass_a),
        ("LocA", figures.loc_a_curve, figures.loc_a),
    )
    lines, names = [], []
    for place, (name, curve, mean) in enumerate(curves):
        if mean is None:  # undefined
            continue
        colour = "black" if name == "HOTA" else COLOURS[place - 1]
        width = 2.5 if name == "HOTA" else 1.5
        (line,) = axes.plot(ALPHAS, curve, color=colour, linewidth=width, marker=".", markersize=5)
        lines.append(line)
        names.append(f"{name}  {mean:.3f}")
    _legend(axes, lines, names, "mean over alpha")
    return _png(figure)


def lines_png(
    title: str,
    axis_names: tuple[str, str],
    across: Sequence[float],
    lines: Mapping[str, Sequence[float | None]],
    mark: float | None = None,
    unit: bool = False,
) -> bytes:
    """Draw lines over the same values.

    Args:
        title: title of the picture.
        axis_names: what is drawn across, and up.
        across: (N,) values.
        lines: name -> (N,) values; None: there is none, and the line goes on to the next one.
        mark: value across that is marked as the best; None: none is.
        unit: whether values are from 0 to 1, so that this is the axis; otherwise it is fitted, and
            logarithmic where small lines would lie on the axis.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    figure, axes = _square(title, *axis_names)
    drawn, names = [], []
    for place, (name, up) in enumerate(lines.items()):
        points = [(x, y) for x, y in zip(across, up, strict=True) if y is not None]
        colour, style = _look(place)
        marker = "o" if len(points) <= MAX_POINTS else None
        (line,) = axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=4,
        )
        drawn.append(line)
        names.append(_label(name))
    if across:
        low, high = min(across), max(across)
        margin = (high - low) * 0.02 or 0.5
        axes.set_xlim(low - margin, high + margin)
    values = [value for up in lines.values() for value in up if value is not None]
    if not unit:
        _fit(axes, values)
    if mark is not None:
        axes.axvline(mark, color="grey", linestyle=":", zorder=0)
        axes.annotate(
            "kept", (mark, 1), xycoords=("data", "axes fraction"), xytext=(3, -11),
            textcoords="offset points", color="grey", fontsize=9,
        )  # fmt: skip
    _legend(axes, drawn, names, "")
    return _png(figure)


def bars_png(title: str, axis_name: str, values: Mapping[str, float | None]) -> bytes:
    """Draw a bar from 0 to 1 for each name, such as the IoU of each class.

    Args:
        title: title of the picture.
        axis_name: what a bar shows.
        values: name -> its value; None: undefined.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    kept = list(values.items())
    if len(kept) > MAX_BARS:
        kept = sorted(kept, key=lambda item: 2 if item[1] is None else item[1])[:MAX_BARS]
        title = f"{title} (the {MAX_BARS} lowest of {len(values)})"
    figure = optional_module("matplotlib.figure").Figure(
        figsize=(8.5, 1.4 + 0.3 * len(kept)), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=axis_name, xlim=(0, 1.08), ylim=(len(kept) - 0.4, -0.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.barh(range(len(kept)), [value or 0.0 for _, value in kept], color=COLOURS[0], height=0.7)
    axes.set_yticks(range(len(kept)), [_label(name) for name, _ in kept])
    for row, (_, value) in enumerate(kept):
        text = "undefined" if value is None else f"{value:.3f}"
        axes.text((value or 0.0) + 0.01, row, text, va="center", fontsize=9)
    return _png(figure)


def _fit(axes: Any, values: Sequence[float]) -> None:
    """Fit the axis that goes up to the values."""
    if not values:
        return
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
    elif low >= 0:
        axes.set_ylim(0, high * 1.05 or 1)
    else:
        axes.autoscale(axis="y")


def _square(title: str, across: str, up: str) -> tuple[Any, Any]:
    """Make a picture with axes from 0 to 1."""
    figure = optional_module("matplotlib.figure").Figure(
        figsize=(8.5, 5.5), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _look(place: int) -> tuple[str, str]:
    """Return the colour and the line style of a curve; those of `MAX_CURVES` differ."""
    return COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]


def _legend(axes: Any, lines: Sequence[Any], names: Sequence[str], title: str) -> None:
    """Add a legend at the right of the axes."""
    if not lines:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center", color="grey")
        return
    legend = axes.legend(
        lines,
        # matplotlib leaves out names that begin with _, so that the names follow below.
        ["-"] * len(lines),
        title=title,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _label(label: str) -> str:
    """Make a label from a file fit for a picture; `$` would begin a formula."""
    return shown(label, MAX_CHARS).replace("$", r"\$")


def _png(figure: Any) -> bytes:
    """Draw a picture."""
    canvas = optional_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A label may have characters that matplotlib's font lacks; it draws boxes for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        canvas.print_png(file)
    return file.getvalue()
