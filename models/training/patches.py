"""Square patches of several scales and places in an image, their labels, and maps of their scores.

Source: Oquab, Bottou, Laptev and Sivic, "Learning and transferring mid-level image representations
using convolutional neural networks", CVPR 2014, sections 3.2 and 3.3.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import iou_matrix
from models.training.augment import Image
from models.training.features import Views

AMBIGUOUS = -1
"""Label of a patch that is neither an object nor background."""
BACKGROUND = 0
"""Label of background; that of a class is one higher than its number."""
MapForm = Literal["sum", "mean", "window"]
"""How a cell of a score map adds up the patches over it. sum: all alike, so that cells under more
patches get more; mean: divided by their number; window: a mean in which a patch counts most at its
centre, by the window of Hann."""


class Scale(NamedTuple):
    """Patches of one size: a resized input, and a square grid of places in it."""

    side: int
    """Side in pixels to which the input is resized."""
    step: int
    """Pixels between two places."""
    places: int
    """Places along each side."""

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Return x and y of the first pixel of each patch, row by row."""
        places = [number * self.step for number in range(self.places)]
        return [(x, y) for y in places for x in places]


class Grid(NamedTuple):
    """The patches of an input."""

    patch_px: int
    """Side in pixels of a patch, as the network sees it."""
    scales: tuple[Scale, ...]

    @property
    def squares(self) -> NDArray[np.float64]:
        """Return the patches (M, 4) xyxy as fractions of the input, one scale after the other."""
        parts = []
        for scale in self.scales:
            corners = np.array(scale.corners, np.float64)
            parts.append(np.hstack([corners, corners + self.patch_px]) / scale.side)
        return np.concatenate(parts)

    def cut(self, pixels: Image) -> list[Image]:
        """Return the patches (patch_px, patch_px, 3) of an input, in the order of `squares`."""
        found = []
        for scale in self.scales:
            resized = np.asarray(cv2.resize(pixels, (scale.side, scale.side)), np.uint8)
            found += [
                resized[y : y + self.patch_px, x : x + self.patch_px] for x, y in scale.corners
            ]
        return found


def make_grid(ratios: Sequence[float], patches: int, patch_px: int) -> Grid:
    """Return a grid of at most about so many patches.

    Args:
        ratios: side of the input over the side of a patch, of each scale.
        patches: patches of all scales together.
        patch_px: side of a patch, as the network sees it.
    """
    # Neighbours of all scales are the same part of their side apart.
    parts = np.linspace(0.05, 1.0, 96)
    counts = [[_places(ratio, part) for ratio in ratios] for part in parts]
    fitting = [row for row in counts if sum(n * n for n in row) <= patches]
    chosen = fitting[0] if fitting else counts[-1]
    scales = []
    for ratio, count in zip(ratios, chosen, strict=True):
        step = round((ratio - 1) * patch_px / max(1, count - 1))
        # The side follows from the step, so that the last patch ends with the input.
        scales.append(Scale(patch_px + step * (count - 1), step, count))
    return Grid(patch_px, tuple(scales))


def _places(ratio: float, part: float) -> int:
    return 1 + math.ceil((ratio - 1) / part - 1e-9)


class Rule(NamedTuple):
    """Limits by which a patch is an example of an object, or of background."""

    covered: float
    """Part of an object that a patch holds at least."""
    filled: float
    """Part of a patch that the object fills at least."""
    other: float
    """Part of any other object that it holds at most, and of every object for background."""


def label_patches(
    squares: NDArray[np.float64],
    boxes: NDArray[np.floating],
    numbers: NDArray[np.intp],
    ignored: NDArray[np.bool_],
    rule: Rule,
) -> NDArray[np.intp]:
    """Return the label of each patch (M,): AMBIGUOUS, BACKGROUND, or a class plus one.

    Args:
        squares: (M, 4) xyxy.
        boxes: (N, 4) xyxy of the objects, in the same unit.
        numbers: (N,) classes of the objects.
        ignored: (N,) whether an object is no example; a patch with a part of it is ambiguous.
        rule: limits of the examples.
    """
    labels = np.full(len(squares), BACKGROUND, np.intp)
    if not len(boxes):
        return labels
    of_object = iou_matrix(boxes, squares, "ioa").T
    of_patch = iou_matrix(squares, boxes, "ioa")
    labels[(np.maximum(of_object, of_patch) > rule.other).any(axis=1)] = AMBIGUOUS
    holds = (of_object >= rule.covered) & (of_patch >= rule.filled) & ~ignored
    alone = (of_object > rule.other).sum(axis=1) == 1
    rows, objects = np.nonzero(holds & alone[:, None])
    labels[rows] = numbers[objects] + 1
    return labels


def label_views(views: Views, grid: Grid, rule: Rule) -> NDArray[np.intp]:
    """Return the labels of the patches of all views, (len(views), M)."""
    squares = grid.squares * views.size
    found = []
    for row in range(len(views)):
        objects = views.images[row // views.count].objects
        boxes = views.view(row).boxes(np.array([o.box for o in objects], np.float64))
        numbers = np.array([o.number for o in objects], np.intp)
        ignored = np.array([o.ignored for o in objects], np.bool_)
        found.append(label_patches(squares, boxes, numbers, ignored, rule))
    return np.array(found).reshape(len(views), len(squares))


def draw_examples(labels: NDArray[np.intp], background: float, seed: int) -> NDArray[np.intp]:
    """Return the patches to train with: all objects, and a part of the background.

    Args:
        labels: (V, M) of the patches of the views.
        background: part of the background that is kept.
        seed: seed of the run.

    Returns:
        rows of the flattened labels, in order.
    """
    flat = labels.reshape(-1)
    kept = np.random.default_rng((seed, 2)).random(len(flat)) < background
    return np.flatnonzero((flat > BACKGROUND) | ((flat == BACKGROUND) & kept))


class Patches:
    """Patches of views, as the rows of a cache of features.

    Args:
        views: the views.
        grid: the patches of each view.
        rows: those that are taken, numbered through all views; None: all.
    """

    def __init__(self, views: Views, grid: Grid, rows: NDArray[np.intp] | None = None) -> None:
        self._views, self._grid = views, grid
        self._each = len(grid.squares)
        self._rows = np.arange(len(views) * self._each) if rows is None else rows
        self._held: tuple[int, list[Image]] = (-1, [])
        """Number of the view of the latest row, and its patches."""

    def __len__(self) -> int:
        return len(self._rows)

    def pixels(self, row: int) -> Image:
        """Return a patch (patch_px, patch_px, 3) uint8 BGR."""
        view, patch = divmod(int(self._rows[row]), self._each)
        if self._held[0] != view:
            self._held = view, self._grid.cut(self._views.pixels(view))
        return self._held[1][patch]

    def key(self) -> str:
        """Return a text that differs where the pixels of a row would."""
        rows = hashlib.sha256(np.ascontiguousarray(self._rows, np.int64).tobytes()).hexdigest()
        return f"{self._views.key()} {self._grid} {rows}"


def map_weights(grid: Grid, cells: int, form: MapForm) -> NDArray[np.float32]:
    """Return the weights (cells * cells, M) that make a score map of the scores of patches.

    Scores from 0 to 1 give a map from 0 to 1.
    """
    centres = (np.arange(cells) + 0.5) / cells
    x1, y1, x2, y2 = grid.squares.T[:, :, None]
    across, down = (centres - x1) / (x2 - x1), (centres - y1) / (y2 - y1)
    parts = []
    for places in (down, across):
        inside = ((places > 0) & (places < 1)).astype(np.float64)
        parts.append(inside * np.sin(np.pi * places) ** 2 if form == "window" else inside)
    weights = np.einsum("my,mx->yxm", *parts).reshape(cells * cells, -1)
    total = weights.sum(axis=1, keepdims=True)
    # A window has no weight at the very edge of its patch.
    total = np.full_like(total, total.max()) if form == "sum" else np.maximum(total, 1e-9)
    return np.asarray(weights / total, np.float32)
