"""Exhaustive regrouping of stripe groups, with bounded regressions."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve.kernels.stripes import best_regroupings
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.exchange import tolerance
from permsolve.search.start import starting_order
from permsolve.solver import Solver, Status, check_whole

Array = npt.NDArray[Any]

#: Regroupings of one stripe that can still be enumerated.
MOST_REGROUPINGS = 10_000
#: Columns up to which stripes of three groups cover the whole matrix at once (Pool and Yu, 2021).
WIDEST_TRIPLES = 512
#: Stripes that are looked at together when a sweep applies the best.
RANKED = 1024


@dataclass(frozen=True)
class StripeGroups(Solver):
    """Sweeps over all sets of two or three groups, each regrouped exhaustively, with escapes from local optima.

    A sweep finds the best regrouping of every stripe, ranks them once and applies the improving ones best first,
    skipping any that touches a group already changed in the sweep; afterwards only stripes of changed groups are
    evaluated again. When none improves, an escape takes a random stripe's best regrouping and exchanges two of its
    channels. Beyond 512 columns, stripes of three groups are used within halves (or quarters, ...) of the groups and
    then stripes of two groups on all of them.

    Parameters
    ----------
    groups
        Groups in a stripe: 2 or 3 (the paper names them by columns, for 2:4 as 8 and 12).
    escapes
        How many escapes may follow the first descent (the paper's bounded regressions).
    """

    source: ClassVar[str] = "Pool and Yu, NeurIPS 2021"
    unit: ClassVar[str] = "one sweep over the stripes"

    groups: int = 2
    escapes: int = 100

    def __post_init__(self) -> None:
        """Validate the options."""
        check_whole("groups", self.groups, least=2, most=3)
        check_whole("escapes", self.escapes, least=0)

    def supports(self, problem: Problem) -> str | None:
        """Refuse patterns whose stripes have too many regroupings, and problems narrower than a stripe."""
        count = regroupings(self.groups, problem.pattern.m)
        if count > MOST_REGROUPINGS:
            return (
                f"a stripe of {self.groups} groups of {problem.pattern.m} has {count:,} regroupings, "
                f"more than {MOST_REGROUPINGS:,}"
            )
        if problem.groups < self.groups:
            return f"a stripe of {self.groups} groups needs at least as many; the problem has {problem.groups}"
        return None

    def __call__(self, problem: Problem, run: Run) -> Status:
        """Descend, escape, repeat."""
        order = starting_order(run)
        if self.groups == 3 and problem.groups * max(problem.pattern.m, 4) > WIDEST_TRIPLES:
            for part in _parts(problem.groups, problem.pattern.m):
                descent = _Descent(problem, run, 3, order, part)
                if descent.descend() is Status.STOPPED:
                    return Status.STOPPED
                order = descent.order
            return _Descent(problem, run, 2, order).search(self.escapes)
        return _Descent(problem, run, self.groups, order).search(self.escapes)


def regroupings(k: int, m: int) -> int:
    """Return the number of ways to divide k * m columns into k groups of m.

    Parameters
    ----------
    k
        Groups.
    m
        Group size.

    Returns
    -------
    int
        ``(k m)! / (m! ** k * k!)``.
    """
    ways: int = math.factorial(k * m) // (math.factorial(m) ** k * math.factorial(k))
    return ways


@cache
def _tables(k: int, m: int) -> tuple[Array, Array]:
    """Return the subsets and partitions that `best_regroupings` reads; partition 0 is the one in order."""
    subsets: dict[tuple[int, ...], int] = {}
    partitions: list[list[int]] = []

    def divide(rest: tuple[int, ...], chosen: list[int]) -> None:
        if not rest:
            partitions.append(chosen)
            return
        first, others = rest[0], rest[1:]
        for more in itertools.combinations(others, m - 1):
            group = (first, *more)
            index = subsets.setdefault(group, len(subsets))
            divide(tuple(x for x in others if x not in more), [*chosen, index])

    divide(tuple(range(k * m)), [])
    return np.array(list(subsets), dtype=np.int64), np.array(partitions, dtype=np.int64)


def _parts(groups: int, m: int) -> list[Array]:
    """Halve the groups until each part has at most `WIDEST_TRIPLES` columns."""
    parts = [np.arange(groups)]
    while max(len(part) for part in parts) * max(m, 4) > WIDEST_TRIPLES:  # narrow groups are as many as those of 4
        parts = [half for part in parts for half in np.array_split(part, 2)]
    return parts


def _stripes(groups: Array, k: int) -> Array:
    """Return all sets of k groups, (count, k), in lexicographic order."""
    stripes = np.arange(len(groups))[:, None]
    for _ in range(k - 1):
        last = stripes[:, -1]
        more = len(groups) - 1 - last  # how many groups follow the last
        position = np.arange(more.sum()) - np.repeat(np.cumsum(more) - more, more)
        stripes = np.column_stack([np.repeat(stripes, more, axis=0), np.repeat(last, more) + 1 + position])
    return np.asarray(groups)[stripes]


class _Descent:
    """Sweeps over all stripes of k groups out of some or all groups of a permutation."""

    def __init__(self, problem: Problem, run: Run, k: int, order: Array, among: Array | None = None) -> None:
        self.problem, self.run = problem, run
        self.n, self.m = problem.pattern.n, problem.pattern.m
        self.subsets, self.partitions = _tables(k, self.m)
        self.tolerance = tolerance(problem)
        self.order = order
        self.stripes = _stripes(np.arange(problem.groups) if among is None else among, k)
        self.gains = np.zeros(len(self.stripes))
        self.choices = np.zeros(len(self.stripes), dtype=np.int64)
        self.stale = np.ones(problem.groups, dtype=np.bool_)

    def search(self, escapes: int) -> Status:
        status = self.descend()
        for _ in range(escapes):
            if status is Status.STOPPED:
                break
            self._escape()
            status = self.descend()
        return status

    def descend(self) -> Status:
        while True:
            if not self._evaluate():
                return Status.STOPPED
            moved = self._sweep()
            self.run.offer(self.order)
            if not self.run.proceed(1):
                return Status.STOPPED
            if not moved:
                return Status.LOCAL_OPTIMUM

    def _evaluate(self) -> bool:
        """Evaluate the stripes of changed groups, in pieces short enough to look at the clock between them."""
        stale = np.flatnonzero(self.stale[self.stripes].any(axis=1))
        terms = len(self.subsets) * self.problem.packed.shape[1] * self.m + 4 * len(self.partitions)
        piece = max(1, int(2e7 / terms))
        self.stale[:] = False
        batch = piece * self.run.n_jobs
        for start in range(0, len(stale), batch):
            chunk = stale[start : start + batch]
            self.run.map(self._evaluate_piece, [chunk[k : k + piece] for k in range(0, len(chunk), piece)])
            if not self.run.proceed():
                return False
        return True

    def _evaluate_piece(self, which: Array) -> None:
        gains, choices = np.empty(len(which)), np.empty(len(which), dtype=np.int64)
        best_regroupings(
            self.problem.packed,
            self.order,
            self.stripes[which],
            self.subsets,
            self.partitions,
            self.n,
            self.m,
            gains,
            choices,
        )
        self.gains[which], self.choices[which] = gains, choices

    def _sweep(self) -> bool:
        improving = np.flatnonzero(self.gains > self.tolerance)
        ranked = improving[np.argsort(-self.gains[improving], kind="stable")]
        for start in range(0, len(ranked), RANKED):  # in pieces: most stripes touch a group that the first few change
            piece = ranked[start : start + RANKED]
            for stripe in piece[~self.stale[self.stripes[piece]].any(axis=1)]:
                if not self.stale[self.stripes[stripe]].any():
                    self._apply(stripe)
        return bool(self.stale.any())

    def _apply(self, stripe: int) -> None:
        groups = self.stripes[stripe]
        members = self.order.reshape(-1, self.m)
        columns = members[groups].ravel()
        members[groups] = columns[self.subsets[self.partitions[self.choices[stripe]]]]
        self.stale[groups] = True

    def _escape(self) -> None:
        stripe = int(self.run.rng.integers(len(self.stripes)))
        self._apply(stripe)
        a, b = self.run.rng.choice(self.stripes[stripe], size=2, replace=False)
        x, y = self.run.rng.integers(self.m, size=2)
        members = self.order.reshape(-1, self.m)
        members[a, x], members[b, y] = members[b, y], members[a, x]
