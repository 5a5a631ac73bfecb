"""Patches of images: where they lie, what they are examples of, and how their scores are mapped."""

import numpy as np
import pytest

from models.training.augment import Augmentation
from models.training.features import Views
from models.training.patches import (
    AMBIGUOUS,
    BACKGROUND,
    Patches,
    Rule,
    draw_examples,
    label_patches,
    label_views,
    make_grid,
    map_weights,
)
from tests.models.training.tiny import SIDE, shapes

RATIOS = (1.0, 1.5, 2.0, 4.0)
RULE = Rule(covered=0.6, filled=0.2, other=0.3)


@pytest.mark.parametrize("patches", [30, 100, 500])
def test_a_grid_reaches_all_edges_with_at_most_its_patches(patches):
    grid = make_grid(RATIOS, patches, 32)
    squares = grid.squares
    assert patches / 3 < len(squares) <= patches
    start = 0
    for scale in grid.scales:
        own = squares[start : start + scale.places**2]
        start += len(own)
        assert np.allclose(own[:, :2].min(axis=0), 0)
        assert np.allclose(own[:, 2:].max(axis=0), 1)
    sides = squares[:, 2:] - squares[:, :2]
    assert np.allclose(sides[:, 0], sides[:, 1])
    assert sides.min() == pytest.approx(1 / 4, rel=0.05)


def test_more_scales_than_patches_give_the_fewest_patches():
    assert len(make_grid(RATIOS, 1, 32).squares) == 1 + 4 + 4 + 16


def test_patches_are_cut_where_their_squares_are():
    grid = make_grid(RATIOS, 60, 32)
    across = np.tile(np.arange(128, dtype=np.uint8), (128, 1))
    pixels = np.stack([across, across.T, np.zeros_like(across)], axis=2)
    for patch, square in zip(grid.cut(pixels), grid.squares, strict=True):
        assert patch.shape == (32, 32, 3)
        middle = (square[:2] + square[2:]) / 2 * 128 - 0.5
        assert np.allclose(patch[..., :2].mean(axis=(0, 1)), middle, atol=0.6)


def labels_of(square, boxes, numbers=None, ignored=None):
    count = len(boxes)
    return int(
        label_patches(
            np.array([square], np.float64),
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(numbers or range(count), np.intp),
            np.array(ignored or [False] * count, np.bool_),
            RULE,
        )[0]
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], BACKGROUND),
        ([(20, 20, 80, 80)], 1),
        ([(200, 200, 300, 300), (20, 20, 80, 80)], 2),
        ([(20, 0, 80, 140)], 1),  # most of it
        ([(20, 0, 80, 250)], AMBIGUOUS),  # less than most of it
        ([(40, 40, 60, 60)], AMBIGUOUS),  # too small
        ([(0, 0, 1000, 1000)], AMBIGUOUS),  # a small part of it, but nothing else
        ([(20, 20, 80, 80), (90, 20, 190, 80)], 1),  # little of another
        ([(20, 20, 60, 80), (60, 20, 120, 80)], AMBIGUOUS),  # much of another
        ([(90, 90, 190, 190)], BACKGROUND),  # hardly any of it
    ],
)
def test_a_patch_is_labelled_by_the_objects_it_holds(boxes, expected):
    assert labels_of((0, 0, 100, 100), boxes) == expected


def test_a_patch_with_an_ignored_object_is_ambiguous():
    assert labels_of((0, 0, 100, 100), [(20, 20, 80, 80)], [0], [True]) == AMBIGUOUS


def test_examples_are_all_objects_and_a_part_of_the_background():
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2], (5, 400), p=[0.2, 0.6, 0.1, 0.1])
    rows = draw_examples(labels, 0.1, seed=3)
    kept = labels.reshape(-1)[rows]
    assert (kept > 0).sum() == (labels > 0).sum()
    assert not (kept == AMBIGUOUS).any()
    assert 0.05 < (kept == BACKGROUND).sum() / (labels == BACKGROUND).sum() < 0.15
    assert np.array_equal(rows, draw_examples(labels, 0.1, seed=3))


def test_rows_are_patches_of_the_view_that_they_are_numbered_in(tmp_path):
    images = shapes(tmp_path, 3)
    views = Views(images, Augmentation(), SIDE, 2, seed=0)
    grid = make_grid((1.0, 2.0), 20, 32)
    each = len(grid.squares)
    rows = np.array([1, each, 4 * each + 2, 2])
    patches = Patches(views, grid, rows)
    for row, (view, place) in enumerate([(0, 1), (1, 0), (4, 2), (0, 2)]):
        assert np.array_equal(patches.pixels(row), grid.cut(views.pixels(view))[place])
    assert patches.key() != Patches(views, grid, rows[:3]).key()
    assert len(Patches(views, grid)) == 6 * each


def test_views_are_labelled_where_their_objects_are_moved_to(tmp_path):
    images = shapes(tmp_path, 4)
    views = Views(images, Augmentation(zoom=(1.0, 1.0), shift=0.0), SIDE, 3, seed=0)
    grid = make_grid((1.0, 1.6, 2.4), 100, 32)
    labels = label_views(views, grid, RULE)
    assert labels.shape == (12, len(grid.squares))
    for row in range(12):
        found = set(labels[row][labels[row] > 0].tolist())
        assert found == {images[row // 3].objects[0].number + 1}


@pytest.mark.parametrize("form", ["sum", "mean", "window"])
def test_a_map_of_equal_scores_is_from_0_to_1(form):
    weights = map_weights(make_grid(RATIOS, 100, 32), 8, form)
    values = weights @ np.ones(weights.shape[1], np.float32)
    assert values.max() == pytest.approx(1.0)
    assert values.min() > 0
    if form != "sum":
        assert np.allclose(values, 1)


@pytest.mark.parametrize("form", ["sum", "window"])
def test_a_map_is_highest_in_the_patch_that_scores(form):
    grid = make_grid(RATIOS, 100, 32)
    own = len(grid.squares) - 6  # of the smallest scale
    scores = np.zeros(len(grid.squares), np.float32)
    scores[own] = 1
    row, column = divmod(int((map_weights(grid, 16, form) @ scores).argmax()), 16)
    x1, y1, x2, y2 = grid.squares[own]
    assert x1 < (column + 0.5) / 16 < x2
    assert y1 < (row + 0.5) / 16 < y2
