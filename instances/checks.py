"""Recompute what the index says: every matrix, score and bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from permsolve.errors import FileError, PermsolveError

from .entries import Entry

if TYPE_CHECKING:
    from permsolve.certificates import Certificate
    from permsolve.problem import Problem

#: Relative difference allowed between sums of the same numbers: NumPy may add in another order on another processor.
ROUNDING = 1e-12
#: Relative difference allowed for the rows bound and for comparisons with bounds.
SLACK = 1e-9
#: Exact bounds are proved again without being asked up to this many columns and possible groups.
CHEAP_COLS, CHEAP_GROUPS = 32, 100_000


class Report(NamedTuple):
    """What the check of an instance found."""

    name: str
    #: One sentence for each thing that is wrong.
    faults: tuple[str, ...]
    #: What was not checked, and how to check it.
    notes: tuple[str, ...]


def check(
    entry: Entry,
    *,
    prove: bool = False,
    n_jobs: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> Report:
    """Recompute the checksum, the scores and the bound of an instance; prove its certificate again.

    Parameters
    ----------
    entry
        The instance.
    prove
        Solve the instance again if its optimality is claimed by search, however long it takes; by default only where
        it is small.
    n_jobs
        Threads; None for all cores.
    progress
        Called with the share of the certificate's proof that is done, from 0 to 1.

    Returns
    -------
    Report
        What is wrong and what was not checked.
    """
    try:
        problem = entry.problem()
    except FileError as error:
        return Report(entry.name, (str(error),), ())
    faults, notes = _scores(entry, problem), []
    if entry.bound_kind == "rows":
        if not _close(entry.bound, problem.rows_bound, SLACK):
            faults.append(f"bound: the rows bound is {problem.rows_bound!r}, the index says {entry.bound!r}")
    elif entry.bound > problem.rows_bound * (1 + SLACK):
        faults.append(f"bound: {entry.bound!r} exceeds the rows bound {problem.rows_bound!r}, which is proved")
    if entry.certificate is not None:
        faults += _certificate(entry, entry.certificate, problem, n_jobs or _cores(), progress)
    if entry.bound_kind == "exact":
        cheap = entry.shape[1] <= CHEAP_COLS and math.comb(entry.shape[1], entry.pattern.m) <= CHEAP_GROUPS
        if not entry.proved:
            faults.append(f"bound: kind exact means attained, but the best is {100 * entry.gap:.3g} % below it")
        elif prove or cheap:
            faults += _exact(entry, problem, n_jobs)
        else:
            notes.append("exact: claimed, not re-proved; pass --prove to solve it again")
    return Report(entry.name, tuple(faults), tuple(notes))


def _scores(entry: Entry, problem: Problem) -> list[str]:
    faults = []
    for name, known, value in (
        ("baseline", entry.baseline, problem.baseline),
        ("rows_bound", entry.rows_bound, problem.rows_bound),
    ):
        if not _close(known, value, SLACK):
            faults.append(f"{name}: recomputed {value!r}, the index says {known!r}")
    if entry.best is None:
        return faults
    score = problem.score(entry.best.solution)
    if not _close(entry.best.score, score, ROUNDING):
        faults.append(f"score: the solution scores {score!r}, the index says {entry.best.score!r}")
    if score < problem.baseline * (1 - ROUNDING):
        faults.append(f"score: {score!r} is below the {problem.baseline!r} of no permutation at all")
    if score > entry.bound * (1 + SLACK):
        faults.append(f"bound: {entry.bound!r} is no bound, the solution scores {score!r}")
    return faults


def _certificate(
    entry: Entry,
    certificate: Certificate,
    problem: Problem,
    n_jobs: int,
    progress: Callable[[float], object] | None,
) -> list[str]:
    from permsolve.certificates import prove

    try:
        proved = prove(problem, certificate, n_jobs=n_jobs, progress=progress)
    except PermsolveError as error:
        return [f"certificate: {error}"]
    if entry.bound_kind == "lp" and not _close(entry.bound, proved, ROUNDING):
        return [f"certificate: it proves the bound {proved!r}, the index says {entry.bound!r}"]
    if entry.bound > proved * (1 + ROUNDING):
        return [f"certificate: it proves the bound {proved!r}, better than the exact one, {entry.bound!r}"]
    return []


def _exact(entry: Entry, problem: Problem, n_jobs: int | None) -> list[str]:
    """Solve to optimality, without the help of what is known."""
    import permsolve

    try:
        result = permsolve.solve(problem, method="exact", n_jobs=n_jobs)
    except PermsolveError as error:
        return [f"exact: cannot be proved again: {error}"]
    if result.stopped_by == "interrupt":
        raise KeyboardInterrupt
    if result.score > entry.bound * (1 + SLACK):
        return [f"exact: {entry.bound!r} is not optimal, solving again finds {result.score!r}"]
    if result.bound > entry.bound * (1 + SLACK):
        return [f"exact: {entry.bound!r} was not proved again, only a bound of {result.bound!r}"]
    return []


def _close(known: float, value: float, tolerance: float) -> bool:
    return bool(np.isclose(known, value, rtol=tolerance, atol=0.0))


def _cores() -> int:
    from permsolve._solve import threads

    return threads(None)
