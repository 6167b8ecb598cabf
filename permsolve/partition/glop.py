"""The restricted linear program, solved by GLOP of OR-Tools."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Solution(NamedTuple):
    """An optimum of the restricted linear program."""

    #: Its value.
    value: float
    #: float64 (cols,): the dual values.
    duals: Array
    #: float64 (groups,): how much of each group is taken.
    taken: Array


def maximise(groups: Array, values: Array, cols: int, seconds: float = np.inf) -> Solution | None:
    """Cover every column exactly once by fractions of groups, at the largest value.

    Parameters
    ----------
    groups
        Integers (count, m).
    values
        float64 (count,), of the order of 1.
    cols
        Number of columns.
    seconds
        Time limit.

    Returns
    -------
    Solution or None
        None where GLOP found no optimum in time.
    """
    ones = np.ones(cols)
    free = np.full(len(groups), np.inf)
    return _solve(values, free, _membership(groups, cols), (ones, ones), True, seconds)


def cheapest_raise(groups: Array, amounts: Array, cols: int, seconds: float = np.inf) -> Array | None:
    """Raise columns by as little as possible in total so that every group rises by its amount.

    Parameters
    ----------
    groups
        Integers (count, m).
    amounts
        float64 (count,), of the order of 1, >= 0.
    cols
        Number of columns.
    seconds
        Time limit.

    Returns
    -------
    numpy.ndarray or None
        float64 (cols,), >= 0; None where GLOP found no optimum in time.
    """
    rows = _membership(groups, cols).T.tocsr()
    solution = _solve(
        np.ones(cols), np.full(cols, np.inf), rows, (amounts, np.full(len(groups), np.inf)), False, seconds
    )
    return None if solution is None else solution.taken


def _membership(groups: Array, cols: int) -> Any:
    """Return the 0/1 matrix (cols, groups) of which column is in which group."""
    from scipy.sparse import csr_matrix

    count, m = groups.shape
    entries = (np.ones(count * m), (groups.ravel().astype(np.int64), np.repeat(np.arange(count), m)))
    return csr_matrix(entries, shape=(cols, count))


def _solve(
    costs: Array, upper: Array, rows: Any, limits: tuple[Array, Array], maximise_: bool, seconds: float
) -> Solution | None:
    from ortools.linear_solver.python import model_builder_helper

    helper: Any = model_builder_helper  # its stubs want dtypes that NumPy's own types do not state

    model = helper.ModelBuilderHelper()
    model.fill_model_from_sparse_data(np.zeros(len(costs)), upper, costs, *limits, rows)
    model.set_maximize(maximise_)
    solver = helper.ModelSolverHelper("glop")
    if seconds < np.inf:
        solver.set_time_limit_in_seconds(max(seconds, 1e-3))
    solver.solve(model)
    if solver.status() != helper.SolveStatus.OPTIMAL:
        return None
    return Solution(solver.objective_value(), np.asarray(solver.dual_values()), np.asarray(solver.variable_values()))
