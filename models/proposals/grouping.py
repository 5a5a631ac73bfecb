"""Hierarchical grouping: the two most similar neighbours become one region, until one is left.

Source: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013, algorithm 1 and
equations 1 to 6.
"""

from __future__ import annotations

import heapq
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.proposals.segments import Segments

Weight = Annotated[float, Meta(ge=0, le=1)]
_Number = TypeVar("_Number", np.int64, np.float32, np.float64)


class Similarity(NamedTuple):
    """Weights of the four similarities, each from 0 to 1; 0 leaves one out (equation 6)."""

    colour: Weight = 1.0
    """Shared part of the two histograms of colour."""
    texture: Weight = 1.0
    """Shared part of the two histograms of texture."""
    size: Weight = 1.0
    """Small regions are joined first, so that none of them grows over all others."""
    fill: Weight = 1.0
    """Regions are joined that fill their common box."""


def group(segments: Segments, similarity: Similarity) -> NDArray[np.int64]:
    """Join start segments to larger and larger regions.

    Of equally similar pairs, that with the lower numbers is joined first.

    Args:
        segments: R start segments of a picture, at least 1.
        similarity: says which regions are alike.

    Returns:
        (2 * R - 1, 4) xyxy in px: the boxes of the start segments, then those of the joined
        regions in the order of their making; the last is the whole picture.
    """
    return _Hierarchy(segments, similarity).boxes


class _Hierarchy:
    """Regions, each with its size, box and histograms, in rows that are filled by joining."""

    def __init__(self, segments: Segments, similarity: Similarity) -> None:
        count = len(segments.sizes)
        self._weights = similarity
        self._area = float(segments.sizes.sum())
        self._column_weights = np.full(segments.histograms.shape[1], similarity.texture, np.float32)
        self._column_weights[: segments.colours] = similarity.colour
        self._sizes = _with_room(segments.sizes)
        self._histograms = _with_room(segments.histograms)
        self.boxes = _with_room(segments.boxes)
        self._neighbours = [set(own) for own in segments.neighbours]
        self._heap: list[tuple[float, int, int]] = []
        for region, own in enumerate(segments.neighbours):
            above = [other for other in own if other > region]
            self._heap += self._pairs(region, above)
        heapq.heapify(self._heap)
        for region in range(count, 2 * count - 1):
            self._join(*self._most_similar(), region)

    def _most_similar(self) -> tuple[int, int]:
        """Return the most similar pair of neighbours; pairs of regions that are gone are left."""
        while True:
            _, one, other = heapq.heappop(self._heap)
            if self._neighbours[one] and self._neighbours[other]:
                return one, other

    def _join(self, one: int, other: int, region: int) -> None:
        """Make a region of two."""
        size_a, size_b = self._sizes[one], self._sizes[other]
        size = size_a + size_b
        self._sizes[region] = size
        # The histogram of both is the mean, each weighted by its size (section 3.2).
        shares = self._histograms[one] * (size_a / size) + self._histograms[other] * (size_b / size)
        self._histograms[region] = shares
        np.minimum(self.boxes[one, :2], self.boxes[other, :2], out=self.boxes[region, :2])
        np.maximum(self.boxes[one, 2:], self.boxes[other, 2:], out=self.boxes[region, 2:])
        around = (self._neighbours[one] | self._neighbours[other]) - {one, other}
        self._neighbours[one] = self._neighbours[other] = set()
        self._neighbours.append(around)
        for near in around:
            self._neighbours[near] -= {one, other}
            self._neighbours[near].add(region)
        for entry in self._pairs(region, sorted(around)):
            heapq.heappush(self._heap, entry)

    def _pairs(self, region: int, others: list[int]) -> list[tuple[float, int, int]]:
        """Compute the similarity of a region with others, as entries of the heap."""
        if not others:
            return []
        rows = np.array(others)
        shared = np.minimum(self._histograms[rows], self._histograms[region])
        similar = (shared @ self._column_weights).astype(np.float64)
        sizes = self._sizes[rows] + self._sizes[region]
        boxes, own = self.boxes[rows], self.boxes[region]
        sides = np.maximum(boxes[:, 2:], own[2:]) - np.minimum(boxes[:, :2], own[:2])
        weights = self._weights
        similar += weights.size * (1 - sizes / self._area)
        similar += weights.fill * (1 - (sides[:, 0] * sides[:, 1] - sizes) / self._area)
        # The heap gives the smallest first.
        return [
            (-value, min(region, other), max(region, other))
            for value, other in zip(similar.tolist(), others, strict=True)
        ]


def _with_room(rows: NDArray[_Number]) -> NDArray[_Number]:
    """Return rows of start segments with as many free rows as regions will be joined."""
    room = np.empty((2 * len(rows) - 1, *rows.shape[1:]), rows.dtype)
    room[: len(rows)] = rows
    return room
