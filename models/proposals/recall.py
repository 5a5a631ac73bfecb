"""Recall of proposals: the share of the true objects that a number of proposals finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes, iou_matrix


def recall(
    pictures: Iterable[tuple[Boxes, Boxes]],
    counts: Sequence[int] = (100, 200, 500, 1000, 2000),
    min_iou: float = 0.5,
) -> NDArray[np.float64]:
    """Compute the share of objects that one of the first proposals of their picture overlaps.

    Source: Hosang et al., "What Makes for Effective Detection Proposals?", PAMI 2016, section 4.

    Args:
        pictures: the true boxes (G, 4) and the proposals (N, 4), best first, of each; xyxy in px.
        counts: numbers of proposals of a picture, each at least 0.
        min_iou: an object is found if the IoU is at least this.

    Returns:
        (len(counts),) from 0 to 1; NaN if there is no object at all.
    """
    found = np.zeros(len(counts), np.int64)
    objects = 0
    for truth, proposals in pictures:
        objects += len(truth)
        iou = iou_matrix(truth, proposals)
        found += [int((iou[:, :count] >= min_iou).any(axis=1).sum()) for count in counts]
    return found / objects if objects else np.full(len(counts), np.nan)
