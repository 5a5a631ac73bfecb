"""Figures of one class and one box per image."""

import numpy as np
import pytest

from models.errors import EvaluationError
from models.evaluation.localization import NONE, LocalizationFigures, localization_figures

BOX = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)
FAR = (50.0, 50.0, 60.0, 60.0)
NOTHING = (0.0, 0.0, 0.0, 0.0)


def figures(*rows):
    truth, found, boxes = zip(*rows, strict=True)
    true_boxes = np.array([BOX] * len(rows))
    return localization_figures(np.array(truth), true_boxes, np.array(found), np.array(boxes))


@pytest.mark.parametrize(
    ("found", "box", "expected"),
    [
        (1, BOX, (1, 1, 1, 1, 1)),
        (1, HALF, (1, 0.5, 1, 1, 0.5)),
        (1, FAR, (1, 0, 0, 0, 0)),
        (0, BOX, (0, 1, 1, 0, 0)),
        (NONE, BOX, (0, 1, 1, 0, 0)),
        (NONE, NOTHING, (0, 0, 0, 0, 0)),
    ],
)
def test_class_and_box_count_alone_and_together(found, box, expected):
    assert figures((1, found, box)) == LocalizationFigures(*expected, images=1)


def test_figures_are_means_over_images():
    found = figures((0, 0, BOX), (1, 0, HALF), (2, 2, FAR), (2, NONE, NOTHING))
    assert found == LocalizationFigures(0.5, 0.375, 0.5, 0.25, 0.25, 4)


def test_no_image_has_no_figures():
    empty = np.zeros((0, 4))
    found = localization_figures(np.zeros(0, int), empty, np.zeros(0, int), empty)
    assert found == LocalizationFigures(None, None, None, None, None, 0)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(EvaluationError, match=r"boxes: not \(1, 4\)"):
        localization_figures(np.array([0]), np.zeros((1, 4)), np.array([0]), np.zeros((2, 4)))
