"""Assignment with the largest sum of gains; of several, always the one that TrackEval's has.

Figures of tracking depend on which of several equally good assignments is taken: two true boxes
at one place, or two boxes that overlap a third equally. TrackEval takes that of
scipy.optimize.linear_sum_assignment, so that its order of search is kept here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.evaluation.arrays import Rows


def assign(gain: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Choose the pairs with the largest sum of gains; each row and column is in one at most.

    Args:
        gain: (N, M) 0 for a row and a column that are no pair, more for a pair.

    Returns:
        rows, ascending, and columns of the chosen pairs.
    """
    if not gain.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    chosen = _only_best(gain)
    if chosen is None:
        other = _only_best(gain.T)
        chosen = None if other is None else (other[1], other[0])
    if chosen is None:
        chosen = _search(gain)
    rows, columns = chosen
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order]


def _only_best(gain: NDArray[np.float64]) -> tuple[Rows, Rows] | None:
    """Give each row its best column, if this is the only assignment with the largest sum.

    It is if every row has one best column, and no two rows have the same.
    """
    at = gain.argmax(axis=1)
    best = gain[np.arange(len(gain)), at]
    rows = np.flatnonzero(best > 0)
    columns = at[rows]
    taken = np.zeros(gain.shape[1], np.bool_)
    taken[columns] = True
    if np.count_nonzero(taken) < len(rows):
        return None
    if np.count_nonzero(gain[rows] == best[rows, None]) > len(rows):
        return None
    return rows, columns


def _search(gain: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Find an assignment with the largest sum."""
    wide = gain.shape[0] <= gain.shape[1]
    to: Rows = np.array(shortest_paths((-gain if wide else -gain.T).tolist()), np.intp)
    each: Rows = np.arange(len(to))
    rows, columns = (each, to) if wide else (to, each)
    pairs = gain[rows, columns] > 0
    return rows[pairs], columns[pairs]


def shortest_paths(cost: list[list[float]]) -> list[int]:
    """Assign a column to each row, at the lowest sum of costs.

    Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES 52(4), 2016: a
    shortest augmenting path for each row in turn. Of columns at equal distance a free one is
    preferred, the one that is looked at last; columns are looked at from the last to the first,
    and the last one moves to the place of each that is left. This is the order of SciPy.

    Args:
        cost: (N, M) lists of finite numbers, N at most M.
    """
    columns = len(cost[0])
    of_row, of_column = [0.0] * len(cost), [0.0] * columns  # dual variables
    to = [-1] * len(cost)
    owner = [-1] * columns
    for start in range(len(cost)):
        waiting = list(range(columns - 1, -1, -1))
        distance = [math.inf] * columns
        parent = [-1] * columns
        rows, done = [start], []
        base = 0.0
        while True:
            row = rows[-1]
            costs, dual = cost[row], of_row[row]
            lowest, at = math.inf, -1
            for place, column in enumerate(waiting):
                length = base + costs[column] - dual - of_column[column]
                if length < distance[column]:
                    distance[column] = length
                    parent[column] = row
                else:
                    length = distance[column]
                if length < lowest or (length == lowest and owner[column] < 0):
                    lowest, at = length, place
            base = lowest
            column = waiting[at]
            waiting[at] = waiting[-1]
            waiting.pop()
            done.append(column)
            if owner[column] < 0:
                break
            rows.append(owner[column])
        of_row[start] += base
        for row in rows[1:]:
            of_row[row] += base - distance[to[row]]
        for passed in done:
            of_column[passed] -= base - distance[passed]
        row = -1
        while row != start:
            row = parent[column]
            owner[column] = row
            to[row], column = column, to[row]
    return to
