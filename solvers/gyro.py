"""Gyro-permutation, the method that HiNM was published with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from permsolve.errors import OptionError
from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.gyro import InputPhase, OutputPhase, scaled_rows
from permsolve.solver import Solver, Status, check_whole

#: Sweeps of the input phase between two offers.
OFFER_SWEEPS = 16
#: Seconds between two offers where time is limited.
OFFER_SECONDS = 0.1


@dataclass(frozen=True)
class Gyro(Solver):
    """Gyro-permutation: output channels into tiles, then the kept columns of each tile into groups.

    Output phase: some random rows are taken out of every tile and put together in as many balanced clusters; an
    assignment gives each tile a cluster such that the vector step drops least, and is kept where that is less than
    before. Input phase, in every tile: a random column is taken out of each group, and an assignment puts them back
    such that n:m drops least.

    Parameters
    ----------
    samples
        How many rows are taken out of a tile in the stages of the output phase: whole numbers with commas between them.
        Numbers above the rows of a tile are skipped; without any there is no output phase.
    tries
        Attempts in a row without success that end a stage of the output phase.
    failures
        Assignments in a row without success that end the input phase of a tile; with 0 there is none.
    """

    source: ClassVar[str] = "gyro-permutation: Yu et al., 2024, arXiv 2407.20496"
    unit: ClassVar[str] = "one assignment: of clusters of rows to tiles, then of columns to groups in every tile"
    patterns: ClassVar[tuple[str, ...]] = ("hinm",)

    samples: str = "8,1,4,1,2,1,1"
    tries: int = 3
    failures: int = 3

    def __post_init__(self) -> None:
        """Validate the options."""
        if not isinstance(self.samples, str) or not all(part.isdecimal() and int(part) for part in self._stages()):
            raise OptionError(
                f"option samples = {self.samples!r} must be whole numbers of at least 1 with commas between them, "
                f"for example '8,1,4,1'"
            )
        check_whole("tries", self.tries, least=1)
        check_whole("failures", self.failures, least=0)

    def _stages(self) -> list[str]:
        return [part.strip() for part in self.samples.split(",")] if self.samples.strip() else []

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Run both phases, one after the other."""
        data = scaled_rows(problem)
        start = run.best if run.initial is None else run.initial
        output = OutputPhase(problem, run, data, start.rows)
        goes_on = self._output_phase(output, run)
        changed = bool((output.rows.reshape(-1) != start.rows).any())
        solution = HiNMSolution(output.rows.reshape(-1), output.columns()) if changed else start
        run.offer(solution)
        if not goes_on or not run.proceed():
            return Status.STOPPED
        return self._input_phase(InputPhase(problem, run, data, solution, self.failures), run)

    def _output_phase(self, output: OutputPhase, run: Run) -> bool:
        """Go through the stages; return whether the search may go on."""
        for size in map(int, self._stages()):
            misses = 0
            while size <= output.rows.shape[1] and output.possible and misses < self.tries:
                if not run.proceed():
                    return False
                misses = 0 if output.attempt(size) else misses + 1
                if not run.proceed(1):
                    return False
        return True

    def _input_phase(self, phase: InputPhase, run: Run) -> Status:
        sweeps, offered = 0, time.perf_counter()
        while phase.active.size:
            phase.sweep()
            sweeps += 1
            # Offers cost time, but must not depend on the clock where the result should not.
            late = run.timed and time.perf_counter() - offered > OFFER_SECONDS
            if late or sweeps % OFFER_SWEEPS == 0:
                run.offer(phase.solution)
                offered = time.perf_counter()
            if not run.proceed(1):
                run.offer(phase.solution)
                return Status.STOPPED
        run.offer(phase.solution)
        return Status.COMPLETED

    def warm_up(self, problem: Problem) -> None:
        """Make one step of each phase on a corner of the problem: a short run would end in the first."""
        import numpy as np

        sample = problem.sample()
        run = Run(sample, stop=None, rng=np.random.default_rng(0))
        assert isinstance(sample.pattern, HiNM)
        data, start = scaled_rows(sample), sample.start
        OutputPhase(sample, run, data, start.rows).attempt(min(2, sample.pattern.vector))
        InputPhase(sample, run, data, start, 1).sweep()
