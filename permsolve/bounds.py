"""Upper bounds on the score of every permutation: `permsolve.bound`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permsolve.certificates import Certificate
from permsolve.errors import InputError, UnsupportedProblemError
from permsolve.patterns import NM
from permsolve.problem import Problem
from permsolve.run import Run, gap
from permsolve.scoring import efficacy
from permsolve.stop import MaxRuntime

#: Kinds of bounds that can be asked for.
KINDS = ("rows", "lp")


@dataclass(frozen=True)
class Bound:
    """A proved upper bound on the score of every permutation of a matrix."""

    #: The bound, in units of the saliency.
    value: float
    #: What proves it: ``"rows"`` or ``"lp"``.
    kind: str
    #: Dual solution that proves a bound of kind ``"lp"``; None for ``"rows"``.
    certificate: Certificate | None
    #: Efficacy of the bound: no permutation reaches more, per cent.
    efficacy: float
    #: Score of the unpermuted matrix.
    baseline: float
    #: Sum over rows of the cols * n / m largest entries.
    rows_bound: float
    #: Seconds it took, compilation excluded.
    runtime: float

    def gap(self, score: float) -> float:
        """Return how far a score lies below the bound.

        Parameters
        ----------
        score
            Score of a permutation.

        Returns
        -------
        float
            ``(bound - score) / bound``; where scores are minus an error, ``(bound - score) / |score|``.
        """
        return gap(score, self.value)


def bound(
    matrix: object,
    nm: object = (2, 4),
    *,
    kind: str = "lp",
    saliency: object = "magnitude",
    blocks: Sequence[int] | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    display: bool | None = None,
    n_jobs: int | None = None,
) -> Bound:
    """Prove an upper bound on the score of every permutation.

    ``kind="rows"`` is the sum over rows of the cols * n / m largest entries, at no cost. ``kind="lp"`` is the optimum
    of the set partitioning LP over all groups of m columns, proved by integer duals (`Bound.certificate`): exact where
    all groups can be stored (168 columns for m = 4), a feasible dual solution close to it beyond, where a streaming
    pass looks at every group. That pass takes ``C(cols, m) * rows`` steps, about 9 s at 64 x 512 and 25 s at 128 x 640
    on two cores; it is the price of a proof.

    Parameters
    ----------
    matrix, nm, saliency, blocks
        As in `permsolve.solve`.
    kind
        ``"lp"`` or ``"rows"``.
    time_limit
        Seconds; what is proved by then is returned, the rows bound if nothing else is.
    seed
        Seed of the random choices of the search for duals of wide matrices.
    display
        Show progress, as in `permsolve.solve`.
    n_jobs
        Number of threads, by default all cores this process may use.

    Returns
    -------
    Bound
        The best bound proved.

    Raises
    ------
    InputError
        If an argument does not fit.
    UnsupportedProblemError
        If there are too many groups to look at all of them.
    """
    from permsolve._solve import as_problem, generator, threads
    from permsolve.display import reporter

    check_kind(kind)
    problem = as_problem(matrix, nm, saliency, blocks)
    limit = None if time_limit is None else MaxRuntime(time_limit)
    rng, jobs = generator(seed)[0], threads(n_jobs)
    if kind == "lp":
        if problem.streamed:
            raise UnsupportedProblemError("a bound of kind 'lp' needs the matrix in memory, where there is not enough")
        check_supported(problem)
        warm_up(problem)
    with reporter(display, "bound", limit) as report:
        run = Run(problem, stop=limit, rng=rng, n_jobs=jobs, report=report)
        core = run.open()
        started = time.perf_counter()
        try:
            if kind == "lp":
                prove_lp(problem, run)
        except KeyboardInterrupt:
            pass  # the best bound so far is as good as any
        finally:
            core.close()
    certificate = core.bounds.certificate if core.bound_kind == "lp" else None
    return Bound(
        core.bound,
        core.bound_kind,
        certificate,
        efficacy(core.bound, problem.baseline, problem.rows_bound),
        problem.baseline,
        problem.rows_bound,
        time.perf_counter() - started,
    )


def check_kind(kind: object) -> None:
    """Raise unless a bound of this kind can be asked for.

    Parameters
    ----------
    kind
        What was asked for.

    Raises
    ------
    InputError
        If it is neither ``"rows"`` nor ``"lp"``.
    """
    if kind not in KINDS:
        raise InputError(f"bound {kind!r} must be one of {', '.join(KINDS)}; method 'exact' proves optima")


def check_supported(problem: Problem) -> None:
    """Raise if the LP bound of a problem is out of reach.

    Parameters
    ----------
    problem
        The problem.

    Raises
    ------
    UnsupportedProblemError
        If looking at all groups of a block once would take too long.
    """
    from permsolve.partition import stream

    if not isinstance(problem.pattern, NM):
        raise UnsupportedProblemError(
            f"no LP bound for {problem.pattern}: only plain n:m divides into groups alone; use the rows bound"
        )
    for _, part in problem.parts():
        reason = stream.out_of_reach(part) if problem.objective == "retained" else _too_many(part)
        if reason is not None:
            raise UnsupportedProblemError(f"no LP bound for this problem: {reason}")


def _too_many(problem: Problem) -> str | None:
    from permsolve.partition.values import MOST_STORED, storable

    cols, m = problem.cols, problem.pattern.m
    if storable(cols, m):
        return None
    return (
        f"there are {math.comb(cols, m):.3g} groups of {m} among {cols} columns; of the objective "
        f"{problem.objective!r} at most {MOST_STORED:.3g} can be enumerated, and there is no other way; the rows bound "
        f"is 0 at any size"
    )


def warm_up(problem: Problem) -> None:
    """Compile what `prove_lp` uses.

    Parameters
    ----------
    problem
        The problem.
    """
    from permsolve.partition import master, stream
    from permsolve.partition.values import storable

    widths = {part.cols for _, part in problem.parts()}
    master.warm_up(problem.objective)
    if any(not storable(width, problem.pattern.m) for width in widths):
        stream.warm_up()


def prove_lp(problem: Problem, run: Run) -> None:
    """Offer the LP bound of a problem, block by block.

    Parameters
    ----------
    problem
        The problem.
    run
        Takes the bounds.
    """
    from permsolve.partition import stream
    from permsolve.partition.master import Master
    from permsolve.partition.values import storable

    for span, part in problem.parts():
        if not run.proceed():
            return
        inner = run if problem.blocks is None else run.within(columns=span)
        if part.groups == 1:
            _prove_group(part, inner)
        elif storable(part.cols, part.pattern.m):
            Master.build(part, inner)
        else:
            stream.bound(part, inner)


def _prove_group(problem: Problem, run: Run) -> None:
    """Offer the value of a problem's only group, with its certificate."""
    from permsolve.partition.quantise import Quantised

    quantised = Quantised.of(problem)
    value = int(quantised.worth(np.arange(problem.cols)[None])[0])
    share, rest = divmod(value, problem.cols)
    duals = (share + rest, *(share for _ in range(problem.cols - 1)))
    run.offer_bound(quantised.bound(value), Certificate(quantised.exponent, duals))
