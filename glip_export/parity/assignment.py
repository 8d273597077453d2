"""The best one-to-one assignment (Kuhn, 1955; shortest augmenting paths), without SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]


def assign(cost: F64, allowed: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """As many allowed pairs as possible, at the least total cost.

    cost (N, M), finite and not negative where allowed (N, M). Returns the rows, rising, and their columns.
    Deterministic: equal costs go to the lower index.
    """
    if not allowed.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Rows and columns without an allowed pair only cost time.
    kept_rows, kept_columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    allowed, cost = allowed[np.ix_(kept_rows, kept_columns)], cost[np.ix_(kept_rows, kept_columns)]
    # One forbidden pair outweighs all allowed ones together, so that their number comes before their cost.
    forbidden = 1.0 + float(cost[allowed].sum())
    cost = np.where(allowed, cost, forbidden)
    if cost.shape[0] <= cost.shape[1]:
        columns = _shortest_augmenting_paths(cost)
        rows = np.arange(len(columns))
    else:
        rows = _shortest_augmenting_paths(cost.T)
        columns = np.arange(len(rows))
    good = allowed[rows, columns]
    rows, columns = kept_rows[rows[good]], kept_columns[columns[good]]
    order = np.argsort(rows)
    return rows[order], columns[order]


def _shortest_augmenting_paths(cost: NDArray[Any]) -> Indices:
    """The column of each row of (N, M), N <= M, at the least total cost; O(N^2 M), one row of NumPy at a time."""
    n, m = cost.shape
    row_price, column_price = np.zeros(n), np.zeros(m + 1)
    owner = np.full(m + 1, -1)  # the row that holds each column; column m is where each search starts
    for row in range(n):
        owner[m] = row
        column = m
        distance, previous = np.full(m, np.inf), np.full(m, m)
        visited = np.zeros(m + 1, bool)
        while owner[column] >= 0:
            visited[column] = True
            current = owner[column]
            reduced = cost[current] - row_price[current] - column_price[:m]
            better = ~visited[:m] & (reduced < distance)
            distance[better], previous[better] = reduced[better], column
            nearest = int(np.argmin(np.where(visited[:m], np.inf, distance)))
            step = distance[nearest]
            row_price[owner[visited]] += step
            column_price[visited] -= step
            distance[~visited[:m]] -= step
            column = nearest
        while column != m:  # hand the columns on along the path
            owner[column] = owner[previous[column]]
            column = int(previous[column])
    result = np.empty(n, np.int64)
    held = np.flatnonzero(owner[:m] >= 0)
    result[owner[held]] = held
    return result
