"""The best of a number of random permutations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_whole


@dataclass(frozen=True)
class Random(Solver):
    """The best of k uniformly random permutations.

    Parameters
    ----------
    samples
        How many permutations to try.
    """

    source: ClassVar[str] = "Pool and Yu, NeurIPS 2021: Random(k)"
    unit: ClassVar[str] = "one random permutation"
    patterns: ClassVar[tuple[str, ...]] = ("nm", "hinm", "vnm", "transposable")
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    streams: ClassVar[bool] = True

    samples: int = 1000

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("samples", self.samples, least=1)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Draw, offer, repeat."""
        for _ in range(self.samples):
            run.offer(problem.pattern.draw(problem, run.rng))
            if not run.proceed(1):
                return Status.STOPPED
        return Status.COMPLETED
