"""The figures of `run.py evaluate` as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from models.evaluation.classification import ClassificationFigures
from models.evaluation.compare import Difference
from models.evaluation.detection import DetectionFigures
from models.evaluation.localization import LocalizationFigures
from models.evaluation.semantic import SemanticFigures
from pipeline.commands.evaluation import Evaluation

MAX_ROWS = 20
"""Classes in the table; the JSON file has all of them."""
OF_IMAGES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "small": "ap_small",
    "medium": "ap_medium",
    "large": "ap_large",
    "AR100": "ar_100",
}
"""Column of the table -> field of the figures."""
OF_CLIPS = {
    "HOTA": "hota",
    "DetA": "det_a",
    "AssA": "ass_a",
    "MOTA": "mota",
    "IDF1": "idf1",
    "switches": "id_switches",
    "missed": "missed",
    "false": "false",
}


NAMES = {"masks": "masks", "keypoints": "keypoints", "rotated": "rotated boxes"}
"""Kind of shapes -> its name in a table."""


def tables(evaluation: Evaluation) -> list[Table]:
    """Return the figures as tables for a terminal."""
    if evaluation.classification is not None:
        return [_table_of_classes(evaluation.classification)]
    if evaluation.semantic is not None:
        return [_table_of_maps(evaluation.semantic)]
    if evaluation.detection is None:
        return [_table_of_clips(evaluation)]
    found = _tables_of_images(evaluation, evaluation.detection)
    main = evaluation.localization
    return found if main is None else [_table_of_main_objects(main), *found]


def _table_of_main_objects(figures: LocalizationFigures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("main objects", no_wrap=True)
    for name in ("images", "top-1", "mean IoU", "IoU >= .5", "both right"):
        table.add_column(name, justify="right")
    values = (figures.top_1, figures.mean_iou, figures.iou_50, figures.right)
    table.add_row("all", str(figures.images), *map(percent, values))
    return table


def _tables_of_images(evaluation: Evaluation, figures: DetectionFigures) -> list[Table]:
    at, columns = evaluation.confidence, list(OF_IMAGES)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", no_wrap=True)
    for name in ("images", "objects", *columns):
        table.add_column(name, justify="right")
    shapes = evaluation.shapes
    for name, of_all in (("all", figures), *((NAMES[own.kind], own.figures) for own in shapes)):
        everything = [percent(getattr(of_all, OF_IMAGES[column])) for column in columns]
        table.add_row(name, str(of_all.images), str(of_all.objects), *everything)
    present = [of for of in figures.classes if of.objects]
    for of in sorted(present, key=lambda of: -of.objects)[:MAX_ROWS]:
        row = [percent(of.ap), percent(of.ap50), percent(of.ap75)]
        table.add_row(of.label, str(of.images), str(of.objects), *row)
    if len(present) > MAX_ROWS:
        table.add_row(f"and {len(present) - MAX_ROWS} more")
    if at is None:
        return [table]
    below = Table(box=None, pad_edge=False, header_style="bold")
    below.add_column(f"at confidence {at.confidence:g}", no_wrap=True)
    for name in ("right", "precision", "recall", "F1", "missed", "false"):
        below.add_column(name, justify="right")
    for name, own in (("boxes", at), *((NAMES[of.kind], of.confidence) for of in shapes)):
        total = own.total
        shares = (percent(value) for value in (total.precision, total.recall, total.f1))
        below.add_row(name, str(total.right), *shares, str(total.missed), str(total.false))
    return [table, below]


def difference_lines(changes: Sequence[Difference]) -> list[str]:
    """Return one line for each figure that was compared."""
    lines = []
    for change in changes:
        text = f"{change.figure:14} {percent(change.first):>6} -> {percent(change.second):>6}"
        if change.difference is not None:
            text += f"  {change.difference * 100:+.1f}"
        if change.low is not None and change.high is not None:
            text += f"  (95 %: {change.low * 100:+.1f} to {change.high * 100:+.1f})"
        lines.append(text)
    return lines


def percent(value: float | None) -> str:
    """Return a share as a percentage; "-" where it is undefined."""
    return "-" if value is None else f"{value * 100:.1f}"


def _table_of_classes(figures: ClassificationFigures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", no_wrap=True)
    for name in ("images", "top-1", "top-5", "mean top-1"):
        table.add_column(name, justify="right")
    shares = (percent(value) for value in (figures.top_1, figures.top_5, figures.mean_top_1))
    table.add_row("all", str(figures.images), *shares)
    present = [of for of in figures.classes if of.images]
    for of in sorted(present, key=lambda of: -of.images)[:MAX_ROWS]:
        table.add_row(of.label, str(of.images), percent(of.top_1), percent(of.top_5))
    if len(present) > MAX_ROWS:
        table.add_row(f"and {len(present) - MAX_ROWS} more")
    return table


def _table_of_maps(figures: SemanticFigures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", no_wrap=True)
    for name in ("pixels", "IoU", "accuracy"):
        table.add_column(name, justify="right")
    pixels = sum(of.pixels for of in figures.classes)
    mean, right = percent(figures.mean_iou), percent(figures.pixel_accuracy)
    table.add_row("all", str(pixels), mean, right)
    present = [of for of in figures.classes if of.iou is not None]
    for of in sorted(present, key=lambda of: -of.pixels)[:MAX_ROWS]:
        table.add_row(of.label, str(of.pixels), percent(of.iou), percent(of.accuracy))
    if len(present) > MAX_ROWS:
        table.add_row(f"and {len(present) - MAX_ROWS} more")
    return table


def _table_of_clips(evaluation: Evaluation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("clip")
    for name in ("frames", "tracks", *OF_CLIPS):
        table.add_column(name, justify="right")
    rows = dict(evaluation.clips)
    if evaluation.tracking is not None and len(rows) != 1:
        rows["all"] = evaluation.tracking
    for name, figures in rows.items():
        values = (getattr(figures, field) for field in OF_CLIPS.values())
        cells = [str(value) if isinstance(value, int) else percent(value) for value in values]
        table.add_row(name, str(figures.frames), str(figures.truth_tracks), *cells)
    return table
