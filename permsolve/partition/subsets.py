"""Few columns: optimal partitions by dynamic programming over subsets."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Status

Array = npt.NDArray[Any]

#: Most columns: the tables have 2**cols entries, and 16 columns of 2:4 take a third of a millisecond.
MOST_COLS = 16


def suits(cols: int) -> bool:
    """Return whether dynamic programming is the fastest way.

    Parameters
    ----------
    cols
        Number of columns.

    Returns
    -------
    bool
        True up to 16 columns.
    """
    return cols <= MOST_COLS


def solve(problem: Problem, run: Run) -> Status:
    """Offer an optimal partition and the bound that proves it.

    Parameters
    ----------
    problem
        A problem that `suits`.
    run
        Takes the offers; one iteration is the whole program.

    Returns
    -------
    Status
        OPTIMAL.
    """
    from permsolve.kernels.subsets import best_partition, trace_back

    quantised = Quantised.of(problem)
    cols, m = quantised.cols, quantised.m
    values = np.concatenate(GroupValues(quantised, lambda work, firsts: [work(first) for first in firsts]).values)
    members, masks, starts = _groups(cols, m)
    best, choice = np.empty(1 << cols), np.empty(1 << cols, dtype=np.int32)
    best_partition(masks, values, starts, cols, best, choice)
    groups = np.empty(cols // m, dtype=np.int64)
    trace_back(masks, choice, cols, groups)
    run.offer(members[groups].ravel())
    run.offer_bound(quantised.bound(int(best[-1])))
    run.proceed(1)
    return Status.OPTIMAL


def warm_up(problem: Problem) -> None:
    """Compile the kernels, and list the groups of a width.

    Parameters
    ----------
    problem
        The problem about to be solved.
    """
    run = Run(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    solve(problem, run)


@cache
def _groups(cols: int, m: int) -> tuple[Array, Array, Array]:
    """Return members (count, m), bit sets, and where those of each smallest member begin."""
    members = np.array(list(combinations(range(cols), m)), dtype=np.int64)
    masks = (np.int64(1) << members).sum(axis=1)
    return members, masks, np.searchsorted(members[:, 0], np.arange(cols + 1))
