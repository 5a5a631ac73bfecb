"""Anchors for a data set: the means of clusters of its boxes' sizes."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.anchors import Shape

MAX_ROUNDS = 300
"""Limit of rounds; some tens are usual."""


class AnchorClusters(NamedTuple):
    """Sizes that fit those of a data set."""

    sizes: NDArray[np.float64]
    """(k, 2) width and height, smallest area first, in the unit of the data."""
    mean_iou: float
    """Mean IoU of each box with the size that fits it best, at the same centre."""


def kmeans_anchors(sizes: NDArray[np.floating], k: int, seed: int = 0) -> AnchorClusters:
    """Group the sizes of boxes by k-means with the distance 1 - IoU at the same centre.

    Source: Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, section 2. The first
    means are drawn as by k-means++ (Arthur & Vassilvitskii, SODA 2007). The mean of a cluster need
    not be its best fit, so the best round is returned.

    Args:
        sizes: (N, 2) width and height, in any unit. Those that are not finite and above 0 are left
            out.
        k: number of clusters.
        seed: the same sizes, `k` and seed give the same result.

    Raises:
        ValueError: fewer than `k` different sizes, or `k` below 1.
    """
    exact: NDArray[np.float64] = sizes.astype(np.float64).reshape(-1, 2)
    exact = exact[np.isfinite(exact).all(axis=1) & (exact > 0).all(axis=1)]
    different = len(np.unique(exact, axis=0))
    if k < 1 or different < k:
        raise ValueError(
            f"k: {k} anchors need as many different sizes (found {different}); use a smaller k"
        )
    means = _first_means(exact, k, np.random.default_rng(seed))
    best = AnchorClusters(means, -1.0)
    members: NDArray[np.intp] | None = None
    for _ in range(MAX_ROUNDS):
        iou = size_iou(exact, means)
        fit, mean_iou = iou.argmax(axis=1), float(iou.max(axis=1).mean())
        if mean_iou > best.mean_iou:
            best = AnchorClusters(means, mean_iou)
        if members is not None and (fit == members).all():
            break
        members = fit
        counts = np.bincount(fit, minlength=k)
        sums = [np.bincount(fit, weights=side, minlength=k) for side in exact.T]
        # A cluster without boxes keeps its mean.
        filled = counts > 0
        means = means.copy()
        means[filled] = np.stack(sums, axis=1)[filled] / counts[filled, None]
    order = np.lexsort((best.sizes[:, 0], best.sizes.prod(axis=1)))
    return AnchorClusters(best.sizes[order], best.mean_iou)


def per_level(sizes: NDArray[np.floating], levels: int) -> list[list[Shape]]:
    """Give anchors to feature maps: the smallest to the first, and evenly many to each.

    Source: Redmon & Farhadi, "YOLOv3: An Incremental Improvement", 2018, section 2.3.

    Args:
        sizes: (k, 2) width and height, smallest area first, as `kmeans_anchors` gives them.
        levels: number of feature maps, finest first.

    Returns:
        The shapes of each level, for `anchors.pyramid_levels`. Where they are not evenly many, the
        first levels have one more; with fewer anchors than levels, the last levels have none.
    """
    shapes = [(width, height) for width, height in sizes.tolist()]
    few, more = divmod(len(shapes), levels)
    ends = [few * level + min(level, more) for level in range(levels + 1)]
    return [shapes[a:b] for a, b in itertools.pairwise(ends)]


def size_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the IoU of boxes at the same centre.

    Args:
        a: (N, 2) width and height.
        b: (M, 2) in the same unit.

    Returns:
        (N, M) values from 0 to 1.
    """
    p, q = a.astype(np.float64), b.astype(np.float64)
    shared = np.minimum(p[:, None, 0], q[:, 0]) * np.minimum(p[:, None, 1], q[:, 1])
    union = p.prod(axis=1)[:, None] + q.prod(axis=1) - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _first_means(
    sizes: NDArray[np.float64], k: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw sizes, each with a probability that grows with its distance from those drawn before."""
    rows = [int(random.integers(len(sizes)))]
    distance = np.full(len(sizes), np.inf)
    while len(rows) < k:
        distance = np.minimum(distance, 1 - size_iou(sizes, sizes[rows[-1:]])[:, 0])
        weights = np.cumsum(distance**2)
        drawn = int(np.searchsorted(weights, random.random() * weights[-1], side="right"))
        rows.append(min(drawn, len(sizes) - 1))  # rounding
    return sizes[rows]
