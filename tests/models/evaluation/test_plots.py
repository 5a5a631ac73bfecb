"""Pictures of figures show the curves and counts that they are made of."""

import sys

import cv2
import numpy as np
import pytest

from models.errors import EvaluationError
from models.evaluation import plots
from models.evaluation.detection import PrecisionCurves, evaluate_detections
from models.evaluation.matching import confusions, match_images
from models.evaluation.tracking import evaluate_tracks
from tests.models.evaluation.builders import LABELS, random_images
from tests.models.evaluation.test_tracking import random_clip

STRANGE = ("_hidden", "$x^{$", "\u4eba\u7269\x1b[31m", "a" * 99)
"""Labels that matplotlib would leave out, typeset, or has no letters for."""


def pixels_of(png):
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def curves_of(count):
    rng = np.random.default_rng(0)
    precision = -np.sort(-rng.random((count, 101)), axis=1)
    mean = precision.mean(axis=0) if count else None
    return PrecisionCurves(np.linspace(0, 1, 101), np.arange(count), precision, mean)


@pytest.fixture
def axes_of(monkeypatch):
    """Give the axes of a picture in place of its PNG."""
    png = plots._png

    def axes(figure):
        png(figure)
        return figure.axes[0]

    monkeypatch.setattr(plots, "_png", axes)


def names_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.usefixtures("axes_of")
def test_precision_curves_are_drawn_with_their_average():
    result = evaluate_detections(random_images(0, 20), LABELS)
    axes = plots.precision_recall_png(result.curves, LABELS)
    mean, *classes = axes.get_lines()
    np.testing.assert_array_equal(mean.get_ydata(), result.curves.mean)
    for line, precision in zip(classes, result.curves.precision, strict=True):
        np.testing.assert_array_equal(line.get_xydata().T, [result.curves.recall, precision])
    expected = [f"mean of 3 classes  {result.figures.ap50:.3f}"]
    expected += [f"{figures.label}  {figures.ap50:.3f}" for figures in result.figures.classes]
    assert names_of(axes) == expected


@pytest.mark.usefixtures("axes_of")
def test_of_many_classes_those_with_low_precision_have_a_colour():
    curves = curves_of(30)
    axes = plots.precision_recall_png(curves, [f"c{number}" for number in range(30)])
    lowest = np.argsort(curves.precision.mean(axis=1))[:10]
    names = names_of(axes)
    assert [name.split()[0] for name in names[1:11]] == [f"c{number}" for number in lowest]
    assert names[11:] == ["20 classes with a higher AP50"]
    assert len(axes.get_lines()) == 31
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()[1:11]}
    assert len(looks) == 10


@pytest.mark.usefixtures("axes_of")
def test_hota_is_drawn_over_alpha():
    figures = evaluate_tracks([random_clip(np.random.default_rng(1), "a", 20, 5, 0.01)])
    axes = plots.hota_png(figures)
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), figures.hota_curve)
    assert names_of(axes)[0] == f"HOTA  {figures.hota:.3f}"
    assert len(names_of(axes)) == 4


@pytest.mark.usefixtures("axes_of")
def test_confusions_are_coloured_by_their_part_of_a_row():
    images = random_images(3, 30)
    counts = confusions(images, match_images(images, LABELS, 0.1), 3)
    axes = plots.confusion_png(counts, LABELS)
    (image,) = axes.get_images()
    np.testing.assert_allclose(image.get_array(), counts / counts.sum(axis=1)[:, None])
    assert [t.get_text() for t in axes.get_xticklabels()] == [*LABELS, "(background)"]
    found = {
        (text.get_position()[1], text.get_position()[0]): int(text.get_text())
        for text in axes.texts
    }
    assert found == {(r, c): counts[r, c] for r, c in np.argwhere(counts)}


@pytest.mark.parametrize("size", [1, 4, 80, 300])
def test_confusions_of_any_number_of_classes_are_drawn(size):
    labels = [*STRANGE, *(f"class {number}" for number in range(300))][:size]
    image = pixels_of(plots.confusion_png(np.eye(size, dtype=np.int64), labels))
    assert 300 < image.shape[0] < 2500


def test_strange_labels_are_drawn_as_plain_text():
    image = pixels_of(plots.precision_recall_png(curves_of(4), STRANGE))
    assert image.shape[0] > 300


def test_pictures_without_data_say_so():
    for png in (
        plots.precision_recall_png(curves_of(0), LABELS),
        plots.hota_png(evaluate_tracks([])),
    ):
        assert pixels_of(png).std() > 0


def test_pictures_do_without_pyplot():
    before = "matplotlib.pyplot" in sys.modules
    plots.precision_recall_png(curves_of(2), LABELS)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_confusions_of_other_labels_are_refused():
    with pytest.raises(EvaluationError, match=r"not a row and a column per label"):
        plots.confusion_png(np.zeros((5, 5), np.int64), LABELS)


def test_an_absent_matplotlib_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EvaluationError, match=r'matplotlib .*pip install "eyeline\[evaluate\]"'):
        plots.precision_recall_png(curves_of(2), LABELS)


@pytest.mark.usefixtures("axes_of")
def test_lines_skip_missing_values_and_mark_the_best():
    axes = plots.lines_png("t", ("x", "y"), [1, 2, 3], {"_a": [1, None, 3], "b": [2, 2, 2]}, 2)
    first, second, mark = axes.get_lines()
    np.testing.assert_array_equal(first.get_xydata(), [[1, 1], [3, 3]])
    np.testing.assert_array_equal(second.get_ydata(), [2, 2, 2])
    assert list(mark.get_xdata()) == [2, 2]
    assert names_of(axes) == ["_a", "b"]


@pytest.mark.usefixtures("axes_of")
@pytest.mark.parametrize(
    ("values", "scale"), [([1, 2], "linear"), ([0, 99], "linear"), ([0.01, 5], "log")]
)
def test_lines_far_apart_have_a_logarithmic_axis(values, scale):
    axes = plots.lines_png("t", ("x", "y"), [1, 2], {"a": values})
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low <= min(values) < max(values) <= high


@pytest.mark.usefixtures("axes_of")
def test_bars_show_the_lowest_of_many_and_name_undefined_ones():
    axes = plots.bars_png("t", "IoU", {"a": 0.5, "b": None})
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0]
    assert [text.get_text() for text in axes.texts] == ["0.500", "undefined"]
    many = {f"{n}": n / 100 for n in range(99, -1, -1)}
    axes = plots.bars_png("t", "IoU", many)
    assert [bar.get_width() for bar in axes.patches] == [n / 100 for n in range(plots.MAX_BARS)]
    assert f"{plots.MAX_BARS} lowest of 100" in axes.get_title()
