"""Exchange descent: sweeps over all pairs of columns until none improves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from permsolve.kernels.descent import exchange_sweep
from permsolve.kernels.gain import gain_matrix
from permsolve.kernels.groups import make_state, refresh_all
from permsolve.problem import Problem
from permsolve.run import Run

#: Improvements below this share of the largest column sum are float32 rounding, not progress.
RELATIVE_TOLERANCE = 1e-6
#: Modelled nanoseconds of gains computed between two looks at the clock.
PIECE = 1e7


class ExchangeDescent:
    """Descent to a permutation that no exchange of two columns improves.

    The gain matrix is computed once, and after each sweep only the rows of groups that changed.

    Parameters
    ----------
    problem
        The problem.
    run
        The run: for its threads.
    order
        Permutation to start from.
    """

    def __init__(self, problem: Problem, run: Run, order: npt.NDArray[np.int64]) -> None:
        self.n, self.m = problem.pattern.n, problem.pattern.m
        self.run = run
        self.state = make_state(problem.packed, self.n)
        self.tolerance = tolerance(problem)
        self.columns = np.arange(problem.cols)
        self.gain = np.zeros((problem.cols, problem.cols), dtype=np.float32)
        self.touched = np.ones(problem.groups, dtype=np.bool_)
        self.order = order.copy()
        refresh_all(self.state, self.order, self.m, self.n)

    def move(self, groups: npt.NDArray[np.int64], members: npt.NDArray[np.int64]) -> None:
        """Replace the members of some groups.

        Parameters
        ----------
        groups
            int64 (k,), numbers of groups.
        members
            int64 (k, m), their new members: the same columns, dealt anew.
        """
        self.order.reshape(-1, self.m)[groups] = members
        refresh_all(self.state, members.ravel(), self.m, self.n)
        self.touched[groups] = True

    def sweep(self) -> int | None:
        """Bring the gain matrix up to date and apply one sweep of exchanges.

        Returns
        -------
        int or None
            Number of exchanges applied, 0 at a local optimum; None where the run ended before the gains were known.
        """
        stale = self.order.reshape(-1, self.m)[self.touched].ravel()
        jobs = self.run.n_jobs
        terms = self.columns.size * self.state.saliency.shape[1]  # of a slot; about 25 of them take a nanosecond
        piece = jobs * max(2, int(PIECE * 25.0 / terms))
        for start in range(0, stale.size, piece):
            if start and not self.run.proceed():
                return None
            slots = stale[start : start + piece]
            block = np.empty((slots.size, self.columns.size), dtype=np.float32)
            gain_matrix(self.run.map, jobs, self.state, slots, self.columns, block)
            self.gain[slots] = block
        return int(exchange_sweep(self.state, self.gain, self.order, self.n, self.m, self.tolerance, self.touched))


def tolerance(problem: Problem) -> float:
    """Return the smallest change that counts as an improvement, in units of ``problem.packed``.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    float
        `RELATIVE_TOLERANCE` of the largest column sum.
    """
    return RELATIVE_TOLERANCE * float(problem.packed.sum(axis=1, dtype=np.float64).max())
