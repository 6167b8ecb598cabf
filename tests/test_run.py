"""A run: what becomes of the offers of a method, good and bad."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import slow_score, uniform

import permsolve
from permsolve import Problem, Solver, Status
from permsolve.errors import SolverError
from permsolve.run import Run, gap
from permsolve.stop import MaxIterations, MaxRuntime

MATRIX = uniform(9, 16)
REVERSED = np.arange(16)[::-1]
GOOD = permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(5000)).perm


@dataclass(frozen=True)
class Scripted(Solver):
    """A method that does what the test says."""

    script: Callable[[Problem, Run], object] = lambda problem, run: Status.COMPLETED

    def warm_up(self, problem: Problem) -> None:
        """Nothing to compile."""

    def __call__(self, problem: Problem, run: Run) -> Status:
        return self.script(problem, run)  # type: ignore[return-value]


def solve(script: Callable[[Problem, Run], object], matrix: object = MATRIX, **more: object) -> permsolve.Result:
    return permsolve.solve(matrix, method=Scripted(script), **more)  # type: ignore[arg-type]


def make_run(problem: Problem, **more: object) -> Run:
    run = Run(problem, rng=np.random.default_rng(0), **{"stop": None, **more})  # type: ignore[arg-type]
    run.open()
    return run


@pytest.mark.parametrize(
    "offer",
    [
        np.zeros(16, dtype=int),
        np.arange(15),
        np.arange(17),
        np.arange(16).reshape(4, 4),
        np.arange(16.0),
        np.arange(16) + 1,
        [[0], [1, 2]],
        None,
        "perm",
    ],
    ids=["zeros", "short", "long", "2-D", "float", "shifted", "ragged", "none", "text"],
)
@pytest.mark.parametrize("blocks", [None, (8, 8)])
def test_an_offer_that_is_no_permutation_is_the_methods_fault(offer: object, blocks: tuple[int, ...] | None) -> None:
    with pytest.raises(SolverError):
        solve(lambda problem, run: run.offer(offer), blocks=blocks)  # type: ignore[arg-type]


def test_an_offer_that_leaves_its_block_is_the_methods_fault() -> None:
    problem = Problem.of(MATRIX, blocks=(8, 8))
    with pytest.raises(SolverError, match="block"):
        make_run(problem).offer(REVERSED)


@pytest.mark.parametrize("answer", [None, True, "completed", 1])
def test_an_answer_that_is_no_status_is_the_methods_fault(answer: object) -> None:
    with pytest.raises(SolverError):
        solve(lambda problem, run: answer)


def test_a_bound_below_the_incumbent_is_the_methods_fault() -> None:
    """Such a bound is refuted by the incumbent; taken at its word, it would prove anything optimal."""
    with pytest.raises(SolverError):
        solve(lambda problem, run: run.offer_bound(problem.baseline / 2) or Status.COMPLETED)


def test_a_claim_of_optimality_without_a_proof_is_not_believed() -> None:
    result = solve(lambda problem, run: Status.OPTIMAL)
    assert result.status is not Status.OPTIMAL
    assert result.gap > 0


def test_optimality_is_noticed_where_the_method_does_not_claim_it() -> None:
    result = solve(lambda problem, run: run.offer_bound(problem.baseline) or Status.COMPLETED)
    assert result.status is Status.OPTIMAL
    assert (result.bound, result.bound_kind, result.gap) == (result.score, "exact", 0)
    assert result.bound < result.rows_bound


def test_bounds_only_fall() -> None:
    def script(problem: Problem, run: Run) -> Status:
        for share in (0.5, 0.8, float("nan"), 0.2):
            run.offer_bound(problem.baseline + share * (problem.rows_bound - problem.baseline))
        return Status.COMPLETED

    result = solve(script)
    assert result.bound == pytest.approx(result.baseline + 0.2 * (result.rows_bound - result.baseline), rel=1e-12)
    assert result.bound_kind == "exact"
    assert [point.bound for point in result.trace] == sorted((p.bound for p in result.trace), reverse=True)


def test_bounds_of_blocks_add_up() -> None:
    """Every block's bound counts, and a block without one counts with its rows bound."""
    result = solve(lambda problem, run: run.offer_bound(problem.baseline) or Status.OPTIMAL, blocks=(8, 8))
    assert result.bound == pytest.approx(result.baseline, rel=1e-12)
    assert (result.bound_kind, result.status) == ("exact", Status.OPTIMAL)

    def first_only(problem: Problem, run: Run) -> Status:
        if run.best[0] == 0 and not offered:
            offered.append(run.offer_bound(problem.baseline))
        return Status.COMPLETED

    offered: list[None] = []
    partly = solve(first_only, blocks=(8, 8))
    assert result.bound < partly.bound < partly.rows_bound
    assert partly.status is not Status.OPTIMAL


def test_the_core_scores_offers_and_keeps_the_best() -> None:
    answers = []

    def script(problem: Problem, run: Run) -> Status:
        answers.extend(run.offer(perm) for perm in (GOOD, REVERSED, GOOD, GOOD[::-1], np.arange(16)))
        assert run.best.tolist() == GOOD.tolist()
        return Status.COMPLETED

    result = solve(script)
    assert answers == [True, False, False, False, False]
    assert result.score == pytest.approx(slow_score(MATRIX, GOOD, 2, 4), rel=1e-12)
    assert len(result.trace) == 2


def test_what_the_method_does_to_its_arrays_afterwards_does_not_matter() -> None:
    def script(problem: Problem, run: Run) -> Status:
        mine = GOOD.copy()
        run.offer(mine)
        mine[:] = 0
        run.best[:] = 0
        return Status.COMPLETED

    assert solve(script).perm.tolist() == GOOD.tolist()


def test_many_changed_groups_at_a_time_are_scored_right() -> None:
    """Offers are scored by what changed against the incumbent: a long row of them must not drift."""
    problem = Problem.of(uniform(31, 64))
    run = make_run(problem)
    rng = np.random.RandomState(3)
    perm = np.arange(64)
    for _ in range(300):
        trial = perm.copy()
        picked = rng.choice(64, size=rng.randint(2, 9), replace=False)
        trial[picked] = trial[np.roll(picked, 1)]
        if run.offer(trial):
            perm = trial
    assert run._core.score == pytest.approx(slow_score(problem.saliency, perm, 2, 4), rel=1e-13)
    assert run._core.score == pytest.approx(run._core.values.sum(), rel=1e-15)


def test_limits_on_iterations_are_counted() -> None:
    counts = []

    def script(problem: Problem, run: Run) -> Status:
        assert (run.iterations_left(), run.progress(), run.timed) == (10, 0.0, False)
        while run.proceed(3):
            counts.append((run.iterations, run.iterations_left(), run.progress()))
        assert run.iterations_left() == 0
        return Status.STOPPED

    result = solve(script, stop=MaxIterations(10))
    assert counts == [(3, 7, 0.3), (6, 4, 0.6), (9, 1, 0.9)]
    assert result.iterations == 12


def test_without_limits_there_is_no_share_and_no_end() -> None:
    run = make_run(Problem.of(MATRIX))
    assert run.proceed(10**9)
    assert run.progress() is None
    assert run.remaining() == run.iterations_left() == float("inf")
    assert not run.timed


def test_time_left() -> None:
    run = make_run(Problem.of(MATRIX), stop=MaxRuntime(100))
    assert run.timed
    assert 90 < run.remaining() <= 100
    assert 80 < run.within(seconds=95).remaining() <= 95
    assert run.within(seconds=200).remaining() <= 100


def test_runs_inside_a_run_share_the_incumbent_and_have_their_own_limits() -> None:
    outer = make_run(Problem.of(MATRIX), stop=MaxIterations(100))
    inner = outer.within(iterations=8)
    assert inner.offer(GOOD)
    assert outer.best.tolist() == GOOD.tolist()
    assert inner.proceed(4)
    assert inner.progress() == 0.5
    assert not inner.proceed(4)
    assert outer.proceed()
    assert (outer.iterations, outer.iterations_left()) == (8, 92)
    innermost = outer.within(iterations=1000).within(iterations=500)
    assert innermost.iterations_left() == 92
    assert not innermost.proceed(92)
    assert not outer.proceed()


def test_blocks_share_the_limits_by_their_number_of_exchanges() -> None:
    """Blocks of 8 and 16 columns: one to four; what one leaves the others get."""
    for used, expected in ((20, [20, 80]), (0, [20, 100])):
        seen: list[tuple[float, float]] = []

        def script(problem: Problem, run: Run, used: int = used, seen: list[tuple[float, float]] = seen) -> Status:
            seen.append((run.iterations_left(), run.remaining()))
            run.proceed(used if len(seen) == 1 else 0)
            return Status.COMPLETED

        result = solve(script, uniform(9, 24), blocks=(8, 16), stop=MaxIterations(100), time_limit=1000)
        assert [iterations for iterations, _ in seen] == expected
        assert seen[0][1] == pytest.approx(200, abs=5)
        assert seen[1][1] == pytest.approx(1000, abs=5)
        assert result.status is Status.COMPLETED


def test_every_block_is_searched() -> None:
    result = permsolve.solve(
        uniform(9, 96), method="random", options={"samples": 10**6}, blocks=(32, 32, 32), stop=MaxIterations(300)
    )
    for start in (0, 32, 64):
        assert result.perm[start : start + 32].tolist() != list(range(start, start + 32))
    assert result.iterations == 300


def test_the_share_inside_a_run_starts_at_nothing() -> None:
    outer = make_run(Problem.of(MATRIX), stop=MaxIterations(100))
    outer.proceed(60)
    inner = outer.within()
    assert inner.progress() == 0
    inner.proceed(20)
    assert inner.progress() == pytest.approx(0.5)


def test_the_effort_of_runs_inside_multiplies() -> None:
    run = make_run(Problem.of(MATRIX))
    assert run.effort == 1
    assert run.within(effort=0.5).within(effort=0.25).effort == 0.125


def test_a_run_on_some_columns_offers_for_them_alone() -> None:
    run = make_run(Problem.of(MATRIX))
    part = run.within(columns=slice(8, 16))
    assert part.best.tolist() == list(range(8))
    local = max(
        (np.random.RandomState(k).permutation(8) for k in range(20)), key=run._core.problem.part(slice(8, 16)).score
    )
    assert part.offer(local)
    assert run.best.tolist() == [*range(8), *(local + 8)]
    assert part.best.tolist() == local.tolist()
    with pytest.raises(SolverError, match="8 columns"):
        part.offer(np.arange(16))


def test_the_generator_of_a_run_inside_follows_from_the_seed() -> None:
    draws = [make_run(Problem.of(MATRIX)).within().rng.integers(10**9) for _ in range(2)]
    assert draws[0] == draws[1] != make_run(Problem.of(MATRIX)).rng.integers(10**9)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_map_keeps_the_order_and_uses_no_more_threads_than_allowed(n_jobs: int) -> None:
    names: set[str] = set()

    def square(x: int) -> int:
        names.add(threading.current_thread().name)
        return x * x

    run = make_run(Problem.of(MATRIX), n_jobs=n_jobs)
    assert run.map(square, range(50)) == [x * x for x in range(50)]
    assert 1 <= len(names) <= n_jobs
    assert (threading.current_thread().name in names) == (n_jobs == 1)
    run._core.close()


def test_an_error_in_a_thread_comes_out() -> None:
    run = make_run(Problem.of(MATRIX), n_jobs=2)
    with pytest.raises(ZeroDivisionError):
        run.map(lambda x: 1 // x, [1, 0])
    run._core.close()


def test_no_threads_are_left_behind() -> None:
    before = threading.active_count()
    permsolve.solve(uniform(64, 512), method="assignment", n_jobs=3, stop=MaxIterations(2))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("score", "bound", "expected"), [(3, 4, 0.25), (4, 4, 0), (4, 4 - 1e-15, 0), (5, 4, 0), (0, 0, 0)]
)
def test_gap(score: float, bound: float, expected: float) -> None:
    assert gap(score, bound) == expected
