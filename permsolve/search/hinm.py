"""Rows into tiles and columns into their groups at once: annealing of HiNM."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from permsolve.patterns.hinm import HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.gyro import OutputPhase, scaled_rows
from permsolve.search.schedule import default_seconds
from permsolve.search.tiles import WIDE, Epoch, Scales, Tiles, effort_of, round_cost
from permsolve.solver import Status

#: Modelled nanoseconds of an epoch on one core: what passes between two looks at the clock.
EPOCH = 5e6
#: Epochs that a schedule has at least, where it has as many rounds.
LEAST_EPOCHS = 100
#: Epochs between two offers: rescoring takes about as long as a round.
OFFER_EVERY = 20
#: Share of the schedule in which rows find together, coming from high temperatures, and share at its end that takes
#: improvements only.
WARM, QUENCH = 0.08, 0.03
#: Stages of the clustering of rows of wide problems: rows taken out of each tile, and failures in a row that end one.
#: Single rows are cheap to place, and do best on matrices without structure.
STAGES = ((8, 3), (4, 3), (1, 60))
#: Share of the schedule that the clustering may take.
CLUSTERING = 0.15
#: What is left of the rate of row moves at the end.
ROW_FALL = 1e-4


def search(problem: Problem, run: Run, *, rows: bool = True, start: float = 1.0) -> Status:
    """Anneal rows and columns of HiNM.

    Parameters
    ----------
    problem
        The problem; its pattern is `permsolve.patterns.hinm.HiNM`.
    run
        The run.
    rows
        Whether rows may leave their tiles.
    start
        Where on the way from the last temperature (0) to the first (1) it begins; below 1 rows are not brought together
        beforehand, so that it keeps much of where it starts.

    Returns
    -------
    Status
        How the search ended.
    """
    return _Search(problem, run, rows, start).solve()


class _Search:
    """One search: where it stands in its schedule, and its best solution."""

    def __init__(self, problem: Problem, run: Run, rows: bool, start: float) -> None:
        self.run, self.rows, self.start = run, problem.rows, start
        given = run.best if run.initial is None else run.initial
        #: Whether the rows are clustered beforehand; afterwards they move only where that gains at once.
        self.wide = effort_of(problem) == WIDE
        cold = start == 1.0 and rows
        self.tiles = Tiles(problem, run, rows, _clustered(problem, run, given) if self.wide and cold else given)
        self.warm = 0.0 if self.wide or start < 1.0 else WARM
        cost = round_cost(problem)
        self.budget = max(int(run.effort * default_seconds(problem) * 1e9 / cost), 20)
        planned = run.remaining() * 1e9 / cost
        planned = min(planned, run.iterations_left(), self.budget if planned == math.inf else math.inf)
        self.rounds = max(int(min(EPOCH / cost, planned / LEAST_EPOCHS)), 1)
        self.done = self.epochs = 0
        self.bias = 0.0  # of row moves; stays until rows have found together
        self.value = self.top = self.tiles.value()
        self.offered = -math.inf  # the start may be new, too
        self.best = self.tiles.rows.copy(), self.tiles.slots.copy()
        self.going = run.proceed()

    def solve(self) -> Status:
        """Work through the schedule."""
        if not self.going:
            self._offer()
            return Status.STOPPED
        scales = self.tiles.scout()
        scales = scales._replace(hot=scales.cold * (scales.hot / scales.cold) ** self.start)
        share = first = self._share()
        step = 0.0
        while self.going and share < 1.0:
            through = ((x - first) / max(1.0 - first, 1e-9) for x in (share, share + step))
            heat = tuple(_temperature(x, self.warm, scales) for x in through)
            epoch = self._epoch((heat[0], heat[1]))
            if not self.wide and share >= self.warm:
                self.bias = self.bias or scales.bias
                self._steer(epoch, heat[0], scales.spread / 16, self.tiles.effort.rate * ROW_FALL**share)
            now = self._share()
            share, step = now, now - share
        self._offer()
        return Status.COMPLETED if self.going or share >= 1.0 else Status.STOPPED

    def _share(self) -> float:
        limit = self.run.progress()
        return self.done / self.budget if limit is None else limit

    def _epoch(self, heat: tuple[float, float]) -> Epoch:
        """Work through an epoch, count it and keep the best solution."""
        rounds = int(max(min(self.rounds, self.run.iterations_left()), 1))
        epoch = self.tiles.epoch(heat, self.bias if heat[0] > 0 else 0.0, rounds)
        self.done += epoch.rounds
        self.epochs += 1
        self.value += epoch.change
        if self.value > self.top:
            self.top = self.value
            self.best[0][:], self.best[1][:] = self.tiles.rows, self.tiles.slots
        if self.epochs % OFFER_EVERY == 0:
            self._offer()
        self.going = self.run.proceed(epoch.rounds)
        return epoch

    def _steer(self, epoch: Epoch, up: float, down: float, rate: float) -> None:
        """Change the bias of row moves so that about as many are accepted as the schedule wants.

        Columns that have not settled after rows moved let further rows move: too large a bias starts an avalanche. It
        grows slowly and falls fast.
        """
        moves = epoch.rounds * self.rows
        surprise = math.log((rate * moves + 0.5) / (epoch.moved * moves + 0.5))
        self.bias += up * min(surprise, 1.0) if surprise > 0 else max(up, down) * max(surprise, -2.0)
        self.bias = max(self.bias, 0.0)

    def _offer(self) -> None:
        if self.top > self.offered:
            self.offered = self.top
            self.run.offer(self.tiles.solution_of(*self.best))


def _temperature(share: float, warm: float, scales: Scales) -> float:
    """Return the temperature at a share of the schedule, of which some warms the rows up."""
    if share < warm:
        return float(scales.unit * (scales.hot / scales.unit) ** (max(share, 0.0) / warm))
    if share > 1 - QUENCH:
        return 0.0
    return float(scales.hot * (scales.cold / scales.hot) ** ((max(share, warm) - warm) / (1 - QUENCH - warm)))


def _clustered(problem: Problem, run: Run, start: HiNMSolution) -> HiNMSolution:
    """Bring rows together that like the same columns, by gyro-permutation's output phase.

    In wide tiles it takes rows longer to find each other than there is time: every one that moves has thousands of
    columns that were chosen for others against it.
    """
    phase = OutputPhase(problem, run, scaled_rows(problem), start.rows)
    for size, tries in STAGES:
        misses = 0
        while size <= phase.rows.shape[1] and phase.possible and misses < tries:
            if not run.proceed() or (run.progress() or 0.0) > CLUSTERING:
                break
            misses = 0 if phase.attempt(size) else misses + 1
    rows: npt.NDArray[np.int64] = phase.rows.reshape(-1)
    return HiNMSolution(rows, phase.columns()) if (rows != start.rows).any() else start
