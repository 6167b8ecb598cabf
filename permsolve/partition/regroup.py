"""Some columns regrouped by a search of their own: all their groups enumerated, the linear program, then windows."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.partition import neighbourhood
from permsolve.partition.lp import Duals
from permsolve.partition.lp import solve as solve_lp
from permsolve.partition.neighbourhood import Chain
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues

Array = npt.NDArray[Any]

#: Most groups (of m columns) among the columns of a wide problem's window.
MOST_IN_WINDOW = 700_000
#: Nodes that a wide problem's window gets at most.
WINDOW_NODES = 30_000


def window_groups(columns: int, m: int) -> int:
    """Return how many groups of m columns a window has: as many as can be enumerated, at least two.

    Parameters
    ----------
    columns
        Columns that a window should have.
    m
        Group size.

    Returns
    -------
    int
        Number of groups.
    """
    groups = max(columns // m, 3)
    while groups > 2 and math.comb(groups * m, m) > MOST_IN_WINDOW:
        groups -= 1
    return groups


class Task(NamedTuple):
    """Columns to regroup, in groups of m, and the seed of their search."""

    columns: Array
    seed: int


def prepare(quantised: Quantised, start: Array, seed: int, deadline: float) -> Chain | Array | None:
    """Enumerate all groups and solve the linear program.

    Parameters
    ----------
    quantised
        The problem.
    start
        The partition to begin with, a permutation, int64 (cols,).
    seed
        Seed of the search.
    deadline
        When to give up, on `time.perf_counter`'s clock.

    Returns
    -------
    Chain, numpy.ndarray or None
        A search that begins at the start; where the linear program gives a best partition, that one; None where the
        time was over first.
    """

    def left() -> float:
        return deadline - time.perf_counter()

    values = GroupValues(quantised, lambda work, items: [work(item) for item in items], deadline)
    if not values.complete:
        return None
    duals: Duals = solve_lp(values, start, lambda: left() > 0, left)
    if duals.perm is not None:
        return np.asarray(duals.perm)
    if left() <= 0:
        return None
    pool = neighbourhood.make_candidates(values, duals)
    return Chain(quantised, duals, pool, start, np.random.default_rng(seed))


def regroup(quantised: Quantised, deadline: float, task: Task) -> Array:
    """Regroup some columns as well as a bounded search can by a deadline.

    Parameters
    ----------
    quantised
        The problem that the columns are of.
    deadline
        When to end, on `time.perf_counter`'s clock.
    task
        The columns.

    Returns
    -------
    numpy.ndarray
        The columns in groups of m that are worth as much or more.
    """
    columns = task.columns
    chain = prepare(quantised.part(columns), np.arange(len(columns)), task.seed, deadline)
    if not isinstance(chain, Chain):
        return columns if chain is None else columns[chain]
    visited, kicks = 0, 0
    while visited < WINDOW_NODES and kicks < 3 and not chain.solved and time.perf_counter() < deadline:
        visited += chain.step()
        kicks = chain.kicks
    return columns[chain.perm]
