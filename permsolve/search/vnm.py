"""V:N:M: rows, columns and the columns that every tile keeps, annealed together."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.kernels import vnm as kernel
from permsolve.patterns.vnm import VNM
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.search.vnm_layout import Layout
from permsolve.solver import Status
from permsolve.stop import MaxIterations

Array = npt.NDArray[Any]

#: First and last temperature, in what a column's best exchange costs on average at a local optimum.
START, END = 1.2, 0.08
#: Row exchanges accepted for each row and epoch at the schedule's beginning, and what falls of them until its end.
ROW_RATE, ROW_FALL = 0.3, 3e-3
#: Share of the schedule, at its end, that takes improvements only.
COLD = 0.1
#: A temperature at which nothing but improvements is accepted, in units of the largest entry.
FROZEN = 1e-7
#: Bytes of a window's saliency and thresholds, and the columns that a window has.
WINDOW_BYTES, NARROWEST, WIDEST = 1 << 20, 128, 512
#: Modelled nanoseconds of an epoch of one window, and of the quench that temperatures are measured after.
EPOCH, QUENCH = 1e7, 3e7
#: Epochs that a limit of iterations is divided into, if they are few.
EPOCHS = 100
#: Modelled nanoseconds of a proposal whose gains are memoised.
LOOK_UP = 15.0
#: Epochs between two offers: rescoring takes a pass over what is kept.
OFFER_EVERY = 10


class _Search:
    """One search: the solution at work, the windows of its groups, and where it stands in its schedule."""

    def __init__(self, problem: Problem, run: Run, rows: bool = True) -> None:
        self.problem, self.run = problem, run
        self.layout = Layout(problem, run, rows)
        self.m, self.n, self.lanes = self.layout.m, self.layout.n, self.layout.lanes
        self.sizes = self._window_sizes()
        self.space = [
            kernel.make_window(size, self.m, self.layout.tiles, self.lanes, self.layout.alarm.halt)
            for sizes in self.sizes
            for size in sizes
        ]
        #: Passes over a column's slots that a window may use up in an epoch, and proposals of all windows at most.
        self.budget = max(int(EPOCH / pass_cost(problem)), 100)
        self.proposals = min(EPOCH / LOOK_UP * len(self.space), max(run.iterations_left() / EPOCHS, 1.0))
        self.epochs = max(int(run.effort * default_seconds(problem) * 1e9 / (EPOCH * len(self.space))), 20)
        self.value = self.top = -1.0
        self.bias, self.done = 0.0, 0

    def _window_sizes(self) -> list[list[int]]:
        """Return the groups in each window, by block: a window's data fit into a core's cache."""
        size = 4 * self.layout.tiles * self.lanes * (1 + 4 / self.m)
        width = min(max(WINDOW_BYTES / size, NARROWEST), WIDEST)
        sizes = []
        for span in self.layout.spans:
            count = min(max(1, round(len(span) * self.m / width)), max(len(span) // 2, 1))
            sizes.append([len(part) for part in np.array_split(span, count)])
        return sizes

    def _deal(self) -> list[Array]:
        """Deal the groups of every block into its windows."""
        windows: list[Array] = []
        for span, sizes in zip(self.layout.spans, self.sizes, strict=True):
            dealt = self.run.rng.permutation(span) if len(sizes) > 1 else span
            windows += np.split(dealt, np.cumsum(sizes)[:-1])
        return windows

    def columns(self, temperature: float, budget: int) -> int:
        """Exchange columns in every window and settle choices; return the number of proposals made."""
        layout, windows = self.layout, self._deal()
        seeds = [layout.seed() for _ in windows]
        proposals = int(min(self.proposals, self.run.iterations_left()))
        shares = np.diff(np.linspace(0, proposals, len(windows) + 1).astype(int))

        def work(k: int) -> tuple[float, int]:
            window, groups = self.space[k], windows[k]
            value = kernel.load_window(
                window, layout.data, groups, layout.members, layout.kept, self.n, self.m, self.lanes
            )
            change, made = 0.0, int(shares[k])
            if len(groups) > 1:
                change, _, made = kernel.anneal_columns(
                    window, self.n, self.m, self.lanes, temperature, shares[k], seeds[k], budget
                )
            kernel.store_window(window, groups, layout.members, layout.kept, self.m)
            return value + change, made

        began = time.perf_counter()
        with layout.alarm.watch():
            results = self.run.map(work, range(len(windows)))
        layout.alarm.took(time.perf_counter() - began)
        self.value = float(sum(value for value, _ in results))
        return sum(made for _, made in results)

    def rows(self, temperature: float, rate: float) -> None:
        """Exchange rows, with a bias that steers how many exchanges are accepted."""
        if not self.layout.movable:
            return
        _, accepted = self.layout.move_rows(temperature, self.bias)
        surprise = math.log((rate * self.problem.rows + 0.5) / (accepted + 0.5))
        self.bias = max(self.bias + temperature * min(max(0.5 * surprise, -1.0), 1.0), 0.0)

    def unit(self) -> float:
        """Return what a column's best exchange costs on average, in the first window that has any."""
        layout = self.layout
        for window, groups in zip(self.space, self._deal(), strict=True):
            if len(groups) > 1:
                kernel.load_window(window, layout.data, groups, layout.members, layout.kept, self.n, self.m, self.lanes)
                return max(float(kernel.mean_least_loss(window, self.m, self.lanes)), 1e-6)
        return 1e-6

    def solve(self) -> Status:
        """Work through the schedule."""
        self.layout.choose()
        if not self.layout.movable and all(len(span) == 1 for span in self.layout.spans):
            self.run.offer(self.layout.solution())  # the choice of columns is all there is, and it is exact
            return Status.LOCAL_OPTIMUM
        made = self.columns(FROZEN, int(QUENCH / EPOCH * self.budget))
        self.offer()
        unit, going, share = self.unit(), self.run.proceed(made), 0.0
        while going and share < 1.0:
            heated = share < 1 - COLD
            if heated:
                part = share / (1 - COLD)
                temperature = unit * START * (END / START) ** part
                self.rows(temperature, ROW_RATE * ROW_FALL**part)
            else:
                temperature = FROZEN
                self.layout.move_rows(None)
                self.layout.choose()
            made = self.columns(temperature, self.budget)
            self.done += 1
            going = self.run.proceed(made)
            if not heated or not going or self.done % OFFER_EVERY == 0:
                self.offer()
            limit = self.run.progress()
            share = self.done / self.epochs if limit is None else limit
        return Status.COMPLETED if going else Status.STOPPED

    def offer(self) -> None:
        """Offer what is there if it is better than what was offered before."""
        if self.value > self.top * (1 + 1e-7):
            self.top = self.value
            self.run.offer(self.layout.solution())


def search(problem: Problem, run: Run, *, rows: bool = True) -> Status:
    """Anneal rows, columns and choices of V:N:M.

    An epoch first exchanges rows between tiles, with columns and choices as they are: what a row brings to each of 16
    tiles is a table then, and an exchange four look-ups. Rows freeze long before columns do, since an exchange is
    judged without the choices that would follow from it; a bias keeps some moving. Then columns are exchanged within
    windows of groups that fit the cache, each together with the choices that follow (`permsolve.kernels.vnm`).
    Rows and columns share one temperature, which falls geometrically. The last tenth of the schedule takes improvements
    only, distributes the rows at best and chooses columns exhaustively.

    Temperatures are measured in what a column's best exchange costs on average at a local optimum. An iteration is one
    proposed exchange of columns. Without a limit the schedule has
    ``seconds * 100 / windows`` epochs of 10 modelled milliseconds, with ``seconds = 0.7 * min(cols / 64, 60)`` as for
    other methods, and 20 at least.

    Parameters
    ----------
    problem
        The problem; its pattern is `permsolve.patterns.vnm.VNM`.
    run
        The run.
    rows
        Whether rows may leave their tiles.

    Returns
    -------
    Status
        How the search ended: with a local optimum where the choice of columns is all there is.
    """
    return _Search(problem, run, rows).solve()


def warm_up(problem: Problem) -> None:
    """Compile what `search` uses, on a corner of the problem.

    Parameters
    ----------
    problem
        The problem about to be solved.
    """
    sample = problem.sample()
    run = Run(sample, stop=MaxIterations(4), rng=np.random.default_rng(0))
    run.open()
    search = _Search(sample, run)
    search.layout.choose()
    search.rows(1.0, 0.1)
    search.layout.move_rows(None)
    search.columns(1.0, 100)
    search.unit()


def pass_cost(problem: Problem) -> float:
    """Return the modelled nanoseconds of what a column is worth in the slots of a group.

    Parameters
    ----------
    problem
        The problem; its pattern is V:N:M.

    Returns
    -------
    float
        Nanoseconds of one core.
    """
    assert isinstance(problem.pattern, VNM)
    return 10.0 + 0.12 * problem.rows + 3.0 * problem.rows / problem.pattern.vector
