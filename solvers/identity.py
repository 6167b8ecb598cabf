"""No permutation at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status


@dataclass(frozen=True)
class Identity(Solver):
    """Leave the columns where they are: the baseline of every comparison."""

    source: ClassVar[str] = "the baseline: n:m pruning without permutation"
    unit: ClassVar[str] = "none"
    streams: ClassVar[bool] = True

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Offer the identity."""
        run.offer(np.arange(problem.cols))
        return Status.COMPLETED
