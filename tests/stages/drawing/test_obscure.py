"""Ways to hide a part of an image: what is left of it, and that nothing else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.drawing.obscure import CELLS, METHODS, MIN_CELL_PX, Patch

METHOD = pytest.mark.parametrize("method", list(METHODS))
SIDE = st.integers(1, 90)


def checkerboard(height, width, square=3):
    """Black and white squares, (height, width, 3)."""
    y, x = np.mgrid[:height, :width] // square
    return np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)


def noise(height, width):
    return np.random.default_rng(height * 100 + width).integers(
        0, 256, (height, width, 3), np.uint8
    )


@METHOD
@pytest.mark.parametrize("size", [(60, 60), (300, 110), (33, 150), (700, 500)])
@pytest.mark.parametrize("square", [1, 2, 3, 5])
def test_no_pattern_finer_than_a_cell_is_left(method, size, square):
    part = checkerboard(*size, square)
    assert part.std() > 120
    METHODS[method](part)
    assert part.std() < 30


@METHOD
@settings(deadline=None)
@given(SIDE, SIDE)
def test_what_is_left_does_not_depend_on_the_number_of_pixels(method, height, width):
    part = noise(height, width)
    METHODS[method](part)
    # A cell of the mosaic, or what the Gaussian lets through in as much space.
    cell = max(MIN_CELL_PX, -(-max(height, width) // CELLS))
    values = len(np.unique(part.reshape(-1, 3), axis=0))
    if method == "gauss":
        steps = np.abs(np.diff(part.astype(int), axis=0)), np.abs(np.diff(part.astype(int), axis=1))
        assert all(step.max(initial=0) <= 255 / cell for step in steps)
    else:
        assert values <= max(1, height // cell) * max(1, width // cell)
    assert values == 1 or method != "fill"


@METHOD
def test_a_few_pixels_become_one_colour(method):
    part = noise(MIN_CELL_PX, MIN_CELL_PX - 3)
    METHODS[method](part)
    assert np.ptp(part.reshape(-1, 3).astype(int), axis=0).max() <= (25 if method == "gauss" else 0)


@METHOD
@settings(deadline=None)
@given(SIDE, SIDE, st.integers(0, 9), st.integers(0, 9))
def test_only_the_part_changes_and_the_same_pixels_give_the_same(method, height, width, x, y):
    image = noise(height + 20, width + 20)
    before = image.copy()
    METHODS[method](image[y : y + height, x : x + width])
    part = before[y : y + height, x : x + width].copy()
    METHODS[method](part)
    assert np.array_equal(image[y : y + height, x : x + width], part)
    before[y : y + height, x : x + width] = part
    assert np.array_equal(image, before)


@METHOD
def test_colours_from_outside_do_not_come_in(method):
    image = np.full((100, 100, 3), 255, np.uint8)
    image[20:60, 30:70] = 10
    METHODS[method](image[20:60, 30:70])
    assert set(np.unique(image[20:60, 30:70])) <= {10, 48}


# --- polygons ---

TRIANGLE = np.array([(0.1, 0.1), (0.9, 0.1), (0.1, 0.9)])


@METHOD
@pytest.mark.parametrize("size", [(80, 100), (81, 37), (4, 4), (1, 1)])
def test_a_polygon_is_hidden_and_what_is_far_from_it_is_not(method, size):
    height, width = size
    image = noise(*size)
    before = image.copy()
    Patch(TRIANGLE, width, height).hide(image, method)
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    inside = (x > 0.1) & (y > 0.1) & (x + y < 1)
    # A noisy pixel seldom has the colour that takes its place.
    assert (image[inside] != before[inside]).any(axis=1).sum() >= 0.9 * inside.sum()
    far = (x < 0.1 - 3 / width) | (y < 0.1 - 3 / height) | (x + y > 1 + 3 / width + 3 / height)
    assert np.array_equal(image[far], before[far])


@METHOD
def test_a_rectangle_up_to_the_border_is_hidden_to_its_last_pixel(method):
    image = checkerboard(60, 80, 2)
    corners = np.array([(0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)])
    Patch(corners, 80, 60).hide(image, method)
    assert image[30:, 40:].std() < 30
    assert image[:28, :38].std() > 120


@METHOD
def test_a_polygon_thinner_than_a_pixel_hides_what_it_touches(method):
    image = noise(60, 80)
    before = image.copy()
    Patch(np.array([(0.5, 0.2), (0.5001, 0.2), (0.5, 0.8)]), 80, 60).hide(image, method)
    changed = (image != before).any(axis=2)
    assert changed[13:47, 40].all()
    assert not changed[:, :38].any()
