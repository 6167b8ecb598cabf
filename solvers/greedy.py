"""Constructive greedy: place the columns one by one, each where it adds most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from permsolve.kernels.construct import place_columns
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status


@dataclass(frozen=True)
class Greedy(Solver):
    """Place columns in order of falling sums, each into the group where it adds most.

    Columns come in m rounds that give every group one more. A group of k members is valued as if it kept the
    ``floor(k n / m) + 1`` largest of each row, its fair share: a column that overlaps with those already there adds
    little. One pass over about ``cols * groups / 2`` pairs; deterministic. Where a limit ends it, the columns that are
    left go to the free places in the same order.
    """

    source: ClassVar[str] = "list scheduling (Graham, 1966) with the marginal gain of n:m as load; ours"
    unit: ClassVar[str] = "one column placed"

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Place columns, as many at a time as pass between two looks at the clock."""
        n, m = problem.pattern.n, problem.pattern.m
        ranked = np.argsort(-problem.columns.sum(axis=1, dtype=np.float64), kind="stable")
        kept = np.zeros((problem.groups, n, problem.packed.shape[1]), dtype=np.float32)
        members = np.full((problem.groups, m), -1, dtype=np.int64)
        sizes = np.zeros(problem.groups, dtype=np.int64)
        step = max(1, int(2e7 / (problem.groups * problem.packed.shape[1])))
        placed, going = 0, True
        while going and placed < problem.cols:
            count = max(int(min(step, run.iterations_left())), 1)
            chunk = ranked[placed : placed + count]
            place_columns(problem.packed, chunk, kept, members, sizes, n, m)
            placed += len(chunk)
            going = run.proceed(len(chunk))
        members[members < 0] = ranked[placed:]
        run.offer(members.ravel())
        return Status.COMPLETED if placed == problem.cols else Status.STOPPED
