"""No permutation at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status


@dataclass(frozen=True)
class Identity(Solver):
    """Leave rows and columns where they are: the baseline of every comparison."""

    source: ClassVar[str] = "the baseline: pruning without permutation"
    unit: ClassVar[str] = "none"
    patterns: ClassVar[tuple[str, ...]] = ("nm", "hinm", "vnm", "transposable")
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    streams: ClassVar[bool] = True

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Offer what permutes nothing."""
        run.offer(problem.start)
        return Status.COMPLETED
