"""The rules of the contract, one function each; `permsolve.testing` runs them.

A rule takes a `permsolve.testing.Subject` and what it is checked on (the name of a pattern or of a kind of matrix), and
calls `require`. A new rule is a new function with the decorator `rule`.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from permsolve import _contract_patterns as definitions
from permsolve._contract_cases import MATRICES, Array, height, optimum, slow_score, uniform, width
from permsolve.errors import PermsolveError
from permsolve.patterns import Pattern, parse
from permsolve.problem import Problem
from permsolve.result import Result
from permsolve.run import Run
from permsolve.solver import Status
from permsolve.stop import MaxIterations

if TYPE_CHECKING:
    from permsolve.testing import Subject

#: Seconds by which a loaded machine may delay an answer, on top of what the contract allows.
SLACK = 0.3


class Broken(PermsolveError):
    """What a rule requires is not so."""


class Skipped(PermsolveError):
    """A rule that cannot be checked, and why."""


def require(good: object, message: str) -> None:
    """Raise `Broken` unless something is so.

    Parameters
    ----------
    good
        The condition.
    message
        What is wrong otherwise.

    Raises
    ------
    Broken
        If the condition is false.
    """
    if not good:
        raise Broken(message)


@dataclass(frozen=True)
class Rule:
    """A rule of the contract."""

    #: Name, as in the function that checks it.
    name: str
    #: What a method must do.
    text: str
    #: What it is checked on: names, or None for every pattern.
    on: tuple[str, ...] | None
    function: Callable[[Subject, str], None]


#: All rules, in the order in which they are checked.
RULES: list[Rule] = []


def rule(on: tuple[str, ...] | None = ("",)) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the rules; its docstring says what a method must do.

    Parameters
    ----------
    on
        What it is checked on; by default once, and with None on every pattern.

    Returns
    -------
    Callable
        The decorator.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        RULES.append(Rule(function.__name__, (function.__doc__ or "").rstrip("."), on, function))
        return function

    return add


def sound(result: Result, matrix: Array) -> None:
    """Require what must hold of every result.

    Parameters
    ----------
    result
        The result.
    matrix
        The weights it is of.

    Raises
    ------
    Broken
        If anything does not hold.
    """
    saliency = np.abs(np.asarray(matrix).astype(np.float64))
    start = Problem.of(matrix, result.pattern, blocks=result.blocks).start
    if result.pattern.moves_rows:
        wrong = definitions.faults(result.solution, result.pattern, (saliency.shape[0], saliency.shape[1]))
        require(not wrong, "; ".join(wrong))
    else:
        perm, identity = result.perm.tolist(), list(range(saliency.shape[1]))
        require(sorted(perm) == identity, f"the solution is no permutation of {len(identity)} columns: {perm}")
        require(result.perm.dtype == np.int64, f"the permutation is of dtype {result.perm.dtype}, not int64")
    for name, solution in (("score", result.solution), ("baseline", start)):
        claimed, true = getattr(result, name), slow_score(saliency, solution, result.pattern)
        close = math.isclose(claimed, true, rel_tol=1e-12, abs_tol=0.0)
        require(close, f"{name}: the result says {claimed!r}, it is {true!r}; the problem must not be changed")
    require(result.score >= result.baseline, f"score {result.score!r} is below the identity's {result.baseline!r}")
    require(result.bound >= result.score * (1 - 1e-12), f"bound {result.bound!r} is below the score {result.score!r}")
    require(result.rows_bound >= result.bound, f"bound {result.bound!r} exceeds the rows bound {result.rows_bound!r}")
    require(isinstance(result.status, Status), f"{result.status!r} is no Status")


def lists(result: Result) -> dict[str, Any]:
    """Return a solution as lists, to compare.

    Parameters
    ----------
    result
        The result.

    Returns
    -------
    dict
        Lists by name.
    """
    return result.pattern.to_lists(result.solution)


def _only_columns(subject: Subject) -> None:
    """Skip what is so only where nothing but columns moves."""
    if subject.pattern.moves_rows:
        raise Skipped(f"{subject.pattern} moves rows, too")


@rule()
def describes_itself(subject: Subject, on: str) -> None:
    """Be a frozen, hashable dataclass that names its source, its unit of iteration and its options."""
    kind, solver = type(subject.solver), subject.solver
    require("__dataclass_params__" in vars(kind), f"{kind.__name__} lacks the decorator @dataclass(frozen=True)")
    for name in ("source", "unit"):
        value = getattr(solver, name)
        require(isinstance(value, str) and value, f"{kind.__name__}.{name} = {value!r} must be a non-empty string")
    # A dataclass without a docstring gets its signature for one, which says nothing.
    docs = [base.__doc__ or "" for base in kind.__mro__ if not (base.__doc__ or "").startswith(f"{base.__name__}(")]
    require(kind.__doc__ in docs, f"{kind.__name__} has no docstring")
    for name in solver.option_names():
        require(any(name in doc for doc in docs), f"the docstring of {kind.__name__} does not name option {name}")
    try:
        same = hash(dataclasses.replace(solver)) == hash(solver) and dataclasses.replace(solver) == solver
    except TypeError as error:
        raise Broken(f"it cannot be hashed: {error}; options are plain values") from error
    require(same, "a copy of it is not equal to it")


@rule(None)
def permutation_score_and_bound(subject: Subject, on: str) -> None:
    """Return a permutation, no worse than none, no better than the bound."""
    sound(subject.solved(on), subject.matrix(on))


@rule(None)
def trace_rises_with_time(subject: Subject, on: str) -> None:
    """Improve with time: the anytime curve starts at the identity, rises and ends at the result, and bounds fall."""
    result = subject.solved(on)
    times, scores, bounds = map(list, zip(*result.trace, strict=True))
    require(times == sorted(times) and times[0] == 0 and times[-1] <= result.runtime, f"times {times}")
    require(scores == sorted(scores), f"scores {scores}")
    require(bounds == sorted(bounds, reverse=True) and bounds[-1] == result.bound, f"bounds {bounds}")
    ends = zip((scores[0], scores[-1]), (result.baseline, result.score), strict=True)
    require(all(math.isclose(*pair, rel_tol=1e-12) for pair in ends), f"scores {scores} of {result.score!r}")


@rule(None)
def recomputing_finds_no_fault(subject: Subject, on: str) -> None:
    """Claim nothing that recomputing from the matrix does not confirm."""
    faults = subject.solved(on).check(subject.matrix(on))
    require(not faults, "; ".join(faults))


@rule(None)
def same_seed_same_permutation(subject: Subject, on: str) -> None:
    """Find the same permutation from the same seed under an iteration limit, for any number of threads."""
    first = subject.solved(on)
    for n_jobs in (1, 2):
        again = subject.solve(subject.matrix(on), on, seed=subject.seed, n_jobs=n_jobs)
        same = lists(again) == lists(first) and again.score == first.score
        require(same, f"n_jobs=1 scored {first.score!r}, with n_jobs={n_jobs} it was {again.score!r}; use run.rng only")
        counted = f"n_jobs=1 counted {first.iterations} iterations, with n_jobs={n_jobs} it was {again.iterations}"
        require(again.iterations == first.iterations, counted)


@rule()
def threads_do_not_matter_where_work_is_shared(subject: Subject, on: str) -> None:
    """Find the same with one, two and three threads on a matrix of hundreds of rows and columns."""
    matrix = uniform(height(700, subject.pattern), width(288, subject.pattern.m))
    stop = MaxIterations(subject.wide_iterations)
    scores: dict[str, tuple[int, float]] = {}
    for n_jobs in (1, 2, 3):
        result = subject.solve(matrix, subject.pattern, seed=subject.seed, n_jobs=n_jobs, stop=stop)
        scores.setdefault(str(lists(result)), (n_jobs, result.score))
    require(len(scores) == 1, f"(threads, score): {sorted(scores.values())}; never split a sum between threads")


@rule(None)
def input_is_not_modified(subject: Subject, on: str) -> None:
    """Write neither to the matrix nor to the problem."""
    matrix = subject.matrix(on) - 0.5
    problem = Problem.of(matrix, on)
    arrays = {"the matrix": matrix, "problem.columns": problem.columns, "problem.packed": problem.packed}
    before = {name: array.tobytes() for name, array in arrays.items()}
    subject.solve(matrix, on)
    subject.solve(problem, on)
    changed = [name for name, array in arrays.items() if array.tobytes() != before[name]]
    require(not changed, f"{' and '.join(changed)} changed; work on a copy")


@rule()
def read_only_input_is_accepted(subject: Subject, on: str) -> None:
    """Take a matrix that cannot be written to."""
    matrix = subject.matrix(subject.pattern)
    matrix.flags.writeable = False
    sound(subject.solve(matrix, subject.pattern), matrix)


@rule()
def no_global_random_state(subject: Subject, on: str) -> None:
    """Draw all random choices from run.rng; neither read nor seed the global generators."""
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global streams are what is watched
    try:
        # A state that no method would set: one that seeds the streams always leaves the same state behind.
        np.random.seed(987654321)  # noqa: NPY002
        random.seed(987654321)
        before = repr(np.random.get_state()), random.getstate()  # noqa: NPY002
        subject.solve(subject.matrix(subject.pattern), subject.pattern)
        after = repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    finally:
        np.random.set_state(kept[0])  # noqa: NPY002
        random.setstate(kept[1])
    require(before == after, "the state of numpy.random or random changed")


@rule(None)
def columns_stay_in_their_blocks(subject: Subject, on: str) -> None:
    """Permute the columns of the block that it is called with."""
    matrix, m = subject.matrix(on), parse(on).m
    first = matrix.shape[1]
    extra = max(first // 2 // m, 1) * m
    weights = np.hstack([matrix, matrix[:, ::-1], matrix[:, -extra:]])
    result = subject.solve(weights, on, blocks=(first, first + extra))
    if not result.pattern.moves_rows:  # for others the core checks it
        require(set(result.perm[:first].tolist()) == set(range(first)), "a column left the first block")
    sound(result, weights)
    require(result.blocks == (first, first + extra), f"the result's blocks are {result.blocks}")


@rule()
def blocks_of_one_group_have_nothing_to_search(subject: Subject, on: str) -> None:
    """Leave the score as it is where every block is a single group."""
    m = subject.pattern.m
    _only_columns(subject)
    matrix = subject.matrix(subject.pattern)
    result = subject.solve(matrix, subject.pattern, blocks=(m,) * (matrix.shape[1] // m))
    require(result.score == result.baseline, f"score {result.score!r}, the identity's {result.baseline!r}")


@rule(None)
def an_initial_permutation_is_never_made_worse(subject: Subject, on: str) -> None:
    """Return no less than the permutation that the user has already."""
    matrix = subject.matrix(on)
    problem, rng = Problem.of(matrix, on), np.random.default_rng(5)
    start = max((problem.pattern.draw(problem, rng) for _ in range(20)), key=problem.score)
    before = problem.pattern.to_lists(start)
    result = subject.solve(matrix, on, initial=start, stop=MaxIterations(max(subject.iterations // 2, 1)))
    least = slow_score(matrix, problem.pattern.from_lists(before), problem.pattern)
    require(result.score >= least * (1 - 1e-12), f"score {result.score!r}, the initial permutation's is {least!r}")
    require(problem.pattern.to_lists(start) == before, "the array of the initial permutation was changed")
    sound(result, matrix)


@rule(None)
def json_and_pickle_round_trips(subject: Subject, on: str) -> None:
    """Have a result that survives being written and read: options are plain values."""
    result = subject.solved(on)
    for again in (Result.from_json(result.to_json()), pickle.loads(pickle.dumps(result))):
        require(again.to_json() == result.to_json(), "the document is another one after reading it")
        require(lists(again) == lists(result), "the permutation is another one after reading it")
        require(again.check(subject.matrix(on)) == (), "; ".join(again.check(subject.matrix(on))))


@rule()
def no_iterations_allowed(subject: Subject, on: str) -> None:
    """Return a result even where no iterations are allowed."""
    matrix = subject.matrix(subject.pattern)
    sound(subject.solve(matrix, subject.pattern, stop=MaxIterations(0)), matrix)


@rule()
def a_limit_on_iterations_is_named(subject: Subject, on: str) -> None:
    """Say STOPPED where a limit ended the search, and only there."""
    result = subject.solve(subject.matrix(subject.pattern), subject.pattern, stop=MaxIterations(1))
    if result.status is Status.STOPPED:
        require(result.stopped_by == "MaxIterations(iterations=1)", f"stopped by {result.stopped_by}")
        require(result.iterations >= 1, "stopped by a limit of one iteration, counted none")
    else:
        ended = (Status.OPTIMAL, Status.COMPLETED, Status.LOCAL_OPTIMUM)
        require(result.status in ended and result.stopped_by is None, f"{result.status} by {result.stopped_by}")


@rule(None)
def nothing_follows_a_stop(subject: Subject, on: str) -> None:
    """Do no further iteration once run.proceed() has said no."""
    problem = Problem.of(subject.matrix(on), on)
    subject.supported(problem)
    limit = MaxIterations(max(subject.iterations // 2, 1))
    run = Run(problem, stop=limit | subject.patience, rng=np.random.default_rng(subject.seed))
    core = run.open()
    proceed, ended = core.proceed, []

    def watched() -> bool:
        more = proceed()
        if not more:
            ended.append(core.iterations)
        return more

    core.proceed = watched  # type: ignore[method-assign]
    subject.solver(problem, run)
    core.close()
    late = max(ended, default=0) - min(ended, default=0)
    require(late == 0, f"{late} iterations were done after run.proceed() said no; return when it does")


def _overrun(subject: Subject, matrix: Array, nm: str | Pattern, **more: Any) -> float:
    """Return by how much a tenth of a second is overrun, at best of three: this machine may be busy otherwise."""
    runs = (subject.solve(matrix, nm, stop=None, time_limit=0.1, **more).runtime for _ in range(3))
    return min(runtime - 0.1 for runtime in runs)


@rule(("2:4", "4:8", "hinm(32, 0.5, 2:4)", "16:2:8", "transposable(2:4)"))
def stops_in_time(subject: Subject, on: str) -> None:
    """Meet a time limit within the larger of 50 ms and 5%, up to 512 columns."""
    late = _overrun(subject, uniform(256, 512), on)
    require(late <= 0.05 + SLACK, f"a limit of 0.1 s was overrun by {late:.2f} s; ask run.proceed() more often")


@rule()
def stops_in_time_with_blocks(subject: Subject, on: str) -> None:
    """Share the time between the blocks."""
    block = width(128, subject.pattern.m)
    rows = height(64, subject.pattern)
    late = _overrun(subject, uniform(rows, 4 * block), subject.pattern, blocks=(block,) * 4)
    require(late <= 0.05 + SLACK, f"a limit of 0.1 s was overrun by {late:.2f} s; ask run.remaining()")


@rule(tuple(MATRICES))
def every_kind_of_matrix(subject: Subject, on: str) -> None:
    """Take ties, zeros, duplicates, odd shapes, types and magnitudes as nothing special."""
    matrix = subject.odd(on)
    sound(subject.solve(matrix, subject.pattern), matrix)


@rule(("constant", "all zero"))
def a_matrix_without_a_choice_is_optimal_at_once(subject: Subject, on: str) -> None:
    """Search nothing where the identity meets the bound on all rows."""
    result = subject.solve(subject.odd(on), subject.pattern)
    good = result.status is Status.OPTIMAL and result.gap <= 1e-12 and result.efficacy == 100
    require(good, f"{result.status}, gap {result.gap}, efficacy {result.efficacy}")


@rule()
def one_group(subject: Subject, on: str) -> None:
    """Prove the only way to put m columns into one group best."""
    _only_columns(subject)
    matrix = uniform(5, subject.pattern.m)
    result = subject.solve(matrix, subject.pattern)
    sound(result, matrix)
    require(result.status is Status.OPTIMAL, f"status {result.status}")
    require(result.score == result.baseline == result.bound, f"{result.baseline}, {result.score}, {result.bound}")


@rule(None)
def ends_by_itself(subject: Subject, on: str) -> None:
    """End by itself where nothing limits it."""
    for _, result in subject.small(on):
        require(result.status is not Status.STOPPED, f"not within {subject.patience.seconds:g} s")


@rule(None)
def bounds_are_true(subject: Subject, on: str) -> None:
    """Offer no bound below the optimum, and call nothing optimal that is not."""
    for matrix, result in subject.small(on):
        best = optimum(matrix, parse(on))
        require(result.bound >= best * (1 - 1e-9), f"bound {result.bound!r} ({result.bound_kind}), optimum {best!r}")
        optimal = result.status is Status.OPTIMAL
        require(not optimal or result.score >= best * (1 - 1e-9), f"score {result.score!r}, optimum {best!r}")
