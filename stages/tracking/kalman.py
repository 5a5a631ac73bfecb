"""A Kalman filter for many boxes at once, with the real time between two frames.

The model is that of SORT and ByteTrack: constant velocity, with noise in proportion to the size of
the box (Bewley et al. 2016, arXiv:1602.00763; Zhang et al. 2022, arXiv:2110.06864), for width and
height as in BoT-SORT (Aharon et al. 2022, arXiv:2206.14651). Three things are different:

- The noise is in proportion to the square root of the area, for all four coordinates. They are then
  independent and equally uncertain, so that the 8 x 8 covariance consists of four equal 2 x 2
  blocks, and no matrix has to be inverted.
- Velocities are per second, and the noise is that of a random walk in continuous time: two short
  steps give the same result as a long one, so frames may be missing or unevenly spaced.
- The constants are those of the papers, which count in frames, converted at 30 frames per second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEASUREMENT_STD = 1 / 20
"""Error of a detected coordinate, in sizes of the box."""
DRIFT_STD = 1 / 20 * 30**0.5
"""Random walk of a position, in sizes of the box per square root of a second."""
ACCELERATION_STD = 1 / 160 * 30 * 30**0.5
"""Random walk of a velocity, in sizes of the box per second, per square root of a second."""
START_STD = 2 * MEASUREMENT_STD
"""Error of the first detected coordinates, in sizes of the box."""
START_VELOCITY_STD = 10 / 160 * 30
"""Uncertainty of the velocity of a new box, in sizes of the box per second."""
MIN_SIDE_PX = 1.0
"""Smallest estimate of a side."""

States = NDArray[np.float64]
"""(11, T): of T boxes centre x, centre y, width, height in px, their velocities in px/s, and of
each of the four the variance of the position, the covariance of position and velocity, and the
variance of the velocity."""
ROWS = 11
POSITION, VELOCITY = slice(0, 4), slice(4, 8)
SIZE, SIZE_VELOCITY = slice(2, 4), slice(6, 8)
PP, PV, VV = 8, 9, 10


def start(boxes: NDArray[np.floating]) -> States:
    """Return the states of boxes that are detected for the first time, with velocity 0.

    Args:
        boxes: (T, 4) xyxy in px.
    """
    states = np.zeros((ROWS, len(boxes)))
    states[POSITION] = _centre_and_size(boxes)
    area = _area(states)
    states[PP] = area * START_STD**2
    states[VV] = area * START_VELOCITY_STD**2
    return states


def predict(states: States, dt_s: float) -> None:
    """Predict the states at a later time, in place.

    Args:
        states: (11, T).
        dt_s: seconds, at least 0.
    """
    area = _area(states)
    drift = area * (DRIFT_STD**2 * dt_s)
    change = area * (ACCELERATION_STD**2 * dt_s)
    states[POSITION] += states[VELOCITY] * dt_s
    states[PP] += dt_s * (2 * states[PV] + dt_s * states[VV]) + drift + change * (dt_s**2 / 3)
    states[PV] += dt_s * states[VV] + change * (dt_s / 2)
    states[VV] += change
    np.maximum(states[SIZE], MIN_SIDE_PX, out=states[SIZE])


def correct(states: States, rows: NDArray[np.intp], boxes: NDArray[np.floating]) -> None:
    """Correct states by detected boxes, in place.

    Args:
        states: (11, T).
        rows: (M,) indices of the corrected states, each at most once.
        boxes: (M, 4) xyxy in px, one for each.
    """
    seen = states[:, rows]
    pp, pv = seen[PP].copy(), seen[PV].copy()
    total = pp + _area(seen) * MEASUREMENT_STD**2
    gain, velocity_gain = pp / total, pv / total
    off = _centre_and_size(boxes) - seen[POSITION]
    seen[POSITION] += gain * off
    seen[VELOCITY] += velocity_gain * off
    seen[PP] -= gain * pp
    seen[PV] -= gain * pv
    seen[VV] -= velocity_gain * pv
    np.maximum(seen[SIZE], MIN_SIDE_PX, out=seen[SIZE])
    states[:, rows] = seen


def boxes_of(states: States) -> NDArray[np.float64]:
    """Return the estimated boxes, (T, 4) xyxy in px."""
    x, y, width, height = states[POSITION]
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def _area(states: States) -> NDArray[np.float64]:
    """Return the areas of the boxes, (T,) in px squared: the square of the size in `*_STD`."""
    area: NDArray[np.float64] = states[2] * states[3]
    return area


def _centre_and_size(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert boxes (T, 4) xyxy to (4, T) centre x, centre y, width, height."""
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    width, height = np.maximum(x2 - x1, MIN_SIDE_PX), np.maximum(y2 - y1, MIN_SIDE_PX)
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, width, height])
