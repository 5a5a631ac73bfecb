"""A region of the frame: a polygon in which the feet of an object are, or which is hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError

Corner = tuple[float, float]
"""x and y, as fractions of the frame's width and height."""

MAX_CORNERS = 100
ON_SIDE = 1e-9
"""Distance from a side, as a fraction of the frame, up to which a point is on it, thus inside."""
ROUNDING = 1e-12
"""Twice the area of a triangle, in fractions of the frame, up to which its corners are in line."""


class Region:
    """A polygon in fractions of the frame, so that it fits the camera at any resolution.

    An object is inside if the middle of the lower edge of its box is, the point where it stands on
    the ground. A person in front of a region, whose head is in it, is not inside. Other parts of
    the project that count objects in an area use the same point.

    Args:
        corners: corners in order around the region, in either direction; the first may be repeated
            at the end.
        where: name of the setting, for messages.

    Raises:
        SetupError: they are no polygon, or not inside the frame.
    """

    def __init__(self, corners: Sequence[Corner], where: str) -> None:
        if len(corners) > 1 and corners[0] == corners[-1]:
            corners = corners[:-1]
        if not 3 <= len(corners) <= MAX_CORNERS:
            raise SetupError(
                f"{where}: expected 3 to {MAX_CORNERS} corners, found {len(corners)}; list them in "
                "order around the region"
            )
        for number, (x, y) in enumerate(corners, 1):
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise SetupError(
                    f"{where}: corner {number} is outside the frame (found [{x:.6g}, {y:.6g}]); "
                    "use fractions of its width and height, from 0 to 1"
                )
        _check_simple(corners, where)
        self._start = np.array(corners, np.float64)
        self._end = np.roll(self._start, -1, axis=0)

    def __len__(self) -> int:
        """Number of corners."""
        return len(self._start)

    @property
    def corners(self) -> NDArray[np.float64]:
        """Corners in order, (N, 2) x and y as fractions of the frame's width and height."""
        return self._start

    def contains_feet(
        self, boxes: NDArray[np.floating], width: int, height: int
    ) -> NDArray[np.bool_]:
        """Return whether the middle of the lower edge of each box is inside, or on a side, (N,).

        A point is inside if a ray from it crosses an odd number of sides (Shimrat, "Algorithm 112:
        Position of point relative to polygon", Communications of the ACM, 1962).

        Args:
            boxes: (N, 4) xyxy in px.
            width: of the frame in px.
            height: of the frame in px.
        """
        corners = boxes.astype(np.float64)
        x = ((corners[:, 0] + corners[:, 2]) / (2 * width))[:, None]
        y = (corners[:, 3] / height)[:, None]
        (x0, y0), (x1, y1) = self._start.T, self._end.T
        across, down = x1 - x0, y1 - y0
        # Twice the area of the triangle of side and point; 0: the point is on the line.
        turn = across * (y - y0) - down * (x - x0)
        crossed = (y0 > y) != (y1 > y)
        right_of_ray = (turn > 0) == (down > 0)
        inside = ((crossed & right_of_ray).sum(axis=1) % 2).astype(np.bool_)
        near = np.abs(turn) <= ON_SIDE * np.hypot(across, down)
        near &= (x >= np.minimum(x0, x1) - ON_SIDE) & (x <= np.maximum(x0, x1) + ON_SIDE)
        near &= (y >= np.minimum(y0, y1) - ON_SIDE) & (y <= np.maximum(y0, y1) + ON_SIDE)
        found: NDArray[np.bool_] = inside | near.any(axis=1)
        return found


def _check_simple(corners: Sequence[Corner], where: str) -> None:
    """Refuse a polygon that touches or crosses itself, also one without area."""
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    for j, (c, d) in enumerate(sides):
        for i, (a, b) in enumerate(sides[:j]):
            if b == c:
                wrong = _folds_back(a, b, d)
            elif d == a:
                wrong = _folds_back(c, d, b)
            else:
                wrong = _meet(a, b, c, d)
            if wrong:
                raise SetupError(
                    f"{where}: the polygon crosses itself (found side {j + 1} on side {i + 1}); "
                    "list the corners in order around the region"
                )


def _turn(a: Corner, b: Corner, c: Corner) -> float:
    """Return the direction of the turn at b on the way from a to c: its sign; 0: none."""
    turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return turn if abs(turn) > ROUNDING else 0.0


def _folds_back(a: Corner, b: Corner, c: Corner) -> bool:
    """Return whether the way from a to b to c turns back on itself."""
    along = (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1])
    return _turn(a, b, c) == 0 and along <= 0


def _meet(a: Corner, b: Corner, c: Corner, d: Corner) -> bool:
    """Return whether the sides from a to b and from c to d have a point in common."""
    of_c, of_d, of_a, of_b = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    return (
        (of_c * of_d < 0 and of_a * of_b < 0)
        or (of_c == 0 and _is_between(a, b, c))
        or (of_d == 0 and _is_between(a, b, d))
        or (of_a == 0 and _is_between(c, d, a))
        or (of_b == 0 and _is_between(c, d, b))
    )


def _is_between(a: Corner, b: Corner, c: Corner) -> bool:
    """Return whether c, a point on the line through a and b, is between them."""
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])
