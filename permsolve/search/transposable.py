"""Transposable n:m: rows and columns annealed in turn, every block's mask the best one."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from permsolve.kernels import transposable_narrow as narrow
from permsolve.kernels import transposable_wide as wide
from permsolve.patterns.transposable import TransposableSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.alarm import Alarm
from permsolve.search.schedule import default_seconds
from permsolve.solver import Status

Array = npt.NDArray[Any]

#: First and last temperature, in the mean loss of a random exchange at a local optimum.
START, END = 0.05, 0.015
#: Share of the schedule, at its end, that takes improvements only, and its temperature in the same unit.
COLD, FREEZING = 0.1, 1e-4
#: Bytes of a window's saliency and what goes with it; the columns and the groups that a window should have.
WINDOW_BYTES, NARROWEST, WIDEST, FEWEST = 1 << 20, 64, 128, 8
#: Modelled nanoseconds of a phase: the columns or the rows move, and the others wait.
PHASE = 2e7
#: Phases that a search with a limit of iterations has at least.
PHASES = 64
#: Modelled nanoseconds of the quench that temperatures are measured after.
QUENCH = 5e7
#: Random exchanges whose mean loss is the unit of temperature.
SAMPLES = 200
#: Seconds between two offers where time is limited.
OFFER_EVERY = 0.1


class _Job(NamedTuple):
    space: Any
    slots: Array  # where its items are in the permutation
    order: Array
    seed: np.uint64


class _Done(NamedTuple):
    best: Array
    change: float
    top: float
    proposals: int


class _Side:
    """The columns, or the rows of the transpose: what moves while the others wait.

    Parameters
    ----------
    packed
        float32 (items, others): saliency, scaled so that the largest entry is 1.
    order
        int64 (items,): the permutation to start from.
    blocks
        Sizes of consecutive blocks that no item leaves.
    n, m
        The pattern.
    alarm
        Ends kernels with the time.
    """

    def __init__(self, packed: Array, order: Array, blocks: tuple[int, ...], n: int, m: int, alarm: Alarm) -> None:
        self.packed, self.order, self.n, self.m, self.alarm = packed, order, n, m, alarm
        self.narrow = m in (2, 4)
        others = packed.shape[1]
        self.width = max(min(max(WINDOW_BYTES // (12 * others), NARROWEST), WIDEST), FEWEST * m)
        #: For each block its groups, in windows; a block of one group has nothing to exchange.
        self.deals = [
            (start // m, np.array_split(np.arange(size // m), max(1, min(round(size / self.width), size // m // 2))))
            for start, size in zip(np.cumsum((0, *blocks[:-1])), blocks, strict=True)
            if size >= 2 * m
        ]
        self.spaces = [self._space(len(split) * m, others) for _, splits in self.deals for split in splits]
        #: The mean loss of a random exchange; infinite until it is measured.
        self.unit = float("inf")

    @property
    def moves(self) -> bool:
        """Whether anything can be exchanged."""
        return bool(self.spaces)

    @property
    def proposal_cost(self) -> float:
        """Modelled nanoseconds of a proposal, the accepted ones included."""
        blocks = self.packed.shape[1] / self.m
        return float(80.0 + 1.5 * blocks if self.narrow else 28.0 * blocks * self.m**2.3)

    def _space(self, width: int, others: int) -> Any:
        make = narrow.make_narrow if self.narrow else wide.make_wide
        return make(width, others, self.n, self.m, self.alarm.halt)

    def jobs(self, rng: np.random.Generator) -> list[_Job]:
        """Deal the groups of every block into windows anew."""
        jobs: list[_Job] = []
        for first, splits in self.deals:
            deal = first + rng.permutation(sum(len(split) for split in splits))
            for split in splits:
                slots = (deal[split][:, None] * self.m + np.arange(self.m)).ravel()
                seed = np.uint64(rng.integers(2**63))
                jobs.append(_Job(self.spaces[len(jobs)], slots, self.order[slots], seed))
        return jobs

    def anneal(self, job: _Job, others: Array, heat: tuple[float, float], proposals: int) -> _Done:
        """Anneal a window; its order becomes the last state."""
        best = job.order.copy()
        kernel = narrow.anneal_narrow if self.narrow else wide.anneal_wide
        change, top, _, made = kernel(
            job.space, self.packed, others, job.order, best, self.n, self.m, *heat, proposals, job.seed
        )
        return _Done(best, change, top, made)

    def loss(self, job: _Job, others: Array, seed: np.uint64) -> float:
        """Return the mean loss of a random exchange in a window."""
        kernel = narrow.narrow_loss if self.narrow else wide.wide_loss
        return float(kernel(job.space, self.packed, others, job.order, self.n, self.m, SAMPLES, seed))


class Search:
    """Both permutations and the work on them.

    Parameters
    ----------
    problem
        A problem of pattern `Transposable`.
    run
        The run.
    """

    def __init__(self, problem: Problem, run: Run) -> None:
        self.run, self.alarm = run, Alarm(run)
        pattern = problem.pattern
        largest = float(problem.columns.max()) or 1.0
        packed = np.empty(problem.columns.shape, dtype=np.float32)
        np.divide(problem.columns, problem.columns.dtype.type(largest), out=packed, casting="same_kind")
        solution: TransposableSolution = run.best if run.initial is None else run.initial
        common = (pattern.n, pattern.m, self.alarm)
        self.columns = _Side(packed, solution.columns.copy(), problem.blocks or (problem.cols,), *common)
        self.rows = _Side(np.ascontiguousarray(packed.T), solution.rows.copy(), (problem.rows,), *common)
        self.sides = [side for side in (self.columns, self.rows) if side.moves]
        blocks = problem.columns.size / pattern.m**2
        #: Modelled nanoseconds of scoring: a phase should take much longer.
        self.scoring = blocks * (100.0 if pattern.m in (2, 4) else 5.0 * pattern.m**3)
        #: Most proposals of a phase: rows and columns should take turns often, however short the search.
        self.most = max(run.iterations_left() / PHASES, 1.0)
        self.value = self.top = 0.0
        run.offer(solution)
        self._offered_at = -float("inf")

    def others(self, side: _Side) -> Array:
        """Return the permutation that waits while a side moves."""
        return self.rows.order if side is self.columns else self.columns.order

    def measure(self, side: _Side) -> int:
        """Find the unit of a side's temperatures: quench one window, and see what random exchanges cost there."""
        job = side.jobs(self.run.rng)[0]
        count = int(min(20 * len(job.order) ** 2, QUENCH / side.proposal_cost, self.most))
        seed = np.uint64(self.run.rng.integers(2**63))
        with self.alarm.watch():
            done = side.anneal(job, self.others(side), (1e-7, 1e-7), max(count, 1))
            loss = side.loss(job, self.others(side), seed)
        side.order[job.slots] = job.order
        self.value += done.change
        side.unit = max(loss, 1e-6)
        self.offer(side, side.order, self.value)
        return done.proposals

    def phase(self, side: _Side, heat: tuple[float, float]) -> int:
        """Anneal all windows of a side once; return the number of proposals."""
        jobs = side.jobs(self.run.rng)
        jobs = jobs[: int(min(len(jobs), self.run.iterations_left()))]
        length = max(PHASE, 10.0 * self.scoring / len(side.spaces))
        left = min(self.run.iterations_left(), self.most)
        count = max(int(min(length / side.proposal_cost, left / len(jobs))), 1)
        others = self.others(side)
        began = time.perf_counter()
        deadline = began + self.run.remaining()
        hot, cold = (side.unit * temperature for temperature in heat)

        def task(job: _Job) -> _Done:
            if time.perf_counter() >= deadline:
                return _Done(job.order, 0.0, 0.0, 0)
            return side.anneal(job, others, (hot, cold), count)

        with self.alarm.watch():
            results = self.run.map(task, jobs)
        self.alarm.took(time.perf_counter() - began)
        best = side.order.copy()
        for job, done in zip(jobs, results, strict=True):
            best[job.slots] = done.best
            side.order[job.slots] = job.order
        self.offer(side, best, self.value + sum(done.top for done in results))
        self.value += sum(done.change for done in results)
        return sum(done.proposals for done in results)

    def offer(self, side: _Side, best: Array, value: float, last: bool = False) -> None:
        """Offer a state that is better than the last one offered; not too often where time is short."""
        now = time.perf_counter()
        late = not self.run.timed or last or now - self._offered_at >= OFFER_EVERY or self.run.remaining() < 0.1
        if value <= self.top or not late:
            return
        self.top, self._offered_at = value, now
        rows, columns = (best, self.columns.order) if side is self.rows else (self.rows.order, best)
        self.run.offer(TransposableSolution(rows, columns))


def search(problem: Problem, run: Run) -> Status:
    """Anneal exchanges of columns and exchanges of rows in alternating phases, at one schedule of temperatures.

    While the rows wait, the score is a sum over groups of columns, so that windows of some groups, dealt at random in
    every phase, are annealed side by side and put together exactly; and the other way round.

    Without a limit the schedule has ``seconds / cost`` proposals, ``seconds`` those of `default_seconds` and ``cost``
    the modelled time of a proposal.

    Parameters
    ----------
    problem
        A problem of pattern `Transposable`.
    run
        The run.

    Returns
    -------
    Status
        How the search ended.
    """
    state = Search(problem, run)
    if not state.sides:
        return Status.LOCAL_OPTIMUM
    for side in state.sides:
        if not run.proceed(state.measure(side)):
            return Status.STOPPED
    mean_cost = sum(side.proposal_cost for side in state.sides) / len(state.sides)
    budget = max(int(run.effort * default_seconds(problem) * 1e9 / mean_cost), 1)
    done, share, step, turn = 0, 0.0, 0.0, 0
    while share < 1.0:
        side = state.sides[turn % len(state.sides)]
        proposed = state.phase(side, (temperature(share), temperature(share + step)))
        done, turn = done + proposed, turn + 1
        if not run.proceed(proposed):
            state.offer(side, side.order, state.value, last=True)
            return Status.STOPPED
        limit = run.progress()
        now = done / budget if limit is None else limit
        share, step = now, now - share
    state.offer(side, side.order, state.value, last=True)
    return Status.COMPLETED


def temperature(share: float) -> float:
    """Return the temperature at a share of the schedule, in the unit of a side.

    Parameters
    ----------
    share
        From 0 to 1, or a little more.

    Returns
    -------
    float
        The temperature.
    """
    if share >= 1.0 - COLD:
        return FREEZING
    return float(START * (END / START) ** (share / (1.0 - COLD)))
