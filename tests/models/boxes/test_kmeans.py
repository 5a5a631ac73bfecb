"""Clusters of sizes are found again, and the same in every run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.anchors import pyramid_levels, tile
from models.boxes.iou import iou_matrix
from models.boxes.kmeans import kmeans_anchors, per_level, size_iou

CENTRES = np.array([(10, 12), (40, 20), (30, 90), (200, 160)])


def centred(sizes):
    """Boxes around 0 of some sizes."""
    return np.concatenate([-sizes / 2, sizes / 2], axis=1)


SIZES = arrays(np.float64, st.tuples(st.integers(1, 25), st.just(2)), elements=st.integers(1, 50))


@given(SIZES, SIZES)
def test_iou_of_sizes_is_that_of_boxes_at_one_centre(a, b):
    np.testing.assert_allclose(size_iou(a, b), iou_matrix(centred(a), centred(b)), atol=1e-14)


def test_well_separated_clusters_are_found_for_every_seed(rng):
    sizes = np.repeat(CENTRES, 200, axis=0) * rng.uniform(0.9, 1.1, (800, 2))
    means = sizes.reshape(4, 200, 2).mean(axis=1)
    for seed in range(5):
        found = kmeans_anchors(rng.permutation(sizes), 4, seed)
        np.testing.assert_allclose(found.sizes, means, rtol=1e-9)
        iou = iou_matrix(centred(sizes), centred(means))
        assert found.mean_iou == pytest.approx(iou.max(axis=1).mean())


def test_the_same_seed_gives_the_same_anchors(rng):
    sizes = rng.uniform(5, 300, (500, 2)).astype(np.float32)
    one, two = kmeans_anchors(sizes, 9, 3), kmeans_anchors(sizes, 9, 3)
    np.testing.assert_array_equal(one.sizes, two.sizes)
    assert one.mean_iou == two.mean_iou > 0.6
    assert (np.diff(one.sizes.prod(axis=1)) >= 0).all()


@given(SIZES, st.integers(1, 4), st.integers(0, 5))
def test_anchors_fit_at_least_as_well_as_their_mean_iou_says(sizes, k, seed):
    different = len(np.unique(sizes, axis=0))
    if different < k:
        with pytest.raises(ValueError, match="use a smaller k"):
            kmeans_anchors(sizes, k, seed)
        return
    found = kmeans_anchors(sizes, k, seed)
    assert found.sizes.shape == (k, 2)
    assert found.mean_iou == pytest.approx(size_iou(sizes, found.sizes).max(axis=1).mean())
    if k == different:
        assert found.mean_iou == pytest.approx(1)


def test_sizes_that_are_no_boxes_are_left_out():
    odd = [(0, 5), (5, -1), (np.nan, 5), (np.inf, 5), (4, 6)]
    found = kmeans_anchors(np.array(odd), 1)
    assert (found.sizes.tolist(), found.mean_iou) == ([[4, 6]], 1)
    with pytest.raises(ValueError, match="found 0"):
        kmeans_anchors(np.zeros((0, 2)), 1)
    with pytest.raises(ValueError, match="k: 0 anchors"):
        kmeans_anchors(np.ones((3, 2)), 0)


@pytest.mark.parametrize(("k", "counts"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (2, [1, 1, 0])])
def test_levels_have_evenly_many_anchors_the_finest_the_smallest(k, counts):
    sizes = np.arange(2 * k, dtype=float).reshape(k, 2) + 1
    levels = per_level(sizes, 3)
    assert [len(level) for level in levels] == counts
    assert [shape for level in levels for shape in level] == [tuple(row) for row in sizes.tolist()]
    anchors = tile(pyramid_levels((64, 64), (16, 32, 64), levels))
    assert len(anchors) == sum(cells * own for cells, own in zip((16, 4, 1), counts, strict=True))
