"""The set partitioning LP by column generation, with exact pricing of all groups.

maximise sum_G value(G) x_G, every column in exactly one group in total. Its dual asks for u with
``sum of u over G >= value(G)``; for any u, ``sum(u) + groups * max(0, largest reduced cost)`` bounds the LP from above
(Lasdon 1970; Desaulniers et al., Column Generation, 2005), so every pricing pass over all groups proves a bound.

What makes it fast: duals fitted by least squares to all values start it, the restricted LP begins with the groups of
best reduced cost, GLOP sees reduced costs instead of values, and groups are priced at the current duals and half-way
from the best ones (smoothing: Pessoa et al., INFORMS J. Comput. 30(2), 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.partition import glop
from permsolve.partition.quantise import total
from permsolve.partition.values import GroupValues

Array = npt.NDArray[Any]

#: Groups the restricted LP starts with, and most that join it in a round.
START, JOIN = 1500, 2000
#: Rounds after which the LP is given up; it takes three to eight.
MOST_ROUNDS = 60
#: A partition that costs no more than this share of the bound is optimal: the rest is rounding.
SOLVED = 1e-10
#: The bound is done when it is within this share of the spread of reduced costs of the LP's value.
CLOSE = 1e-6


class Duals(NamedTuple):
    """A feasible dual solution, and what the LP found on the way."""

    #: Integer-valued float64 (cols,): no group is worth more than the sum of its members' duals.
    prices: Array
    #: Their sum: a bound on every score of the quantised problem.
    bound: int
    #: A partition, where the LP's optimum was one; int64 (cols,).
    perm: Array | None


def solve(values: GroupValues, start: Array, proceed: Callable[[], bool], left: Callable[[], float]) -> Duals:
    """Solve the LP relaxation, or get as far as the limits allow.

    Parameters
    ----------
    values
        The values of all groups.
    start
        A partition, int64 (cols,).
    proceed
        Asked between rounds whether to go on.
    left
        The seconds left.

    Returns
    -------
    Duals
        The best feasible duals found; the LP's optimum unless a limit came first.
    """
    quantised = values.quantised
    cols, m = quantised.cols, quantised.m
    origin = values.fit()
    first = values.best(origin, START)
    best = _feasible(origin, first.largest, m)
    scale = max(float(np.abs(first.costs[:START]).mean()), 1.0)
    pool = np.concatenate([first.groups[: 4 * START].astype(np.int64), np.sort(start.reshape(-1, m), axis=1)])
    perm = None
    for _ in range(MOST_ROUNDS):
        if not proceed():
            break
        costs = (quantised.worth(pool) - origin[pool].sum(axis=1)) / scale
        solution = glop.maximise(pool, costs, cols, left())
        if solution is None:
            break
        current = np.floor(origin + solution.duals * scale)
        perm = _partition(pool, solution.taken, cols)
        joined = []
        for trial in (current, np.floor((current + best) / 2)):
            found = values.price(trial, CLOSE * scale, JOIN)
            joined.append(found.groups.astype(np.int64))
            lifted = _feasible(trial, found.largest, m)
            if total(lifted) < total(best):
                best = lifted
        value = float(origin.sum()) + solution.value * scale
        if total(best) - value <= CLOSE * scale * cols or not any(map(len, joined)):
            break
        pool = np.unique(np.concatenate([pool, *joined]), axis=0)
    best = _even(values, best)
    return Duals(best, total(best), perm)


def _feasible(prices: Array, largest: float, m: int) -> Array:
    """Raise all duals alike until no reduced cost is positive; lower them where all are negative."""
    return np.asarray(prices + np.ceil(largest / m))


def _even(values: GroupValues, prices: Array) -> Array:
    """Give identical columns equal duals, so that branch and bound may take them in order; the sum may only grow."""
    twins = values.quantised.twins
    if (twins < 0).all():
        return prices
    kind = np.arange(len(twins))
    for column, lower in enumerate(twins):
        if lower >= 0:
            kind[column] = kind[lower]
    sums, sizes = np.bincount(kind, prices), np.bincount(kind)
    # The mean of feasible duals over all exchanges of identical columns is feasible; so is anything above it.
    return np.asarray(np.ceil(sums[kind] / sizes[kind]))


def _partition(pool: Array, taken: Array, cols: int) -> Array | None:
    """Return the partition that an LP solution is, or None where it is fractional."""
    chosen = pool[taken > 1 - 1e-6]
    members = chosen.ravel()
    if len(members) != cols or len(np.unique(members)) != cols:
        return None
    return np.asarray(members)
