"""RIA's channel permutation: heuristic allocation, then one assignment per slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.slots import SlotAssignment
from permsolve.search.start import allocate
from permsolve.solver import Solver, Status, check_whole


@dataclass(frozen=True)
class Ria(Solver):
    """Deal columns by their sums, then reassign each of the m slots of all groups once.

    Columns are sorted by summed saliency and dealt into the groups in boustrophedon order. Then, for each slot once,
    the column in that slot is taken out of every group and all of them are assigned anew by the Hungarian method. One
    assignment is one step: over thousands of groups it takes many seconds and cannot be interrupted.

    Parameters
    ----------
    sweeps
        Times that all m slots are gone through; the published method has 1. Sweeping ends when nothing changes.
    """

    source: ClassVar[str] = "Zhang et al., Plug-and-Play (RIA), ICLR 2024"
    unit: ClassVar[str] = "one assignment over all groups"

    sweeps: int = 1

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("sweeps", self.sweeps, least=0)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Allocate, then sweep over the slots."""
        order = allocate(problem)
        run.offer(order)
        search = SlotAssignment(problem, order)
        groups = np.arange(problem.groups)
        for _ in range(self.sweeps):
            changed = False
            for slot in range(problem.pattern.m):
                if not run.proceed():
                    return Status.STOPPED
                changed |= search.step(groups, np.full(problem.groups, slot))
                run.offer(search.order)
                if not run.proceed(1):
                    return Status.STOPPED
            if not changed:
                return Status.LOCAL_OPTIMUM
        return Status.COMPLETED

    def warm_up(self, problem: Problem) -> None:
        """Make one assignment of four groups: a solve of them ends before it where there is nothing to gain."""
        sample = problem.part(slice(0, min(problem.groups, 4) * problem.pattern.m))
        search = SlotAssignment(sample, allocate(sample))
        search.step(np.arange(sample.groups), np.zeros(sample.groups, dtype=np.int64))
