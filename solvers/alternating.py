"""Alternating assignments for V:N:M: rows to tiles, then columns to groups, until neither helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from permsolve.errors import OptionError
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_choice

#: Most groups of an assignment.
BLOCK = 512
#: Relative improvements up to this are rounding.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Alternating(Solver):
    """Assign rows to tiles and columns to groups in turn, each at best while everything else stays.

    Given the columns that every tile keeps, what a row brings to a tile is a number, and distributing the rows over the
    tiles is a transportation problem (for up to 64 tiles; with more, for windows of 64 at a time). Given the rows, one
    column of each group is freed, and the freed columns are assigned to the groups anew by the Hungarian method, for
    each of the m slots once; of more than 512 groups, random ones of 512 at a time. After each assignment the columns
    kept are chosen again. Only strict improvements are taken. It ends when a round of all assignments brings none.

    The published method maximises the relevance of weights and activations (RIA); this one whatever the problem's
    saliency is. One assignment is one step, which with thousands of rows or columns may take a second.

    Parameters
    ----------
    choice
        How every tile chooses four columns of a group: ``"l1"``, those of largest sums, or ``"exhaustive"``, the best.
    rows
        Whether to permute rows.
    columns
        Whether to permute columns. With neither, the answer is the plain choice.
    """

    source: ClassVar[str] = "Zhao et al., Beyond 2:4, 2024, arXiv 2410.16135; choice by sums: VENOM, SC 2023"
    unit: ClassVar[str] = "one assignment: of all rows, or of one column of every group"
    patterns: ClassVar[tuple[str, ...]] = ("vnm",)

    choice: str = "exhaustive"
    rows: bool = True
    columns: bool = True

    def __post_init__(self) -> None:
        """Validate the options."""
        check_choice("choice", self.choice, ("l1", "exhaustive"))
        for name in ("rows", "columns"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise OptionError(f"option {name} = {value!r} must be True or False")

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Alternate until nothing improves."""
        return _Alternation(self, problem, run).solve()


class _Alternation:
    """One search: the solution at work, and the best value so far."""

    def __init__(self, options: Alternating, problem: Problem, run: Run) -> None:
        from permsolve.search.vnm_layout import Layout

        self.options, self.problem, self.run = options, problem, run
        self.by_sums = options.choice == "l1"
        self.layout = Layout(problem, run)
        self.layout.choose(self.by_sums)
        self.best, self.solution = -1.0, self.layout.solution()

    def solve(self) -> Status:
        """Go through all assignments until none improves."""
        if not self.run.proceed():
            return Status.STOPPED
        self._accept()
        improved = True
        while improved:
            improved = False
            for step in self._steps():
                step()
                self.layout.choose(self.by_sums)
                improved |= self._accept()
                if not self.run.proceed(1):
                    return Status.STOPPED
        # An assignment that the end of the time cut short finds nothing, which proves nothing.
        return Status.STOPPED if self.layout.last.halt[0] else Status.LOCAL_OPTIMUM

    def _steps(self) -> list[Callable[[], object]]:
        """Return the assignments of a round."""
        steps: list[Callable[[], object]] = []
        if self.options.rows and self.layout.movable:
            steps.append(lambda: self.layout.move_rows(None))
        if not self.options.columns:
            return steps
        for slot in range(self.layout.m):
            for span in self.layout.spans:
                count = -(-len(span) // BLOCK)
                dealt = self.run.rng.permutation(span) if count > 1 else span
                steps += [partial(self._refill, slot, groups) for groups in np.array_split(dealt, count)]
        return steps

    def _refill(self, slot: int, groups: Any) -> None:
        self.layout.refill(groups, np.full(len(groups), slot), self.by_sums)

    def _accept(self) -> bool:
        """Offer what is there if it is better than before; go back otherwise."""
        solution = self.layout.solution()
        value = float(self.problem.piece_values(solution).sum())
        if value <= self.best * (1 + TOLERANCE):
            self.layout.load(self.solution)
            return False
        self.best, self.solution = value, solution
        self.run.offer(solution)
        return True
