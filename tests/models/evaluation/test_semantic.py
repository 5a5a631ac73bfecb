"""Figures of maps of classes equal those of a plain loop over the pixels."""

import numpy as np
import pytest

from models.errors import EvaluationError
from models.evaluation.semantic import NONE, count_pixels, semantic_figures

LABELS = ("road", "car", "tree", "sky")


def plain(found, truth):
    """Count by one plain loop over the pixels of the true map."""
    counts = np.zeros((len(LABELS), 3), int)
    height, width = truth.shape
    for y in range(height):
        for x in range(width):
            true = truth[y, x]
            own = found[y * len(found) // height][x * found.shape[1] // width]
            if true == NONE:
                continue
            counts[true, 2] += 1
            if own != NONE:
                counts[own, 1] += 1
            counts[true, 0] += own == true
    return counts


@pytest.mark.parametrize("cells", [(12, 20), (5, 7), (3, 40), (1, 1)])
def test_pixels_are_counted_as_by_a_plain_loop(cells):
    rng = np.random.default_rng(0)
    truth, found = rng.integers(-1, 4, (12, 20)), rng.integers(-1, 4, cells)
    np.testing.assert_array_equal(count_pixels(found, truth, 4), plain(found, truth))


def test_figures_are_of_the_pixels_of_all_images_together():
    rng = np.random.default_rng(1)
    maps = [(rng.integers(-1, 3, (6, 8)), rng.integers(-1, 3, (12, 16))) for _ in range(3)]
    counts = np.stack([count_pixels(*pair, 4) for pair in maps])
    figures = semantic_figures(counts, LABELS)
    right, found, true = sum(plain(*pair) for pair in maps).T
    iou = [right[n] / (found[n] + true[n] - right[n]) for n in range(3)]
    assert [of.iou for of in figures.classes] == pytest.approx([*iou, None])
    assert figures.mean_iou == pytest.approx(np.mean(iou))
    assert figures.pixel_accuracy == pytest.approx(right.sum() / true.sum())
    assert figures.classes[0].accuracy == pytest.approx(right[0] / true[0])
    assert figures.images == 3


def test_a_weight_of_2_gives_the_figures_of_an_image_twice():
    rng = np.random.default_rng(2)
    counts = np.stack(
        [count_pixels(rng.integers(0, 4, (4, 4)), rng.integers(0, 4, (4, 4)), 4) for _ in range(2)]
    )
    weighted = semantic_figures(counts, LABELS, np.array([2.0, 1.0]))
    assert weighted == semantic_figures(counts[[0, 0, 1]], LABELS)


def test_a_map_that_is_right_has_figures_of_1_and_no_pixels_none():
    truth = np.array([[0, 1], [NONE, 1]])
    figures = semantic_figures(count_pixels(truth, truth, 4)[None], LABELS)
    assert (figures.mean_iou, figures.pixel_accuracy) == (1, 1)
    none = semantic_figures(np.zeros((0, 4, 3), int), LABELS)
    assert (none.mean_iou, none.pixel_accuracy) == (None, None)


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (np.zeros((2, 2), int), np.full((2, 2), 4), "true map: a class is not in the labels"),
        (np.full((2, 2), -2), np.zeros((2, 2), int), "found map: a class is not in the labels"),
        (np.zeros((0, 2), int), np.zeros((2, 2), int), "found map: not"),
    ],
)
def test_maps_that_are_wrong_are_refused(found, truth, message):
    with pytest.raises(EvaluationError, match=message):
        count_pixels(found, truth, 4)
