"""The report of a training, written as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from models.errors import EvaluationError, TrainingError
from models.training import METHODS
from models.training.method import Method
from models.training.report import charts, pictures, sections
from models.training.report.page import Section, page, paragraph, photos
from models.training.report.pictures import Example
from models.training.trainer import Finished

MAX_RESULT_CHARTS = 6
"""Pictures of the results of the test images."""


def write_report(finished: Finished, path: Path) -> None:
    """Write the report; a file there is replaced.

    Without matplotlib the report has no charts, and says so.

    Args:
        finished: the training.
        path: the HTML file.

    Raises:
        TrainingError: the file cannot be written.
    """
    record, method, prepared = finished.record, finished.method, finished.prepared
    images = {"train": prepared.train, "val": prepared.val, "test": prepared.test}
    examples = {
        part: pictures.examples_of(method, part, images[part], results)
        for part, results in finished.results.items()
    }
    drawn = _Charts()
    course = drawn.of(lambda: charts.curves_of(record) + charts.further_charts(record))
    tested = drawn.of(lambda: method.charts_of(images["test"], finished.results["test"]))
    compared = drawn.of(lambda: charts.comparison_chart(record))
    parts = [
        sections.results(record, tested[:MAX_RESULT_CHARTS]),
        sections.comparison(record, compared),
        sections.training(record, course),
        *_galleries(method, examples, record.seed),
        sections.data(record, images),
        sections.notes(record),
        sections.model(record),
        sections.steps(record),
        sections.again(record),
    ]
    about = METHODS[record.method].help if record.method in METHODS else "a method of the user"
    head = sections.lead(record, about) + (paragraph(drawn.missing) if drawn.missing else "")
    part_file = path.with_suffix(".part")
    try:
        part_file.write_text(page(record.name, head, parts), "utf-8")
        part_file.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path}: the report cannot be written: {error.strerror}; the model is finished"
        ) from None


class _Charts:
    """Draws charts, and notes why there are none."""

    def __init__(self) -> None:
        self.missing = ""
        """Why charts are missing; empty: none is."""

    def of(self, draw: Callable[[], list[charts.Chart]]) -> list[charts.Chart]:
        """Return the charts; none, where matplotlib is not installed."""
        try:
            return draw()
        except EvaluationError as error:
            self.missing = f"There are no charts here. {error}"
            return []


def _galleries(method: Method, examples: dict[str, list[Example]], seed: int) -> list[Section]:
    """Return the sections with pictures: the hardest, doubtful labels, and right ones."""
    both = [example for part in examples.values() for example in part]
    hardest = pictures.drawn(method, pictures.hardest(both), "{part}, error {error:.2f}")
    doubtful = pictures.drawn(method, pictures.doubtful(both), "{part}, {doubt:.0%} sure")
    right = pictures.drawn(method, pictures.right(examples["test"], seed), "{part}")
    counts = ", ".join(
        f"{sum(e.error >= pictures.RIGHT for e in own)} of {len(own)} {pictures.PARTS[part]} images"
        for part, own in examples.items()
    )
    return [
        Section(
            "Hardest examples",
            paragraph(f"Wrong, or not right with more than half of the score: {counts}.")
            + (paragraph(f"The {len(hardest)} worst, worst first:") if hardest else "")
            + photos(hardest),
        ),
        Section(
            "Labels worth a second look",
            paragraph(
                "The model is very sure of another answer than the label for these images. This is "
                "a suggestion, and the model may be the one that is wrong: look at each. Where the "
                "label is wrong, correct it in the data set, and train again."
                if doubtful
                else "No label of the validation and test images is contradicted by a result with "
                f"a score of at least {pictures.SURE:g}."
            )
            + photos(doubtful),
        ),
        Section(
            "Right results",
            paragraph("Some of the test images with a right result, drawn at random:")
            + photos(right)
            if right
            else paragraph("No test image has a right result."),
        ),
    ]
