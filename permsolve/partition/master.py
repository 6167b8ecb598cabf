"""The first steps that every use of the linear program shares: integers, all values, duals, the bound."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from permsolve.certificates import Certificate
from permsolve.objectives import OutputError
from permsolve.partition import lp
from permsolve.partition.lp import Duals
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues
from permsolve.problem import Problem
from permsolve.run import Run

#: Group values that one core computes in a second, times rows; what GLOP takes per column.
SPEED, GLOP_SECONDS = 3e9, 3e-3


@dataclass(frozen=True, eq=False)
class Master:
    """A problem whose groups are all enumerated, with feasible duals.

    Parameters
    ----------
    quantised
        The saliency in integers.
    values
        The values of all groups.
    duals
        Feasible duals, LP-optimal unless a limit came first.
    """

    quantised: Quantised
    values: GroupValues
    duals: Duals

    @classmethod
    def build(cls, problem: Problem, run: Run) -> Master | None:
        """Enumerate the groups, solve the LP and offer its bound.

        Parameters
        ----------
        problem
            A problem without blocks whose groups can be stored.
        run
            Takes the offers; limits the time.

        Returns
        -------
        Master or None
            None where the time ran out before there were duals.
        """
        quantised = Quantised.of(problem)
        values = GroupValues(quantised, run.map, time.perf_counter() + run.remaining())
        going = run.proceed()
        if not values.complete or not going:
            return None
        duals = lp.solve(values, run.best, run.proceed, run.remaining)
        certificate = Certificate(quantised.exponent, tuple(int(price) for price in duals.prices))
        run.offer_bound(quantised.bound(duals.bound), certificate)
        return cls(quantised, values, duals)


def build_seconds(rows: float, cols: int, m: int, n_jobs: int) -> float:
    """Estimate what `Master.build` takes.

    Parameters
    ----------
    rows, cols
        Shape of the matrix, the rows times `Problem.row_cost`.
    m
        Group size.
    n_jobs
        Number of threads.

    Returns
    -------
    float
        Seconds.
    """
    return rows * math.comb(cols, m) / SPEED / n_jobs + GLOP_SECONDS * cols


def warm_up(objective: str = "retained") -> None:
    """Compile, or load from disk, everything that exact search uses: its kernels take the same types whatever n:m.

    Parameters
    ----------
    objective
        That of the problem about to be solved.
    """
    from permsolve.partition import neighbourhood, tree
    from permsolve.run import Run as AnyRun

    saliency = "magnitude" if objective == "retained" else OutputError(np.eye(20))
    problem = Problem.of(np.random.RandomState(0).rand(4, 20), saliency=saliency)
    run = AnyRun(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    master = Master.build(problem, run)
    assert master is not None
    pool = neighbourhood.make_candidates(master.values, master.duals)
    rng = np.random.default_rng(0)
    neighbourhood.Chain(master.quantised, master.duals, pool, np.arange(20), rng).step(2)
    tree.prove(master, run)
