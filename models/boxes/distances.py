"""Codings of boxes as distances of their sides from a point: FCOS, YOLOv8, NanoDet, PP-YOLOE.

FCOS (Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3.1)
gives the distances of left, top, right and bottom themselves. With distribution focal loss (Li et
al., "Generalized Focal Loss", NeurIPS 2020, section 3) a model gives a distribution over the whole
numbers from 0 for each of them; the distance is the expectation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import dtype_of
from models.boxes.iou import Boxes

Distances = NDArray[np.floating]
"""(N, 4) left, top, right, bottom, not below 0 for a point inside the box."""
BinOrder = Literal["rows", "columns", "bin_rows", "bin_columns"]
"""Axes of an output with B bins, as one axis of 4 * B numbers:

rows         (N, 4 * B): all bins of left, then of top, ...
columns      (4 * B, N): the same for an output with one column per point, as YOLOv8's
bin_rows     (N, B * 4): the first bin of all sides, then the second one, ...
bin_columns  (B * 4, N): the same with one column per point
"""


def decode_distances(
    distances: Distances,
    points: NDArray[np.floating],
    strides: NDArray[np.floating] | float = 1.0,
) -> Boxes:
    """Compute boxes from distances.

    Args:
        distances: (N, 4) left, top, right, bottom, in strides.
        points: (N, 2) x, y in px.
        strides: (N,) or one number in px; 1 where distances are in px.

    Returns:
        (N, 4) xyxy in px.
    """
    dtype = dtype_of(distances)
    sides = distances.astype(dtype) * np.asarray(strides, dtype)[..., None]
    points = points.astype(dtype, copy=False)
    return np.concatenate([points - sides[..., :2], points + sides[..., 2:]], axis=-1)


def encode_distances(
    boxes: Boxes, points: NDArray[np.floating], strides: NDArray[np.floating] | float = 1.0
) -> Distances:
    """Compute distances from boxes; the inverse of `decode_distances`.

    Args:
        boxes: (N, 4) xyxy in px.
        points: (N, 2) x, y in px.
        strides: (N,) or one number in px.

    Returns:
        (N, 4) left, top, right, bottom, in strides; below 0 for a side that the point is beyond.
    """
    dtype = dtype_of(boxes)
    exact, points = boxes.astype(dtype), points.astype(dtype, copy=False)
    sides = np.concatenate([points - exact[..., :2], exact[..., 2:] - points], axis=-1)
    distances: Distances = sides / np.asarray(strides, dtype)[..., None]
    return distances


def decode_bins(logits: NDArray[np.floating], order: BinOrder = "columns") -> Distances:
    """Compute the expectation of each distribution: softmax, then the mean of the bins.

    Args:
        logits: one axis of 4 * B numbers and one of N points, see `BinOrder`.
        order: see `BinOrder`.

    Returns:
        (N, 4) distances in bins, from 0 to B - 1.

    Raises:
        ValueError: the shape does not fit.
    """
    columns = logits if order in ("columns", "bin_columns") else logits.T
    if columns.ndim != 2 or len(columns) == 0 or len(columns) % 4:
        raise ValueError(f"bins: {order} take 4 * B numbers per point (found {logits.shape})")
    # With the points along the last axis, numpy takes less time.
    table = columns.astype(dtype_of(logits), order="C")
    bins, points = len(table) // 4, table.shape[1]
    axis = 1 if order in ("rows", "columns") else 0
    table = table.reshape((4, bins, points) if axis == 1 else (bins, 4, points))
    table -= table.max(axis=axis, keepdims=True)
    np.exp(table, out=table)
    weighted = np.tensordot(table, np.arange(bins, dtype=table.dtype), axes=([axis], [0]))
    distances: Distances = (weighted / table.sum(axis=axis)).T
    return distances


def encode_bins(distances: Distances, bins: int, order: BinOrder = "columns") -> Distances:
    """Compute the logits of the distribution over the two bins next to each distance.

    It is the target of the loss (Li et al., equation 6), and the inverse of `decode_bins`.

    Args:
        distances: (N, 4) in bins; those outside 0 to `bins` - 1 are moved to the end.
        bins: number of bins, 2 or more.
        order: see `BinOrder`.

    Returns:
        logits in the given order; minus infinity for all other bins.
    """
    exact = np.clip(distances, 0, bins - 1).astype(dtype_of(distances))
    steps = np.abs(exact[..., None] - np.arange(bins, dtype=exact.dtype))
    with np.errstate(divide="ignore"):
        table = np.log(np.maximum(1 - steps, 0))
    if order in ("bin_rows", "bin_columns"):
        table = table.transpose(0, 2, 1)
    rows: Distances = table.reshape(len(exact), 4 * bins)
    return rows.T if order in ("columns", "bin_columns") else rows
