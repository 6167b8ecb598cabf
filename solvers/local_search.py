"""Iterated local search: exchange descent, pair re-matching, perturbation, restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve.kernels.anneal import Window
from permsolve.kernels.ils import iterate_window
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.exchange import tolerance
from permsolve.search.matching import rematch
from permsolve.search.schedule import default_seconds
from permsolve.search.windows import Windows
from permsolve.solver import Solver, Status, check_whole

Array = npt.NDArray[Any]

#: Modelled nanoseconds of an epoch of all windows: what passes between two looks at the clock.
EPOCH = 2e7


@dataclass(frozen=True)
class LocalSearch(Solver):
    """Iterated local search over exchanges of two columns.

    Every group's best exchange is applied until none improves. Then small perturbations (kicks), which rotate columns
    through a few random groups, alternate with descents from the groups they touched; what is not worse is kept. After
    every epoch of kicks the groups are split into halves at random and the halves are matched anew by maximum-weight
    matching (even m only). Wide problems are worked on in windows, as in `annealing`. When the incumbent has not
    improved for ``patience`` epochs, the search starts again from a random permutation.

    Without a limit it makes ``seconds / cost`` kicks, with ``seconds = 0.7 * min(cols / 64, 60)`` and a modelled cost
    of ``2 * m * width * (rows + 60)`` nanoseconds in windows of ``width`` columns.

    Parameters
    ----------
    strength
        Groups that a kick rotates columns through.
    patience
        Epochs without improvement before a restart.
    """

    source: ClassVar[str] = (
        "Lourenco, Martin and Stutzle, Handbook of Metaheuristics, 2003; matching: Edmonds, 1965, by rustworkx"
    )
    unit: ClassVar[str] = "one kick and the descent after it"

    strength: int = 4
    patience: int = 400

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("strength", self.strength, least=2, most=16)
        check_whole("patience", self.patience, least=1)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Search until the schedule or a limit ends."""
        windows = Windows(problem, run)
        width = problem.cols * len(windows.orders) / windows.count
        cost = 2.0 * windows.m * width * (problem.packed.shape[1] + 60)
        budget = max(int(run.effort * default_seconds(problem) * 1e9 / cost), 1)
        epoch = max(int(EPOCH / (cost * windows.count)), 4)
        least = tolerance(problem)
        done = idle = 0
        share = 0.0
        while share < 1.0:
            improved = self._rematch(problem, windows, run)
            count = max(int(min(epoch, run.iterations_left() // windows.count, budget)), 1)
            kicked, better = self._epoch(windows, run, count, least)
            done += kicked
            if not run.proceed(kicked):
                return Status.STOPPED
            idle = 0 if improved or better else idle + 1
            if idle >= self.patience:
                idle = 0
                windows.orders = [run.rng.permutation(problem.cols) for _ in windows.orders]
            limit = run.progress()
            share = done / budget if limit is None else limit
        return Status.COMPLETED

    def _rematch(self, problem: Problem, windows: Windows, run: Run) -> bool:
        """Match halves of the groups anew; return whether the incumbent improved."""
        windows.orders = [rematch(problem, order, run.rng) for order in windows.orders]
        improved = [run.offer(order) for order in windows.orders]
        return any(improved)

    def _epoch(self, windows: Windows, run: Run, count: int, least: float) -> tuple[int, bool]:
        """Kick every window ``count`` times; return the number of kicks and whether the incumbent improved."""

        def work(window: Window, order: Array, seed: np.uint64) -> int:
            n, m = windows.n, windows.m
            _, made = iterate_window(window, windows.packed, order, n, m, count, self.strength, least, seed)
            return int(made)

        kicked = sum(sum(chain) for chain in windows.epoch(work, lambda order: 0))
        improved = [run.offer(order) for order in windows.orders]
        return kicked, any(improved)
