"""How long a search lasts that nothing limits."""

from __future__ import annotations

from permsolve.problem import Problem


def default_seconds(problem: Problem) -> float:
    """Return the time that the schedule of an unlimited search is made for, on one core.

    Methods turn it into a number of iterations by a modelled cost, so that the schedule depends on the problem alone.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    float
        Seconds: 0.7 at 64 columns, in proportion to the columns, and at most 42.
    """
    return 0.7 * min(problem.cols / 64, 60.0)
