"""Rotated boxes: their corners, the upright boxes around them, and their IoU.

A rotated box is a row `cx, cy, w, h, angle`: centre and sides in px, and the angle from the x axis
to the side `w` in radians. It grows from x towards y, which is clockwise on the screen, as in
OpenCV and in the oriented models of Ultralytics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import dtype_of
from models.boxes.iou import Boxes

Floats = NDArray[np.float64]
RotatedBoxes = NDArray[np.floating]
"""(N, 5): cx, cy, w, h in px, angle in radians."""
Corners = NDArray[np.floating]
"""(N, 4, 2): x and y of the corners in px, in order around the box."""

_SIGNS = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
"""Corners of the box of side 1 around 0."""


def corners_of(boxes: RotatedBoxes) -> Corners:
    """Compute the corners of rotated boxes.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle.

    Returns:
        (N, 4, 2) of the same dtype; the first is the top left one where the angle is 0, the next
        ones follow clockwise on the screen.
    """
    exact = boxes.astype(np.float64)
    along, across = _axes(exact[:, 4])
    steps = exact[:, None, 2:4] * _SIGNS
    corners: Floats = exact[:, None, :2] + steps[..., :1] * along + steps[..., 1:] * across
    return corners.astype(dtype_of(boxes))


def from_corners(corners: Corners) -> RotatedBoxes:
    """Compute rotated boxes from their corners; the inverse of `corners_of`.

    Corners that do not form a rectangle give the box with their mean as the centre, the means of
    opposite sides as sides, and the direction of the longer one as direction.

    Args:
        corners: (N, 4, 2), in order around each box.

    Returns:
        (N, 5) of the same dtype: cx, cy, w, h, angle. `w` belongs to the side from the first corner
        to the second; the angle is from -pi to pi.
    """
    exact = corners.astype(np.float64)
    along = (exact[:, 1] - exact[:, 0] + exact[:, 2] - exact[:, 3]) / 2
    across = (exact[:, 2] - exact[:, 1] + exact[:, 3] - exact[:, 0]) / 2
    size = np.hypot(*np.stack([along, across]).transpose(2, 0, 1)).T
    # The direction of the other side less a quarter turn, for a box without width.
    longer = np.where((size[:, :1] >= size[:, 1:]), along, across[:, ::-1] * (1, -1))
    angle = np.arctan2(longer[:, 1], longer[:, 0])
    boxes: Floats = np.concatenate([exact.mean(axis=1), size, angle[:, None]], axis=1)
    return boxes.astype(dtype_of(corners))


def normalised(boxes: RotatedBoxes) -> RotatedBoxes:
    """Write each box in one way of the many: `w` >= `h`, and the angle in [-pi/2, pi/2).

    A square has an angle in [-pi/4, pi/4). Rounding may move an angle at an end of its range
    past it.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle.

    Returns:
        (N, 5) of the same dtype.
    """
    exact = boxes.astype(np.float64)
    width, height, angle = exact[:, 2].copy(), exact[:, 3].copy(), exact[:, 4].copy()
    turned = width < height
    exact[:, 2], exact[:, 3] = np.where(turned, (height, width), (width, height))
    angle += turned * (np.pi / 2)
    period = np.where(width == height, np.pi / 2, np.pi)
    exact[:, 4] = angle - period * np.floor(angle / period + 0.5)
    return exact.astype(dtype_of(boxes))


def upright_around(boxes: RotatedBoxes) -> Boxes:
    """Compute the smallest upright box around each rotated box.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle.

    Returns:
        (N, 4) xyxy of the same dtype.
    """
    exact = boxes.astype(np.float64)
    cos, sin = np.abs(np.cos(exact[:, 4:])), np.abs(np.sin(exact[:, 4:]))
    size = exact[:, 2:4]
    half = (size * cos + size[:, ::-1] * sin) / 2
    upright: Floats = np.concatenate([exact[:, :2] - half, exact[:, :2] + half], axis=1)
    return upright.astype(dtype_of(boxes))


def from_upright(boxes: Boxes) -> RotatedBoxes:
    """Write upright boxes (N, 4) xyxy as rotated boxes (N, 5) with an angle of 0."""
    exact = boxes.astype(np.float64)
    low, high = exact[:, :2], exact[:, 2:]
    rotated = np.concatenate([(low + high) / 2, high - low, np.zeros((len(boxes), 1))], axis=1)
    return rotated.astype(dtype_of(boxes))


def rotated_iou_matrix(a: RotatedBoxes, b: RotatedBoxes) -> Floats:
    """Compute the IoU of each box of `a` with each box of `b`.

    Args:
        a: (N, 5) cx, cy, w, h, angle, finite.
        b: (M, 5) cx, cy, w, h, angle, finite.

    Returns:
        (N, M) values from 0 to 1.
    """
    matrix = np.zeros((len(a), len(b)))
    p, q = upright_around(a.astype(np.float64)), upright_around(b.astype(np.float64))
    near = (p[:, None, :2] < q[None, :, 2:]) & (q[None, :, :2] < p[:, None, 2:])
    i, j = np.nonzero(near.all(axis=2))
    matrix[i, j] = rotated_iou_pairs(a[i], b[j])
    return matrix


def rotated_iou_pairs(a: RotatedBoxes, b: RotatedBoxes) -> Floats:
    """Compute the IoU of each box of `a` with the box of `b` in the same row.

    The area that two boxes share is an integral around the outline of the one, in the frame of the
    other (Green's theorem), so that it needs neither the points where sides cross nor their order,
    and parallel or touching sides are no special case.

    Args:
        a: (N, 5) cx, cy, w, h, angle, finite.
        b: (N, 5) cx, cy, w, h, angle, finite.

    Returns:
        (N,) values from 0 to 1; 0 for a box with a side that is not above 0. They are exact to
        about 1e-12, for boxes that are not much longer than wide.
    """
    p, q = a.astype(np.float64), b.astype(np.float64)
    solid = (p[:, 2:4] > 0).all(axis=1) & (q[:, 2:4] > 0).all(axis=1)
    p, q = p[solid], q[solid]
    along, across = _axes(q[:, 4])
    # Centre and direction of the first box in the frame of the second one.
    step = (p[:, :2] - q[:, :2])[:, None]
    p[:, 0], p[:, 1] = (step * along).sum(axis=(1, 2)), (step * across).sum(axis=(1, 2))
    p[:, 4] -= q[:, 4]
    areas = p[:, 2] * p[:, 3], q[:, 2] * q[:, 3]
    shared = _area_inside(corners_of(p) + q[:, None, 2:4] / 2, q[:, 2:3], q[:, 3:4])
    shared = np.clip(shared, 0, np.minimum(*areas))
    iou = np.zeros(len(a))
    iou[solid] = shared / (areas[0] + areas[1] - shared)
    return iou


def _area_inside(corners: Floats, width: Floats, height: Floats) -> Floats:
    """Return the area of convex shapes (P, 4, 2) inside rectangles from 0 to `width`, `height`.

    Above each x, the part of a shape inside the rectangle is the height of its lower side less
    that of its upper side, both limited to the rectangle. So each side of the outline adds the
    integral of its limited height, with the sign of its direction.
    """
    x, y = corners[..., 0], corners[..., 1]
    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    # Sides from left to right; first the part of each between 0 and `width`.
    swap = next_x < x
    x, next_x = np.where(swap, next_x, x), np.where(swap, x, next_x)
    y, next_y = np.where(swap, next_y, y), np.where(swap, y, next_y)
    start, end = np.clip(x, 0, width), np.clip(next_x, 0, width)
    run = next_x - x
    first = y + _fraction(start - x, run) * (next_y - y)
    last = next_y - _fraction(next_x - end, run) * (next_y - y)
    # Then its mean height, limited: a part below 0, a part inside, and a part above `height`.
    low, high = np.minimum(first, last), np.maximum(first, last)
    inside_low, inside_high = np.clip(low, 0, height), np.clip(high, 0, height)
    rise = high - low
    inside = _fraction(inside_high - inside_low, rise)
    above = _fraction(high - np.clip(high, low, np.maximum(low, height)), rise)
    flat = np.clip(low, 0, height)
    mean = np.where(rise > 0, inside * (inside_low + inside_high) / 2 + above * height, flat)
    area: Floats = np.where(swap, 1, -1) * (end - start) * mean
    total: Floats = np.abs(area.sum(axis=1))
    return total


def _fraction(part: Floats, whole: Floats) -> Floats:
    """Divide; 0 where the whole is not above 0."""
    fraction: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return fraction


def _axes(angle: Floats) -> tuple[Floats, Floats]:
    """Return the directions of the sides `w` and `h`, (N, 1, 2) each."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos, sin], axis=1)[:, None], np.stack([-sin, cos], axis=1)[:, None]
