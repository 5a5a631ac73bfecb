"""Greedy suppression of overlapping boxes in a network: ONNX's NonMaxSuppression when exported.

PyTorch has none without torchvision; outside of an export, that of `models/boxes` is used. No
gradient passes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.boxes.suppress import suppress
from models.training.export_operator import operator

OPSET = 11
"""Version of the operator."""


class Limits(NamedTuple):
    """Limits of suppression."""

    max_iou: float
    """Overlap above which the worse of two boxes is dropped."""
    max_boxes: int
    """Number of best boxes that are kept, of each class."""
    min_score: float = float("-inf")
    """Boxes whose score is not above this are dropped before."""


def suppressed(boxes: Tensor, scores: Tensor, limits: Limits) -> Tensor:
    """Choose the boxes that remain, each class apart.

    Args:
        boxes: (C, K, 4) xyxy in px, of each class.
        scores: (C, K) of each box; higher is better.
        limits: see `Limits`.

    Returns:
        (M, 2) int64, class and row of each box that is kept: class by class, best first. Of equal
        scores, that of the lower row is the better one.
    """
    if torch.onnx.is_in_onnx_export():
        return _operator(boxes, scores, limits)
    found: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    corners, values = boxes.detach().cpu().numpy(), scores.detach().cpu().numpy()
    for number, (own, score) in enumerate(zip(corners, values, strict=True)):
        rows = np.flatnonzero(score > limits.min_score)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        kept = rows[suppress(own[rows], None, limits.max_iou)][: limits.max_boxes]
        found.append(np.stack([np.full(len(kept), number, np.int64), kept], axis=1))
    return torch.from_numpy(np.concatenate(found)).to(boxes.device)


def best_first(scores: Tensor, count: int) -> Tensor:
    """Return the rows of the best scores (K,); of equal ones the lower row first.

    Args:
        scores: (N,).
        count: rows, at most.
    """
    if torch.onnx.is_in_onnx_export():
        # ONNX has this order; PyTorch's topk has not.
        length = torch.minimum(torch.tensor(count), torch.scalar_tensor(scores.shape[0]).long())
        return scores.topk(length).indices
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def _operator(boxes: Tensor, scores: Tensor, limits: Limits) -> Tensor:
    """Return the operator for the graph that is exported; each class is an image of its own."""
    inputs = (
        boxes,
        scores[:, None],
        torch.tensor([limits.max_boxes]),
        torch.tensor([limits.max_iou]),
        torch.tensor([max(limits.min_score, torch.finfo(torch.float32).min)]),
    )
    example = torch.zeros((1, 3), dtype=torch.int64)
    found = operator("NonMaxSuppression", inputs, {}, example, OPSET)
    return found[:, 0::2]  # image, class, row
