"""The LP bound of wide matrices, whose groups are too many to store.

Column generation with heuristic pricing finds duals near the LP's optimum: groups climb to large reduced costs by
exchanging one member at a time. Then one streaming pass looks at every group; those that exceed their duals either join
the LP for another round, or the duals of their members are raised until none does. Raising creates no new violation,
so what is left is feasible, and proved.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.certificates import Certificate
from permsolve.partition import glop
from permsolve.partition.quantise import Quantised, total
from permsolve.problem import Problem
from permsolve.run import Run

Array = npt.NDArray[Any]

#: Steps (a row of a group) that one core makes in a second in the streaming pass.
SPEED = 1.8e10
#: Last members that a prefix costs as much as, however few follow.
SHORTEST = 64
#: Most steps of a pass that will be begun: about an hour of two cores.
MOST_STEPS = 1e14
#: Steps between two looks at the clock.
CHUNK = 4e8
#: Hits kept of one chunk; beyond it all duals are raised and the pass begins anew.
CAPACITY = 1 << 18
#: Rounds of column generation, and groups in the restricted LP after a clearing, per column.
MOST_ROUNDS, PER_COLUMN = 40, 12
#: The rounds end when one lowers the LP's duals by less than this share of their sum.
SETTLED = 1e-5


def out_of_reach(problem: Problem) -> str | None:
    """Say why a bound cannot be proved by looking at all groups, or None if it can.

    Parameters
    ----------
    problem
        The problem, without blocks.

    Returns
    -------
    str or None
        The reason, or None.
    """
    steps = _steps(problem.rows, problem.cols, problem.pattern.m)
    if steps <= MOST_STEPS and problem.cols < 2**15:
        return None
    count, m = math.comb(problem.cols, problem.pattern.m), problem.pattern.m
    return (
        f"{count:.2g} groups of {m} among {problem.cols} columns of {problem.rows} rows would take "
        f"{steps / SPEED / 3600:.2g} core-hours; the rows bound (bound='rows') is there at any size"
    )


def _steps(rows: int, cols: int, m: int) -> float:
    """Return the modelled steps of a pass: every group, and what a prefix costs that few last members follow."""
    return rows * float(math.comb(cols, m) + SHORTEST * math.comb(cols, m - 1))


def bound(problem: Problem, run: Run) -> None:
    """Search for good duals, prove them feasible, and offer their bound.

    Parameters
    ----------
    problem
        A problem without blocks whose groups cannot be stored.
    run
        Takes the bound; one iteration is a round of column generation or a pass.
    """
    quantised = Quantised.of(problem)
    one_pass = _steps(quantised.rows, quantised.cols, quantised.m) / SPEED / run.n_jobs
    if run.remaining() < 1.3 * one_pass:
        return
    # A second pass, after the violations of the first have joined the LP, is worth its time where there is some.
    search = Duals(quantised, run, reserve=1.3 * one_pass)
    search.generate()
    while run.proceed(1):
        violations = sweep(quantised, search.prices, run)
        if isinstance(violations, float):
            search.prices = search.prices + violations  # too many to list: raise all duals a little, and again
            continue
        if violations is None:
            return
        prices = repair(quantised, search.prices, violations)
        certificate = Certificate(quantised.exponent, tuple(int(price) for price in prices))
        before = search.best
        search.best = min(before, total(prices))
        run.offer_bound(quantised.bound(total(prices)), certificate)
        enough = before < math.inf and before - search.best < SETTLED * search.best
        if enough or not len(violations) or run.remaining() < 1.6 * one_pass:
            return
        search.join(violations)
        search.generate()


class Duals:
    """Duals by column generation with heuristic pricing.

    Parameters
    ----------
    quantised
        The saliency in integers.
    run
        Limits the time.
    reserve
        Seconds that must be left for the pass.
    """

    def __init__(self, quantised: Quantised, run: Run, reserve: float) -> None:
        self.quantised, self.run, self.reserve = quantised, run, reserve
        self.best = math.inf
        m, n = quantised.m, quantised.n
        cols = quantised.cols
        level = np.sort(quantised.columns, axis=0)[cols - cols // m * n]
        #: The duals that prove the rows bound: feasible, and the origin that GLOP's values are measured from.
        self.origin = np.ceil(np.maximum(quantised.columns - level, 0.0).sum(axis=1) + n * level.sum() / m)
        self.prices = self.origin
        self.pool = np.arange(cols).reshape(-1, m)
        self._value = math.inf

    def join(self, groups: Array) -> None:
        """Add groups to the restricted LP.

        Parameters
        ----------
        groups
            Integers (count, m).
        """
        self.pool = np.unique(np.concatenate([self.pool, np.sort(groups, axis=1).astype(np.int64)]), axis=0)

    def generate(self) -> None:
        """Run rounds of column generation until the LP settles."""
        run = self.run
        self.join(self._climb(self._starts(4), self.origin)[0])
        settled = 0
        for _ in range(MOST_ROUNDS):
            if run.remaining() < self.reserve or not run.proceed(1):
                return
            costs = self.quantised.worth(self.pool) - self.origin[self.pool].sum(axis=1)
            scale = float(np.abs(costs).mean()) or 1.0
            solution = glop.maximise(self.pool, costs / scale, self.quantised.cols, run.remaining())
            if solution is None:
                return
            current = np.ceil(self.origin + solution.duals * scale)
            middle = np.ceil((current + self.prices) / 2) if self._value < math.inf else current
            self.prices = current
            support = self.pool[solution.taken > 1e-9]
            reduced = self.quantised.worth(self.pool) - current[self.pool].sum(axis=1)
            if len(self.pool) > PER_COLUMN * self.quantised.cols:
                keep = np.argsort(-reduced)[: PER_COLUMN * self.quantised.cols // 2]
                self.pool = self.pool[np.union1d(keep, np.flatnonzero(solution.taken > 1e-9))]
            starts = np.concatenate([self._starts(2), self._shaken(support)])
            joined = 0
            for trial in (current, middle):
                groups, found = self._climb(starts.copy(), trial)
                better = groups[found > 1e-9 * abs(float(current.sum())) / len(current)]
                joined += len(better)
                if len(better):
                    self.join(better)
            value = float(self.origin.sum()) + solution.value * scale
            settled = settled + 1 if abs(value - self._value) < SETTLED * abs(value) else 0
            self._value = value
            if not joined or settled >= 3:
                return

    def _starts(self, each: int) -> Array:
        """Return random groups, ``each`` of them for every column."""
        cols, m = self.quantised.cols, self.quantised.m
        rng = self.run.rng
        orders = [rng.permutation(cols)[: cols // m * m].reshape(-1, m) for _ in range(each * m)]
        return np.concatenate(orders)

    def _shaken(self, support: Array) -> Array:
        """Return groups of the LP's support with one member exchanged at random."""
        shaken = support.copy()
        rng = self.run.rng
        slots = rng.integers(shaken.shape[1], size=len(shaken))
        fresh = rng.integers(self.quantised.cols, size=len(shaken))
        free = (shaken != fresh[:, None]).all(axis=1)
        shaken[np.arange(len(shaken))[free], slots[free]] = fresh[free]
        return shaken

    def _climb(self, starts: Array, prices: Array) -> tuple[Array, Array]:
        """Climb from every start; return distinct groups and their reduced costs."""
        from permsolve.kernels.stream import ascend

        pieces = np.array_split(starts, max(len(starts) // 64, 1))
        deadline = time.perf_counter() + self.run.remaining() - self.reserve

        def work(piece: Array) -> tuple[Array, Array]:
            costs = np.full(len(piece), -np.inf)
            if time.perf_counter() < deadline:
                ascend(self.quantised.columns, prices, self.quantised.n, piece, costs)
            return piece, costs

        answers = self.run.map(work, [np.ascontiguousarray(piece) for piece in pieces])
        groups = np.sort(np.concatenate([groups for groups, _ in answers]), axis=1)
        costs = np.concatenate([costs for _, costs in answers])
        groups, where = np.unique(groups, axis=0, return_index=True)
        return groups, costs[where]


def sweep(quantised: Quantised, prices: Array, run: Run) -> Array | float | None:
    """Look at every group and return those that exceed their duals.

    Parameters
    ----------
    quantised
        The saliency in integers.
    prices
        Integer-valued float64 (cols,): the duals.
    run
        Threads and limits.

    Returns
    -------
    numpy.ndarray, float or None
        int64 (count, m), by falling violation. Where they are too many to list: by how much to raise all duals before
        trying again. None where a limit came first.
    """
    from permsolve.kernels.stream import hits_from

    cols, rows, m = quantised.cols, quantised.rows, quantised.m
    fine, raised, floors, (small, coarse) = _rounded(quantised, prices)
    found: list[Array] = []

    def work(task: tuple[int, int, int]) -> Array | float:
        groups = np.empty((CAPACITY, m), dtype=np.int16)
        count = hits_from(fine, raised, floors, coarse, *task, quantised.n, m, groups)
        hits = groups[: min(count, CAPACITY)].astype(np.int64)
        excess = quantised.worth(hits) - prices[hits].sum(axis=1)
        if count > CAPACITY:
            return float(np.ceil(max(float(np.median(excess)), 2.0 ** (coarse + small)) / m))
        return np.asarray(hits[excess > 0])

    tasks = _tasks(cols, rows, m)
    batch = 4 * run.n_jobs
    for start in range(0, len(tasks), batch):
        answers = run.map(work, tasks[start : start + batch])
        lifts = [answer for answer in answers if isinstance(answer, float)]
        if not run.proceed():
            return None
        if lifts:
            return max(lifts)
        found += [answer for answer in answers if not isinstance(answer, float) and len(answer)]
    groups = np.concatenate(found) if found else np.empty((0, m), dtype=np.int64)
    order = np.argsort(prices[groups].sum(axis=1) - quantised.worth(groups), kind="stable")
    return np.asarray(groups[order])


def _rounded(quantised: Quantised, prices: Array) -> tuple[Array, Array, Array, tuple[int, int]]:
    """Return the entries in 32 and 16 bits, rounded up, the duals in the first unit, rounded down, and the exponents.

    What a last member adds to a group near its duals is well below one dual: 16 bits hold the largest dual.
    """
    from permsolve.kernels.stream import BLOCK

    columns, rows = quantised.columns, quantised.rows
    largest = max(float(columns.max()) * quantised.n * rows, float(prices.max()))
    small = max(math.frexp(largest)[1] - 30, 0)
    coarse = max(math.frexp(max(float(prices.max()), float(columns.max())) / 65535)[1] - small, 0)
    fine = np.ceil(np.ldexp(columns, -small)).astype(np.int32)
    raised = np.zeros((rows, -(-quantised.cols // BLOCK) * BLOCK), dtype=np.uint16)
    raised[:, : quantised.cols] = -(-fine.T >> coarse)
    return fine, raised, np.floor(np.ldexp(prices, -small)).astype(np.int64), (small, coarse)


def _tasks(cols: int, rows: int, m: int) -> list[tuple[int, int, int]]:
    """Cut the groups into pieces by their two smallest members: first, and a range of the second."""
    if m == 2:
        return [(first, 0, 0) for first in range(cols - 1)]
    tasks = []
    for first in range(cols - m + 1):
        start, steps = first + 1, 0.0
        for second in range(first + 1, cols - m + 2):
            steps += math.comb(cols - 1 - second, m - 2) * rows
            if steps > CHUNK or second == cols - m + 1:
                tasks.append((first, start, second))
                start, steps = second + 1, 0.0
    return tasks


def repair(quantised: Quantised, prices: Array, violations: Array) -> Array:
    """Raise duals by as little as possible in total until no group of a list exceeds its own.

    Parameters
    ----------
    quantised
        The saliency in integers.
    prices
        Integer-valued float64 (cols,).
    violations
        int64 (count, m): all groups that exceed their duals, the worst first.

    Returns
    -------
    numpy.ndarray
        Feasible duals.
    """
    raised = prices.copy()
    values = quantised.worth(violations)
    excess = values - prices[violations].sum(axis=1)
    if len(violations):
        unit = float(excess.max())
        least = glop.cheapest_raise(violations, excess / unit, len(prices))
        if least is not None:
            raised += np.floor(np.maximum(least, 0.0) * unit)
    m = violations.shape[1]
    for group, value in zip(violations, values, strict=True):  # what rounding left over, or all of it
        missing = value - raised[group].sum()
        if missing > 0:
            raised[group] += math.ceil(missing / m)
    return raised


def warm_up() -> None:
    """Compile the kernels of the pass and of the search for duals."""
    problem = Problem.of(np.random.RandomState(0).rand(5, 12))
    run = Run(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    bound(problem, run)
