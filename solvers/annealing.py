"""Simulated annealing: random exchanges of columns in compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.exchanges import Exchanges, exchanges_of
from permsolve.search.schedule import default_seconds
from permsolve.search.windows import NARROWEST, WIDEST, Windows
from permsolve.solver import Solver, Status, check_number, check_whole

Array = npt.NDArray[Any]

#: Modelled nanoseconds of the quench that temperatures are measured after.
QUENCH = 3e7
#: Modelled nanoseconds of an epoch of one window: what passes between two looks at the clock.
EPOCH = 5e6


@dataclass(frozen=True)
class Annealing(Solver):
    """Simulated annealing over exchanges of two columns, in windows that fit the cache.

    Every epoch deals the groups at random into windows of 128 to 512 columns; each window is annealed by itself, on its
    own thread where there are several, at the temperature of the common schedule. Small problems are one window.
    Temperatures are measured in the mean loss of a random exchange at a local optimum, which puts the freezing point of
    very different matrices at about the same place. Each of the cycles starts hot again and is four times as long as
    the one before.

    Without a limit the schedule has ``seconds / cost`` proposals, with ``seconds = 0.7 * min(cols / 64, 60)`` and a
    modelled cost of ``14 + 0.06 * rows + 0.025 * min(cols, 512)`` nanoseconds (``250 + 1.2 * rows`` for the output
    error of groups of up to 4, much more for larger ones: two groups are evaluated anew). With several threads and a
    time limit, a problem of one window is annealed by independent chains.

    On a GPU an iteration is a sweep: every group draws from the Boltzmann distribution over all its exchanges, those on
    which two groups agree are taken (heat-bath dynamics instead of Metropolis proposals), at the same temperatures; a
    descent goes before and another ends it. Narrow problems are annealed from several permutations side by side.

    Parameters
    ----------
    start
        First temperature of a cycle.
    end
        Last temperature.
    reheats
        How many more cycles follow the first.
    """

    source: ClassVar[str] = "Kirkpatrick, Gelatt and Vecchi, Science 220, 1983; exchanges read off thresholds, memoised"
    objectives: ClassVar[tuple[str, ...]] = ("retained", "output_error")
    unit: ClassVar[str] = "one proposed exchange; on a GPU one sweep over all pairs of columns"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    start: float = 0.07
    end: float = 0.024
    reheats: int = 1

    def __post_init__(self) -> None:
        """Validate the options."""
        check_number("start", self.start, least=1e-6, most=1e3)
        check_number("end", self.end, least=1e-6, most=self.start)
        check_whole("reheats", self.reheats, least=0, most=8)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Anneal until the schedule or a limit ends."""
        if run.device != "cpu":
            return self._on_device(problem, run)
        exchanges = exchanges_of(problem)
        windows = Windows(problem, run, exchanges.space)
        unit = _unit(problem, windows, exchanges)
        cost = proposal_cost(problem)
        budget = max(int(run.effort * default_seconds(problem) * 1e9 / cost), 1)
        epoch = max(int(EPOCH / cost), 1024)
        done, share, step = 0, 0.0, 0.0
        while share < 1.0:
            hot, cold = (unit * temperature for temperature in self._temperatures(share, step))
            count = max(int(min(epoch, run.iterations_left() // windows.count, budget)), 1)
            proposed = self._epoch(windows, exchanges, run, (hot, cold), count, epoch)
            done += proposed
            if not run.proceed(proposed):
                return Status.STOPPED
            limit = run.progress()
            now = done / budget if limit is None else limit
            share, step = now, now - share
        return Status.COMPLETED

    def _epoch(
        self, windows: Windows, exchanges: Exchanges, run: Run, heat: tuple[float, float], count: int, budget: int
    ) -> int:
        """Anneal every window once and offer the best states; return the number of proposals."""

        def work(space: Any, order: Array, seed: np.uint64) -> tuple[Array, int]:
            best = np.empty_like(order)
            return best, exchanges.anneal(space, order, best, heat, count, seed, budget)

        proposed = 0
        for chain in windows.epoch(work, lambda order: (order, 0)):
            run.offer(np.concatenate([best for best, _ in chain]))
            proposed += sum(made for _, made in chain)
        return proposed

    def _on_device(self, problem: Problem, run: Run) -> Status:
        from permsolve.search import on_device

        return on_device.anneal(problem, run, lambda share: self._temperatures(share, 0.0)[0])

    def _temperatures(self, share: float, step: float) -> tuple[float, float]:
        """Return the temperatures at a share of the schedule, and a step later."""
        lengths = 4.0 ** np.arange(self.reheats + 1)
        ends = np.cumsum(lengths / lengths.sum())
        cycle = min(int(np.searchsorted(ends, share, side="right")), self.reheats)
        first = ends[cycle] - lengths[cycle] / lengths.sum()
        ratio = self.end / self.start
        at, after = ((min(x, ends[cycle]) - first) / (ends[cycle] - first) for x in (share, share + step))
        return float(self.start * ratio**at), float(self.start * ratio**after)


def proposal_cost(problem: Problem) -> float:
    """Return the modelled nanoseconds of a proposal, the memoised ones and the accepted ones included.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    float
        Nanoseconds of one core.
    """
    if problem.objective != "retained":
        return 250.0 + 0.3 * problem.row_cost * float(problem.packed.shape[1])
    return 14.0 + 0.06 * float(problem.packed.shape[1]) + 0.025 * min(problem.cols, WIDEST)


def _unit(problem: Problem, windows: Windows, exchanges: Exchanges) -> float:
    """Return the mean loss of a random exchange at a local optimum, found by a quench of up to 128 columns."""
    m = windows.m
    groups = windows.run.rng.permutation(problem.groups)[: max(2, NARROWEST // m)]
    order = windows.orders[0].reshape(-1, m)[groups].ravel()
    space = exchanges.space(order.shape[0], windows.alarm.halt)
    best = order.copy()
    cold = 1e-7 * problem.largest  # only improvements and ties are accepted
    rows = problem.packed.shape[1]
    proposals = int(min(10 * order.shape[0] ** 2, QUENCH / (20.0 + 0.15 * rows)))
    with windows.alarm.watch():
        exchanges.anneal(space, order, best, (cold, cold), proposals, windows.seed(), proposals)
    if best.shape[0] == problem.cols:
        windows.run.offer(best)  # the quench of the whole problem is an early answer
    return max(exchanges.mean_loss(space, best, 1000, windows.seed()), 1e-6 * problem.largest)
