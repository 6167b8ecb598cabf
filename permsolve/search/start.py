"""Where a search starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from permsolve.problem import Problem
from permsolve.run import Run


def starting_order(run: Run) -> npt.NDArray[np.int64]:
    """Return the permutation that a search should start from: the one given for it, else the incumbent.

    A permutation that the user gives may score less than the identity, which is the incumbent then; whoever gives one
    wants the search to start there all the same, and the incumbent is not lost by it.

    Parameters
    ----------
    run
        The run.

    Returns
    -------
    numpy.ndarray
        int64 (cols,), a copy.
    """
    order: npt.NDArray[np.int64] = run.best if run.initial is None else run.initial.copy()
    return order


def allocate(problem: Problem) -> npt.NDArray[np.int64]:
    """Deal the columns into groups in boustrophedon order of their sums (RIA's heuristic allocation, ICLR 2024).

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    numpy.ndarray
        int64 (cols,): every group gets large and small columns, the largest first.
    """
    ranked = np.argsort(-problem.column_sums, kind="stable")
    rounds = ranked.reshape(problem.pattern.m, problem.groups)
    rounds[1::2] = rounds[1::2, ::-1]
    return np.ascontiguousarray(rounds.T).ravel()
