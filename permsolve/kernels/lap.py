"""Linear sum assignment in compiled code, for the many small ones of a search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels._jit import compiled

_HUGE = np.float32(3e38)


class Assignment(NamedTuple):
    """Work space and answer of `assign`, for problems of up to a size."""

    #: int64 (size,): the column of each row.
    column: npt.NDArray[Any]
    #: int64 (size,): the row of each column.
    row: npt.NDArray[Any]
    #: float32 (size,): the columns' prices.
    prices: npt.NDArray[Any]
    #: int64 (size,): rows without a column.
    free: npt.NDArray[Any]
    #: int64 (size,): columns in the order in which a search reaches them.
    reached: npt.NDArray[Any]
    #: float32 (size,): distances of columns.
    distance: npt.NDArray[Any]
    #: int64 (size,): the row from which a column is reached.
    origin: npt.NDArray[Any]


def make_assignment(size: int) -> Assignment:
    """Allocate the work space of `assign`.

    Parameters
    ----------
    size
        Most rows of a problem.

    Returns
    -------
    Assignment
        The work space.
    """
    whole = [np.zeros(size, dtype=np.int64) for _ in range(5)]
    real = [np.zeros(size, dtype=np.float32) for _ in range(2)]
    return Assignment(whole[0], whole[1], real[0], whole[2], whole[3], real[1], whole[4])


@compiled
def _reduce_columns(cost, size, work):
    """Give every column the price of its cheapest row and each row at most one such column; return the rows left."""
    column, row, prices, free = work.column, work.row, work.prices, work.free
    for j in range(size):
        prices[j] = cost[0, j]
        row[j] = 0
    for i in range(1, size):
        entries = cost[i]
        for j in range(size):
            if entries[j] < prices[j]:
                prices[j] = entries[j]
                row[j] = i
    taken = work.origin
    for i in range(size):
        taken[i] = 0
    for j in range(size - 1, -1, -1):
        i = row[j]
        taken[i] += 1
        if taken[i] == 1:
            column[i] = j
        else:
            row[j] = -1
    left = 0
    for i in range(size):
        if taken[i] == 0:
            free[left] = i
            left += 1
        elif taken[i] == 1:  # no other column wanted this row: lower its column's price as far as the row allows
            least, own, entries = _HUGE, column[i], cost[i]
            for j in range(size):
                if j != own:
                    least = min(least, entries[j] - prices[j])
            prices[own] -= least
    return left


@compiled
def _reduce_rows(cost, size, work, left):
    """Let free rows take their best column from whoever holds it, for a better price; return the rows left."""
    column, row, prices, free = work.column, work.row, work.prices, work.free
    at, before, left, rounds = 0, left, 0, 0
    while at < before:
        i = free[at]
        at += 1
        rounds += 1
        entries = cost[i]
        first, second = 0, -1
        least, next_least = entries[0] - prices[0], _HUGE
        for j in range(1, size):
            reduced = entries[j] - prices[j]
            if reduced < next_least:
                if reduced >= least:
                    next_least, second = reduced, j
                else:
                    next_least, second = least, first
                    least, first = reduced, j
        holder = row[first]
        if least < next_least:
            prices[first] -= next_least - least
        elif holder >= 0:
            first = second
            holder = row[first]
        column[i], row[first] = first, i
        if holder >= 0:
            if least < next_least and rounds < 4 * size:  # rounding must not keep two rows bidding for ever
                at -= 1
                free[at] = holder
            else:
                free[left] = holder
                left += 1
    return left


@compiled
def _augment(cost, size, work, start):
    """Find the cheapest alternating path from a free row to a free column and flip it."""
    column, row, prices = work.column, work.row, work.prices
    reached, distance, origin = work.reached, work.distance, work.origin
    entries = cost[start]
    for j in range(size):
        distance[j] = entries[j] - prices[j]
        origin[j] = start
        reached[j] = j
    # reached[:done] are settled, reached[done:edge] lie at the present distance, the others further away.
    done = edge = settled = 0
    least = np.float32(0)
    end = -1
    while end < 0:
        if edge == done:
            settled = done
            least = distance[reached[edge]]
            edge += 1
            for k in range(edge, size):
                j = reached[k]
                if distance[j] <= least:
                    if distance[j] < least:
                        edge, least = done, distance[j]
                    reached[k], reached[edge] = reached[edge], j
                    edge += 1
            for k in range(done, edge):
                if row[reached[k]] < 0:
                    end = reached[k]
                    break
        if end < 0:
            j = reached[done]
            done += 1
            i = row[j]
            entries = cost[i]
            offset = entries[j] - prices[j] - least
            for k in range(edge, size):
                j = reached[k]
                through = entries[j] - prices[j] - offset
                if through < distance[j]:
                    origin[j] = i
                    distance[j] = through
                    if through == least:
                        if row[j] < 0:
                            end = j
                            break
                        reached[k], reached[edge] = reached[edge], j
                        edge += 1
    for k in range(settled):
        j = reached[k]
        prices[j] += distance[j] - least
    while True:
        i = origin[end]
        row[end] = i
        column[i], end = end, column[i]
        if i == start:
            break


@compiled
def assign(cost, size, work, warm):
    """Assign rows to columns at least cost, by the algorithm of Jonker and Volgenant (Computing 38, 1987).

    Prices are float32: the answer is best up to rounding, of about 1e-6 of the largest entry for each row. Any prices
    are a valid start; where they come from a similar problem, almost every row finds its column at once, and a problem
    of hundreds of rows costs a few passes over its entries.

    Parameters
    ----------
    cost
        float32 (at least size, at least size), finite.
    size
        Number of rows and columns that count, at least 1.
    work
        An `Assignment` for at least that many; ``column[:size]`` and ``row[:size]`` receive the answer and
        ``prices[:size]`` the prices that prove it.
    warm
        Whether to start from ``work.prices``.
    """
    if warm or size == 1:
        for k in range(size):
            work.row[k] = -1
            work.free[k] = k
        left = size
    else:
        left = _reduce_columns(cost, size, work)
    if size > 1:
        for _ in range(2):
            left = _reduce_rows(cost, size, work, left)
    for k in range(left):
        _augment(cost, size, work, work.free[k])
