"""Assignment of true objects to anchors, proposals or points: what each is trained to give.

match_best      the best object above an IoU, and each object its best anchor: SSD
match_between   objects above one IoU, background below another: Faster R-CNN, Fast R-CNN
sim_ota         a number of points for each object, where boxes and scores fit best: YOLOX
sample          so many positives and negatives, at random: Fast R-CNN, Faster R-CNN
hard_negatives  the negatives with the largest loss: SSD

Arrays of one picture, in numpy: what is assigned is not learned, so no gradient is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes, Overlaps, iou_matrix

BACKGROUND = -1
"""In the place of the row of an object: there is none here."""
IGNORED = -2
"""In the place of the row of an object: neither object nor background; it has no loss."""

Matches = NDArray[np.intp]
"""(A,) row of the object of each anchor, or BACKGROUND, or IGNORED."""
Chosen = NDArray[np.bool_]
"""(A,) whether an anchor counts."""


def match_best(iou: Overlaps, min_iou: float = 0.5) -> Matches:
    """Give each anchor the object that it overlaps most, and each object at least one anchor.

    Pairs with the largest IoU go first, each with an object and an anchor that have none yet; then
    every other anchor takes its best object, if that overlaps it enough.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2.

    Args:
        iou: (A, G) of each anchor with each object.
        min_iou: smallest IoU of an anchor that is not the best of an object.

    Returns:
        (A,) without IGNORED. Objects that overlap no free anchor have none.
    """
    matches = _above(iou, min_iou)
    left = iou.copy()
    for _ in range(min(iou.shape)):
        anchor, row = np.unravel_index(int(left.argmax()), left.shape)
        if left[anchor, row] <= 0:
            break
        matches[anchor] = row
        left[anchor], left[:, row] = 0, 0
    return matches


def match_between(iou: Overlaps, low: float, high: float, best_too: bool = False) -> Matches:
    """Give each box the object that it overlaps by at least `high`; below `low` is background.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2: .3 and .7 with `best_too` for
    anchors; Girshick, "Fast R-CNN", ICCV 2015, section 2.3: .5 and .5 for proposals.

    Args:
        iou: (A, G) of each box with each object.
        low: IoU with the best object below which a box is background.
        high: IoU from which it is the object's; between the two it is ignored.
        best_too: whether the boxes that overlap an object most are its own at any IoU above 0.

    Returns:
        (A,)
    """
    matches = _above(iou, high)
    if not iou.size:
        return matches
    best = iou.max(axis=1)
    matches[(best >= low) & (best < high)] = IGNORED
    if best_too:
        boxes, rows = np.nonzero((iou == iou.max(axis=0)) & (iou > 0))
        # A box that is the best of several objects takes the one that it overlaps most.
        order = np.argsort(iou[boxes, rows], kind="stable")
        for at in order.tolist():
            matches[boxes[at]] = rows[at]
    return matches


def ignore_inside(
    matches: Matches, boxes: Boxes, ignored: Boxes, min_inside: float = 0.5
) -> Matches:
    """Take from the background those boxes that lie in a crowd, or in an object marked difficult.

    Args:
        matches: (A,) of the boxes.
        boxes: (A, 4) xyxy in px.
        ignored: (I, 4) xyxy in px, of labelled objects that are neither right nor wrong.
        min_inside: part of a box's area that lies in one of these, from 0 to 1.

    Returns:
        (A,) with IGNORED in their places.
    """
    if not len(ignored):
        return matches
    inside = iou_matrix(boxes, ignored, "ioa").max(axis=1) >= min_inside
    return np.where(inside & (matches == BACKGROUND), IGNORED, matches)


def sample(
    matches: Matches, count: int, positive_part: float, random: np.random.Generator
) -> Chosen:
    """Draw positives and negatives at random; negatives fill the places of missing positives.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.3: 64 of a picture, a quarter positive; Ren
    et al., "Faster R-CNN", NeurIPS 2015, section 3.1.3: 256 of a picture, half positive.

    Args:
        matches: (A,) of a picture.
        count: number of boxes to draw.
        positive_part: largest part of them that is positive.
        random: generator; its state alone decides what is drawn.

    Returns:
        (A,) which boxes have a loss.
    """
    positive = np.flatnonzero(matches >= 0)
    negative = np.flatnonzero(matches == BACKGROUND)
    positive = random.permutation(positive)[: round(count * positive_part)]
    negative = random.permutation(negative)[: count - len(positive)]
    chosen = np.zeros(len(matches), np.bool_)
    chosen[positive] = chosen[negative] = True
    return chosen


def hard_negatives(
    matches: Matches, losses: NDArray[np.floating], ratio: float = 3.0, at_least: int = 0
) -> Chosen:
    """Choose the negatives with the largest loss, so many for each positive.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2, "Hard negative mining": 3 to 1.

    Args:
        matches: (A,) of a picture.
        losses: (A,) loss of each anchor as background.
        ratio: number of negatives per positive.
        at_least: number of negatives of a picture with few positives, or none.

    Returns:
        (A,) which anchors have a loss: all positives and the chosen negatives. Of equal losses,
        that of the lower row is chosen.
    """
    chosen = matches >= 0
    negative = np.flatnonzero(matches == BACKGROUND)
    count = max(round(ratio * int(chosen.sum())), at_least)
    order = np.argsort(-losses[negative], kind="stable")
    chosen[negative[order[:count]]] = True
    return chosen


class Points(NamedTuple):
    """Places of a one-stage net, and what it gives there now."""

    centres: NDArray[np.floating]
    """(A, 2) x and y in px of the middle of the cell."""
    strides: NDArray[np.floating]
    """(A,) in px."""
    boxes: Boxes
    """(A, 4) xyxy in px."""
    scores: NDArray[np.floating]
    """(A, C) probability that there is an object, and of this class."""


class Assigned(NamedTuple):
    """Objects of points."""

    matches: Matches
    """(A,) without IGNORED."""
    iou: Overlaps
    """(A,) of the point's box with its object; 0 for background."""


def sim_ota(
    points: Points,
    objects: Boxes,
    classes: NDArray[np.integer],
    radius: float = 2.5,
    most: int = 10,
    iou_weight: float = 3.0,
) -> Assigned:
    """Give each object the points where the net's boxes and scores fit it best now.

    The number of points of an object is the sum of its largest IoUs, so that large objects have
    many. A point that several objects want goes to the one that costs least there.

    Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1, "SimOTA", after Ge et
    al., "OTA: Optimal Transport Assignment for Object Detection", CVPR 2021.

    Args:
        points: of one picture.
        objects: (G, 4) xyxy in px.
        classes: (G,) columns of the scores.
        radius: half a side, in strides, of the square around an object's centre.
        most: number of IoUs in that sum.
        iou_weight: weight of the loss of the box beside that of the class.
    """
    count = len(points.strides)
    matches = np.full(count, BACKGROUND, np.intp)
    found = np.zeros(count)
    near, central = _near(points, objects, radius)
    rows = np.flatnonzero(near.any(axis=1))  # the points that may have an object
    if not len(rows):
        return Assigned(matches, found)
    iou = iou_matrix(points.boxes[rows], objects)
    cost = _class_cost(points.scores[rows], classes) - iou_weight * np.log(iou + 1e-8)
    # A point in one of the two alone, the box and the square, is taken if there is no better one.
    cost += 1e5 * ~central[rows]
    wanted = _cheapest(cost, iou, most) & near[rows]
    own = np.flatnonzero(wanted.any(axis=1))
    best = np.where(wanted[own], cost[own], np.inf).argmin(axis=1)
    matches[rows[own]] = best
    found[rows[own]] = iou[own, best]
    return Assigned(matches, found)


def _above(iou: Overlaps, min_iou: float) -> Matches:
    """Return the best object of each anchor if its IoU is at least `min_iou`, else BACKGROUND."""
    matches = np.full(len(iou), BACKGROUND, np.intp)
    if iou.size:
        best = iou.argmax(axis=1)
        enough = np.take_along_axis(iou, best[:, None], axis=1)[:, 0] >= min_iou
        matches[enough] = best[enough]
    return matches


def _near(points: Points, objects: Boxes, radius: float) -> tuple[Chosen, Chosen]:
    """Say which points are in the box of each object or near its centre, and which are in both."""
    x, y = points.centres.T[:, :, None]
    left, top, right, bottom = objects.T
    in_box = (x > left) & (x < right) & (y > top) & (y < bottom)
    reach = radius * points.strides[:, None]
    near_x = np.abs(x - (left + right) / 2) < reach
    in_centre = near_x & (np.abs(y - (top + bottom) / 2) < reach)
    return in_box | in_centre, in_box & in_centre


def _class_cost(scores: NDArray[np.floating], classes: NDArray[np.integer]) -> Overlaps:
    """Return the cross-entropy of the scores of each point with each object's class, (A, G).

    YOLOX takes the square root of the scores: their factors, objectness and class, are both low at
    the beginning.
    """
    root = np.sqrt(scores.astype(np.float64)).clip(1e-8, 1 - 1e-8)
    absent = -np.log(1 - root)
    present = -np.log(root)
    total = absent.sum(axis=1, keepdims=True)
    cost: Overlaps = total - absent[:, classes] + present[:, classes]
    return cost


def _cheapest(cost: Overlaps, iou: Overlaps, most: int) -> NDArray[np.bool_]:
    """Say which points each object wants, (A, G): as many as the sum of its largest IoUs."""
    largest = -np.sort(-iou, axis=0)[:most]
    wanted = np.zeros(cost.shape, np.bool_)
    for row, count in enumerate(np.maximum(largest.sum(axis=0).astype(int), 1).tolist()):
        wanted[np.argsort(cost[:, row], kind="stable")[:count], row] = True
    return wanted
