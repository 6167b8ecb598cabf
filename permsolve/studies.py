"""Two studies of Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.

`intermediate_steps` finds permutations of graded quality, to see how accuracy follows efficacy. `unstructured_study`
asks how sparse an unstructured matrix must be before a permutation makes it exactly n:m.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve._arrays import channels_back
from permsolve._solve import as_problem, solve
from permsolve._version import __version__
from permsolve.errors import DocumentError, InputError
from permsolve.patterns import NM, Permutation
from permsolve.problem import Problem
from permsolve.registry import make_solver
from permsolve.result import Result
from permsolve.scoring import efficacy
from permsolve.solver import Solver, check_number, check_whole
from permsolve.stop import Criterion

Array = npt.NDArray[Any]

STEPS_SCHEMA = "permsolve.steps/1"
UNSTRUCTURED_SCHEMA = "permsolve.unstructured/1"


@dataclass(frozen=True, eq=False)
class Step:
    """A permutation whose efficacy was to be a given one."""

    #: The permutation, int64 (cols,).
    perm: Permutation
    #: Its score by the NumPy reference scorer.
    score: float
    #: Its efficacy, per cent.
    efficacy: float
    #: The efficacy that was asked for, per cent.
    target: float

    @property
    def error(self) -> float:
        """Efficacy minus target, in points."""
        return self.efficacy - self.target


@dataclass(frozen=True, eq=False)
class Steps:
    """Permutations at equal steps of efficacy, from the identity to the best found."""

    #: The steps, the identity first and the best permutation last.
    steps: tuple[Step, ...]
    #: Distance from its target, in points of efficacy, at which a step was close enough.
    tolerance: float
    #: The solve that found the best permutation.
    result: Result

    @property
    def largest_error(self) -> float:
        """Largest distance of a step from its target, in points of efficacy."""
        return max(abs(step.error) for step in self.steps)

    def to_json(self) -> str:
        """Return the study as a JSON document of schema ``permsolve.steps/1``.

        Returns
        -------
        str
            Which matrix it was and how the best was found, as in the document of a result; ``tolerance``; and for every
            step ``target``, ``efficacy``, ``score`` and ``perm``.
        """
        steps = [
            {"target": step.target, "efficacy": step.efficacy, "score": step.score, "perm": step.perm.tolist()}
            for step in self.steps
        ]
        result = self.result
        names = ("method", "options", "seed", "baseline", "rows_bound")
        figures = {name: getattr(result, name) for name in names} | {"tolerance": self.tolerance}
        return _document(STEPS_SCHEMA, _origin(result) | figures, "steps", steps)


def intermediate_steps(
    matrix: object,
    nm: object = (2, 4),
    *,
    steps: int = 10,
    tolerance: float = 0.01,
    method: str | Solver = "auto",
    saliency: object = "magnitude",
    blocks: Sequence[int] | None = None,
    stop: Criterion | None = None,
    time_limit: float | None = None,
    seed: int | np.random.Generator = 0,
    options: Mapping[str, Any] | None = None,
    display: bool | None = None,
    n_jobs: int | None = None,
) -> Steps:
    """Find permutations whose efficacies lie at equal distances between the identity's and the best found.

    The best is solved for and written with its groups matched to the identity's; exchanges lead from one to the other,
    group by group. Each step is the state of that path closest to its target, brought closer by further exchanges.
    Matrices of a few columns have few scores to choose from: what was reached is in `Step.error`.

    Parameters
    ----------
    matrix, nm, method, saliency, blocks, stop, time_limit, seed, options, display, n_jobs
        As in `permsolve.solve`; they are about the best permutation.
    steps
        Number of equal steps; there is one permutation more, the identity.
    tolerance
        Distance from the target that is close enough, in points of efficacy.

    Returns
    -------
    Steps
        ``steps + 1`` permutations and the solve of the best.

    Raises
    ------
    InputError
        If an argument does not fit, or the pattern is not plain n:m.
    """
    check_whole("steps", steps, least=1, most=10_000)
    check_number("tolerance", tolerance, least=0.0, most=100.0)
    problem = _plain(as_problem(matrix, nm, saliency, blocks))
    result = solve(
        problem,
        method=method,
        stop=stop,
        time_limit=time_limit,
        seed=seed,
        options=options,
        display=display,
        n_jobs=n_jobs,
    )
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
    start = efficacy(problem.baseline, problem.baseline, problem.rows_bound)
    targets = np.linspace(start, result.efficacy, steps + 1)
    perms = [np.arange(problem.cols), *_between(problem, result, steps, tolerance, rng), result.perm]
    found = []
    for perm, target in zip(perms, targets.tolist(), strict=True):
        score = problem.score(perm)
        found.append(Step(perm, score, efficacy(score, problem.baseline, problem.rows_bound), target))
    return Steps(tuple(found), float(tolerance), result)


def _between(
    problem: Problem, result: Result, steps: int, tolerance: float, rng: np.random.Generator
) -> list[Permutation]:
    """Return the permutations strictly between the first and the last step."""
    from permsolve.search.path import Scored, align, approach, walk

    targets = np.linspace(problem.baseline, result.score, steps + 1)[1:-1]
    closest: list[Scored | None] = [None] * targets.size
    distance = np.full(targets.size, np.inf)
    for state in walk(problem, align(problem, result.perm)):
        away = np.abs(state.score - targets)
        for k in np.flatnonzero(away < distance):
            closest[k], distance[k] = state.copy(), away[k]
    close = tolerance / 100 * (problem.rows_bound - problem.baseline)
    return [
        approach(state, float(target), close, rng)
        for state, target in zip(closest, targets, strict=True)
        if state is not None
    ]


@dataclass(frozen=True)
class Trial:
    """One question of an unstructured study: whether a permutation makes the matrix n:m at a sparsity."""

    #: Share of zeros in the matrix.
    sparsity: float
    #: Fewest non-zero entries that were in the way under any permutation found; 0 is a yes.
    violations: int
    #: Smallest sparsity at which the permutation found does without any.
    reached: float
    #: Whether the method proved that no permutation does.
    proved: bool
    #: Seconds of the method.
    runtime: float


@dataclass(frozen=True, eq=False)
class Study:
    """The smallest unstructured sparsity at which a permutation was found that makes a matrix exactly n:m.

    Sparsities are shares of zeros, in [0, 1], after pruning the entries of smallest saliency anywhere in the matrix.
    """

    #: The smallest sparsity found.
    sparsity: float
    #: The permutation that makes the matrix n:m there, int64 (cols,).
    perm: Permutation
    #: The smallest sparsity at which the matrix is n:m without any permutation.
    identity: float
    #: Proved: no permutation does at a smaller sparsity.
    lower_bound: float
    #: The questions asked, in order.
    trials: tuple[Trial, ...]
    #: Distance of the last two sparsities of the bisection that was close enough.
    tolerance: float
    #: The saliency's problem: pattern, blocks and which matrix it was.
    problem: Problem
    #: Name of the method, its options and its seed.
    method: str
    options: dict[str, Any]
    seed: int | None
    #: Whether it was interrupted: what is there holds all the same.
    interrupted: bool = False

    @cached_property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which entries the unstructured matrix keeps at `sparsity`: bool, in the matrix's own order and shape."""
        ranks = _ranks(self.problem).T
        return channels_back(ranks >= round(self.sparsity * ranks.size), self.problem.shape)

    def to_json(self) -> str:
        """Return the study as a JSON document of schema ``permsolve.unstructured/1``.

        Returns
        -------
        str
            Which matrix it was, as in the document of a result, and the fields of `Study` and of its trials.
        """
        names = ("method", "options", "seed", "tolerance", "sparsity", "identity", "lower_bound", "interrupted")
        figures = {name: getattr(self, name) for name in names} | {"perm": self.perm.tolist()}
        trials = [asdict(trial) for trial in self.trials]
        return _document(UNSTRUCTURED_SCHEMA, _origin(self.problem) | figures, "trials", trials)


def unstructured_study(
    matrix: object,
    nm: object = (2, 4),
    *,
    tolerance: float = 0.001,
    method: str | Solver = "auto",
    saliency: object = "magnitude",
    blocks: Sequence[int] | None = None,
    stop: Criterion | None = None,
    time_limit: float | None = None,
    seed: int | np.random.Generator = 0,
    options: Mapping[str, Any] | None = None,
    display: bool | None = None,
    n_jobs: int | None = None,
) -> Study:
    """Find the smallest unstructured sparsity at which a permutation makes a matrix exactly n:m, by bisection.

    Entries are pruned from the smallest saliency up (never by sign; of equal entries the last goes first). At every
    sparsity tried, the method maximises the *number* of non-zeros that n:m keeps: the saliency is 1 where an entry is
    left and 0 elsewhere, so what falls short of all of them is the number of violations, and a solve ends as soon as
    there are none. Whatever permutation it returns, the smallest sparsity at which that permutation fits is read off
    the (n + 1)-th largest entries of its groups, in integers: pruning more never makes a permutation unfit, so the
    bisection jumps there. The best permutation so far is where the next solve starts.

    Parameters
    ----------
    matrix, nm, method, saliency, blocks, seed, options, display, n_jobs
        As in `permsolve.solve`.
    tolerance
        The bisection ends when it is this close.
    stop, time_limit
        Limits of every single solve, as in `permsolve.solve`; there are about ten.

    Returns
    -------
    Study
        The sparsity, its permutation, the identity's sparsity, a proved lower bound and the trials. A failed search is
        no proof, so the true smallest sparsity lies anywhere from ``lower_bound`` to ``sparsity``. A row has room for
        cols * n / m non-zeros, which is the bound of every study; a method that proves bounds may raise it.

    Raises
    ------
    InputError
        If an argument does not fit, or the pattern is not plain n:m.
    """
    check_number("tolerance", tolerance, least=0.0, most=1.0)
    name, solver = make_solver(method, options)
    problem = _plain(as_problem(matrix, nm, saliency, blocks))
    size = problem.columns.size
    ranks = _ranks(problem)
    zeros = size - int(np.count_nonzero(problem.columns))
    perm = np.arange(problem.cols)
    identity = reached = max(_smallest(problem, ranks, perm), zeros)
    low = proved = max(_rows_bound(problem, ranks), zeros)
    trials: list[Trial] = []
    interrupted = False
    while low < reached and (reached - low > tolerance * size or not trials) and not interrupted:
        pruned = (low + reached) // 2
        left = replace(problem, columns=(ranks >= pruned).astype(np.float32))
        result = solve(
            left,
            initial=perm,
            method=method,
            stop=stop,
            time_limit=time_limit,
            seed=seed,
            options=options,
            display=display,
            n_jobs=n_jobs,
        )
        found = max(_smallest(problem, ranks, result.perm), zeros)
        never = result.bound < size - pruned - 0.5
        trials.append(Trial(pruned / size, size - pruned - round(result.score), found / size, never, result.runtime))
        if found < reached:
            reached, perm = found, result.perm
        if found > pruned:
            low = pruned + 1
            proved = max(proved, low) if never else proved
        interrupted = result.stopped_by == "interrupt"
    return Study(
        sparsity=reached / size,
        perm=perm,
        identity=identity / size,
        lower_bound=proved / size,
        trials=tuple(trials),
        tolerance=float(tolerance),
        problem=problem,
        method=name,
        options=solver.options,
        seed=seed if isinstance(seed, int) else None,
        interrupted=interrupted,
    )


def _plain(problem: Problem) -> Problem:
    """Return a problem of plain n:m, or raise: both studies are about one permutation of the columns."""
    if not isinstance(problem.pattern, NM):
        raise InputError(
            f"the studies are of plain n:m, got {problem.pattern}; give for example nm='2:4', or solve without a study"
        )
    return problem


def _ranks(problem: Problem) -> Array:
    """Return how many entries are pruned before each: (cols, rows); of equal entries the last is pruned first."""
    size = problem.columns.size
    ranks = np.empty(size, dtype=np.int32 if size < 2**31 else np.int64)
    ranks[np.argsort(-problem.saliency.ravel(), kind="stable")] = np.arange(size - 1, -1, -1)
    return np.ascontiguousarray(ranks.reshape(problem.rows, problem.cols).T)


def _smallest(problem: Problem, ranks: Array, perm: Permutation) -> int:
    """Return how many entries must be pruned before no group of a permutation holds more than n of a row."""
    n, m = problem.pattern.n, problem.pattern.m
    last = m - n - 1  # in ascending order: the (n + 1)-th largest
    return max(int(np.partition(ranks[group], last, axis=0)[last].max()) + 1 for group in perm.reshape(-1, m))


def _rows_bound(problem: Problem, ranks: Array) -> int:
    """Return how many entries must be pruned before no row of a block holds more than its groups have room for."""
    needed = []
    for span, part in problem.parts():
        last = part.cols - part.groups * problem.pattern.n - 1
        needed.append(int(np.partition(ranks[span], last, axis=0)[last].max()) + 1)
    return max(needed)


def _origin(problem: Problem | Result) -> dict[str, Any]:
    """Return which matrix a study is about, as in the document of a result."""
    return {
        "version": __version__,
        "pattern": {"kind": "nm", "n": problem.pattern.n, "m": problem.pattern.m},
        "saliency": problem.saliency_name if isinstance(problem, Problem) else problem.saliency,
        "blocks": None if problem.blocks is None else list(problem.blocks),
        "matrix": {"shape": list(problem.shape), "dtype": problem.dtype, "fingerprint": problem.fingerprint},
    }


def _document(schema: str, fields: Mapping[str, Any], name: str, items: Sequence[Mapping[str, Any]]) -> str:
    """Write a document: one line per field, and one per item of the list that ends it."""
    try:
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {"schema": schema, **fields}.items()]
        listed = ",\n".join("  " + json.dumps(item) for item in items)
    except TypeError as error:
        raise DocumentError(
            f"the study cannot be written: an option of the method is no plain value ({error})"
        ) from error
    return "{\n" + ",\n".join([*lines, f'"{name}": [\n{listed}\n]']) + "\n}\n"
