"""Simulated annealing: random exchanges of columns in compiled code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels.anneal import Window, anneal_window, make_window, mean_loss
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.solver import Solver, Status, check_number, check_whole

Array = npt.NDArray[Any]

#: A window's saliency and thresholds should stay in a core's second-level cache.
WINDOW_BYTES = 1 << 20
NARROWEST, WIDEST = 128, 512
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

    Without a limit the schedule has ``seconds / cost`` proposals, with ``seconds = min(cols / 64, 60)`` and a modelled
    cost of ``6 + 0.12 * rows`` nanoseconds. With several threads and a time limit, a problem of one window is
    annealed by independent chains.

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
    unit: ClassVar[str] = "one proposed exchange"

    start: float = 0.065
    end: float = 0.022
    reheats: int = 1

    def __post_init__(self) -> None:
        """Validate the options."""
        check_number("start", self.start, least=1e-6, most=1e3)
        check_number("end", self.end, least=1e-6, most=self.start)
        check_whole("reheats", self.reheats, least=0, most=8)

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Anneal until the schedule or a limit ends."""
        anneal = _Annealer(problem, run)
        budget = default_proposals(problem)
        unit = anneal.calibrate()
        done, share, step = 0, 0.0, 0.0
        while share < 1.0:
            hot, cold = self._temperatures(share, step)
            count = int(min(anneal.epoch, run.iterations_left() / anneal.windows, budget))
            done += anneal.epoch_of(max(count, 1), unit * hot, unit * cold)
            if not run.proceed(anneal.proposed):
                return Status.STOPPED
            limit = run.progress()
            now = done / budget if limit is None else limit
            share, step = now, now - share
        return Status.COMPLETED

    def _temperatures(self, share: float, step: float) -> tuple[float, float]:
        """Return the temperatures at a share of the schedule, and a step later."""
        lengths = 4.0 ** np.arange(self.reheats + 1)
        ends = np.cumsum(lengths / lengths.sum())
        cycle = min(int(np.searchsorted(ends, share, side="right")), self.reheats)
        first = ends[cycle] - lengths[cycle] / lengths.sum()
        ratio = self.end / self.start
        at, after = ((min(x, ends[cycle]) - first) / (ends[cycle] - first) for x in (share, share + step))
        return float(self.start * ratio**at), float(self.start * ratio**after)


def default_proposals(problem: Problem) -> int:
    """Return the number of proposals of the schedule without limits.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    int
        Proposals.
    """
    return int(min(problem.cols / 64, 60.0) * 1e9 / _cost(problem))


def _cost(problem: Problem) -> float:
    """Return the modelled nanoseconds of a proposal; memoised ones are much cheaper."""
    return 6.0 + 0.12 * problem.packed.shape[1]


class _Job(NamedTuple):
    window: Window
    columns: Array
    seed: np.uint64


class _Annealer:
    """The chains of one solve and their windows."""

    def __init__(self, problem: Problem, run: Run) -> None:
        self.packed, self.run = problem.packed, run
        self.n, self.m = problem.pattern.n, problem.pattern.m
        rows = self.packed.shape[1]
        width = min(max(WINDOW_BYTES // (8 * rows), NARROWEST), WIDEST)
        count = max(1, round(problem.cols / width))
        count = min(count, max(problem.groups // 2, 1))  # a window needs two groups to exchange between
        chains = run.n_jobs if count == 1 and run.timed else 1
        self.splits = np.array_split(np.arange(problem.groups), count)
        self.orders = [run.best for _ in range(chains)]
        self.jobs = [
            make_window(len(split) * self.m, rows, self.n, self.m) for _ in range(chains) for split in self.splits
        ]
        self.windows = len(self.jobs)
        self.epoch = max(int(EPOCH / _cost(problem)), 1024)
        self.proposed = 0

    def calibrate(self) -> float:
        """Return the mean loss of a random exchange at a local optimum, found by a quench of one window."""
        window = self.jobs[0]
        groups = self.splits[0][: max(2, NARROWEST // self.m)]
        columns = self.run.rng.permutation(self.orders[0].reshape(-1, self.m))[: len(groups)].ravel()
        if len(groups) < len(self.splits[0]):
            window = make_window(columns.shape[0], self.packed.shape[1], self.n, self.m)
        best = columns.copy()
        cold = 1e-7  # of the largest entry: only improvements and ties are accepted
        anneal_window(
            window, self.packed, columns, best, self.n, self.m, cold, cold, 10 * columns.shape[0] ** 2, self._seed()
        )
        unit = mean_loss(window, self.packed, best, self.n, self.m, 1000, self._seed())
        return max(float(unit), 1e-6)

    def epoch_of(self, proposals: int, start: float, end: float) -> int:
        """Anneal every window once, offer the best states, and return the proposals made by a chain."""
        jobs, deals = [], []
        for order in self.orders:
            groups = order.reshape(-1, self.m)
            deal = self.run.rng.permutation(len(groups)) if len(self.splits) > 1 else np.arange(len(groups))
            deals.append(deal)
            for split in self.splits:
                jobs.append(_Job(self.jobs[len(jobs)], groups[deal[split]].ravel(), self._seed()))
        deadline = time.perf_counter() + self.run.remaining()

        def task(job: _Job) -> tuple[Array, Array, int]:
            if time.perf_counter() >= deadline:
                return job.columns, job.columns, 0
            order, best = job.columns.copy(), job.columns.copy()
            anneal_window(job.window, self.packed, order, best, self.n, self.m, start, end, proposals, job.seed)
            return order, best, proposals

        results = self.run.map(task, jobs)
        self.proposed = sum(count for _, _, count in results)
        per_chain = len(self.splits)
        for chain in range(len(self.orders)):
            mine = results[chain * per_chain : (chain + 1) * per_chain]
            self.orders[chain] = np.concatenate([order for order, _, _ in mine])
            self.run.offer(np.concatenate([best for _, best, _ in mine]))
        return self.proposed // len(self.orders)

    def _seed(self) -> np.uint64:
        return np.uint64(self.run.rng.integers(2**63))
