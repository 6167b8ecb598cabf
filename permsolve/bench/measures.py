"""The measures of a comparison, each a plain function of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Trace = Sequence[tuple[float, float]]

#: Shift of geometric means of gaps, in per cent: differences between gaps far below it do not count.
GAP_SHIFT = 0.01
#: Shift of geometric means of times, in seconds.
TIME_SHIFT = 0.1
#: Primal gap, in per cent, at which a run counts as near the best known.
TARGET = 0.1
#: Relative difference of scores that is rounding.
ROUNDING = 1e-9


def allowance(limit: float) -> float:
    """Return by how much a run may exceed its limit.

    Parameters
    ----------
    limit
        The limit in seconds.

    Returns
    -------
    float
        Seconds: the larger of 50 ms and 5 %. What is found later does not count.
    """
    return max(0.05, 0.05 * limit)


def primal_gap(score: float, best: float) -> float:
    """Return how far a score lies below the best known one.

    Parameters
    ----------
    score
        The score.
    best
        The best known score.

    Returns
    -------
    float
        ``100 * (best - score) / best``, per cent, never negative; 0 where the best is 0 and where the two
        differ by rounding only.
    """
    return 100.0 * (best - score) / best if best - score > ROUNDING * best else 0.0


def score_at(trace: Trace, times: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the best score known at each of some times.

    Parameters
    ----------
    trace
        Time and score of each improvement; the first at time 0.
    times
        Seconds, >= 0.

    Returns
    -------
    numpy.ndarray
        float64, one score per time.
    """
    changes = np.array([time for time, _ in trace])
    scores = np.array([score for _, score in trace])
    return np.asarray(scores[np.maximum(np.searchsorted(changes, times, side="right") - 1, 0)])


def primal_integral(trace: Trace, best: float, limit: float) -> float:
    """Return the primal gap averaged over the time limit (Berthold, Operations Research Letters 41(6), 2013).

    Parameters
    ----------
    trace
        Time and score of each improvement; the first, at time 0, is the identity. After the last one the score stays.
    best
        The best known score.
    limit
        Time limit in seconds; what was found later does not count.

    Returns
    -------
    float
        Per cent: the integral of the gap from 0 to the limit, divided by the limit.
    """
    area = 0.0
    for k, (time, score) in enumerate(trace):
        end = trace[k + 1][0] if k + 1 < len(trace) else limit
        area += primal_gap(score, best) * max(min(end, limit) - min(time, limit), 0.0)
    return area / limit


def time_to(trace: Trace, best: float, target: float) -> float:
    """Return when a run first came within a primal gap.

    Parameters
    ----------
    trace
        Time and score of each improvement.
    best
        The best known score.
    target
        Primal gap, per cent.

    Returns
    -------
    float
        Seconds, infinite if it never did.
    """
    return next((time for time, score in trace if primal_gap(score, best) <= target), math.inf)


def shifted_geometric_mean(values: Sequence[float], shift: float) -> float:
    """Return the shifted geometric mean, which neither a large nor a tiny value dominates.

    Parameters
    ----------
    values
        Numbers >= 0, at least one.
    shift
        Added before and taken off after, above 0, in the values' unit.

    Returns
    -------
    float
        ``exp(mean(log(values + shift))) - shift``; 0 where all values are.
    """
    return shift * float(np.expm1(np.mean(np.log1p(np.asarray(values) / shift))))
