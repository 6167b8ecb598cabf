"""Proved optima: column generation, reduced-cost fixing and branch and bound; matching for m = 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from permsolve.partition import master, matching, subsets, tree
from permsolve.partition.values import MOST_STORED, storable
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.solver import Solver, Status
from permsolve.solvers.annealing import Annealing

#: Share of its own schedule that annealing gets to start with.
WARM_START = 0.05


@dataclass(frozen=True)
class Exact(Solver):
    """Find an optimal permutation and prove that it is one.

    The partition of the columns into groups of m is a set partitioning problem. The value of every group is
    enumerated, its linear program solved by column generation (GLOP of OR-Tools) with exact pricing in integers: the
    bound is proved and comes with a certificate. Groups too dear for the budget of a stage are fixed to zero by their
    reduced costs, and branch and bound searches the few thousand that are left; large neighbourhood search supplies
    incumbents. Keep 1 of every 2 is solved as a matching of maximum weight (up to 8,192 columns), and up to 16 columns
    anything by dynamic programming over subsets.

    Interrupted, it answers with the best permutation and the best bound proved so far.
    """

    source: ClassVar[str] = (
        "ours; column generation: Gilmore and Gomory 1961; peers: Mahajan, Hwu and Nagi, Optimization Letters 18, 2024"
    )
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    unit: ClassVar[str] = "one node of branch and bound, or one step that prepares it"

    def supports(self, problem: Problem) -> str | None:
        """Refuse problems with more groups than can be stored."""
        cols, m = problem.cols, problem.pattern.m
        if subsets.suits(cols) or storable(cols, m):
            return None
        return (
            f"there are {math.comb(cols, m):.3g} groups of {m} among {cols} columns, and at most {MOST_STORED:.3g} "
            f"can be enumerated; method 'lns' searches and permsolve.bound proves a bound at such sizes"
        )

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Choose the way, solve, prove."""
        if problem.pattern.m == 2:
            return matching.solve(problem, run)
        if subsets.suits(problem.cols):
            return subsets.solve(problem, run)
        # A first answer, should the time end before there is a better one.
        if run.iterations_left() == math.inf:
            moment = WARM_START * min(run.remaining(), default_seconds(problem)) if run.timed else math.inf
            Annealing(reheats=0)(problem, run.within(seconds=moment, effort=WARM_START, counts=False))
        if not run.proceed():
            return Status.STOPPED
        built = master.Master.build(problem, run)
        if built is not None and built.duals.perm is not None:
            run.offer(built.duals.perm)
        if built is None or not run.proceed(1):
            return Status.STOPPED
        return Status.OPTIMAL if tree.prove(built, run) else Status.STOPPED

    def warm_up(self, problem: Problem) -> None:
        """Compile what the chosen way uses."""
        if problem.pattern.m == 2:
            matching.warm_up(problem.objective)
        elif subsets.suits(problem.cols):
            subsets.warm_up(problem)
        else:
            Annealing().warm_up(problem)
            master.warm_up(problem.objective)
