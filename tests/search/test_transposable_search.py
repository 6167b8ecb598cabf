"""The search for rows and columns of transposable masks."""

from __future__ import annotations

import time

import numpy as np
import pytest

from permsolve.patterns import Transposable, TransposableSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.transposable import END, FREEZING, START, search, temperature
from permsolve.solver import Status
from permsolve.stop import Criterion, MaxIterations, MaxRuntime


def normal(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.abs(np.random.RandomState(seed).standard_normal((rows, cols)))


def solve(
    problem: Problem, stop: Criterion | None, *, seed: int = 0, n_jobs: int = 1, initial: object = None
) -> tuple[Run, Status]:
    run = Run(problem, stop=stop, rng=np.random.default_rng(seed), n_jobs=n_jobs, initial=initial)
    run.open()
    return run, search(problem, run)


@pytest.mark.parametrize(("n", "m", "shape"), [(2, 4, (32, 48)), (1, 2, (30, 14)), (2, 3, (24, 36)), (4, 8, (48, 32))])
def test_it_beats_random_permutations(n: int, m: int, shape: tuple[int, int]) -> None:
    problem = Problem.of(normal(*shape), Transposable(n, m))
    run, status = solve(problem, MaxIterations(20_000))
    assert status is Status.STOPPED
    assert run.iterations == 20_000
    rng = np.random.default_rng(1)
    drawn = max(problem.score(problem.pattern.draw(problem, rng)) for _ in range(200))
    assert problem.score(run.best) > drawn


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3)])
def test_a_planted_order_is_found(n: int, m: int) -> None:
    """Blocks that can be kept whole: n ones in every row and column, the rest zero, rows and columns shuffled."""
    rng = np.random.default_rng(0)
    block = np.roll(np.tile(np.arange(m) < n, (m, 1)), 0)
    block = np.array([np.roll(row, i) for i, row in enumerate(block)], dtype=float)
    planted = np.tile(block, (4, 4)) * rng.integers(1, 3, size=(4, 1, 4, 1)).repeat(m, 1).repeat(m, 3).reshape(
        4 * m, -1
    )
    planted[:m] *= 2  # equal copies alone would fit in any order
    problem = Problem.of(planted[rng.permutation(4 * m)][:, rng.permutation(4 * m)], Transposable(n, m))
    run, _ = solve(problem, MaxIterations(60_000))
    assert problem.score(problem.start) < planted.sum()
    assert problem.score(run.best) == pytest.approx(planted.sum(), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "shape"), [(2, 4, (24, 280)), (4, 8, (16, 272))])
def test_the_seed_decides_whatever_the_number_of_threads(n: int, m: int, shape: tuple[int, int]) -> None:
    problem = Problem.of(normal(*shape), Transposable(n, m))
    runs = [solve(problem, MaxIterations(3_000), seed=seed, n_jobs=jobs)[0] for seed, jobs in ((1, 1), (1, 3), (2, 1))]
    assert runs[0].best == runs[1].best
    assert runs[0].best != runs[2].best
    assert runs[0].iterations == runs[1].iterations == 3_000


def test_columns_stay_in_their_blocks() -> None:
    saliency = normal(16, 40)
    saliency[:, ::2] *= 3
    problem = Problem.of(saliency, Transposable(2, 4), blocks=[16, 4, 20])
    run, _ = solve(problem, MaxIterations(5_000))
    block = np.repeat([0, 1, 2], [16, 4, 20])
    np.testing.assert_array_equal(block[run.best.columns], block)
    assert problem.score(run.best) > problem.score(problem.start)
    assert not np.array_equal(run.best.columns, np.arange(40))
    assert not np.array_equal(run.best.rows, np.arange(16))


@pytest.mark.parametrize("shape", [(4, 32), (32, 4)])
def test_one_group_of_rows_or_of_columns(shape: tuple[int, int]) -> None:
    problem = Problem.of(normal(*shape), Transposable(2, 4))
    run, _ = solve(problem, MaxIterations(5_000))
    assert problem.score(run.best) > problem.score(problem.start)


def test_nothing_to_exchange_ends_at_once() -> None:
    run, status = solve(Problem.of(normal(4, 4), Transposable(2, 4)), None)
    assert status is Status.LOCAL_OPTIMUM
    assert run.iterations == 0


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_it_ends_in_time(n: int, m: int) -> None:
    problem = Problem.of(normal(128, 128), Transposable(n, m))
    solve(problem, MaxIterations(300))  # compiles
    run, _ = solve(problem, MaxRuntime(0.4))
    assert run._core.elapsed() >= 0.4 - 0.01
    began = time.perf_counter()
    assert problem.score(run.best) > problem.score(problem.start)
    assert time.perf_counter() > began


def test_without_limits_the_schedule_ends() -> None:
    problem = Problem.of(normal(16, 16), Transposable(2, 4))
    run, status = solve(problem, None)
    assert status is Status.COMPLETED
    assert problem.score(run.best) > problem.score(problem.start)


def test_it_starts_where_it_is_told_to() -> None:
    """One cold proposal does not lead far from the initial solution."""
    problem = Problem.of(normal(32, 32), Transposable(2, 4))
    good = solve(problem, MaxIterations(20_000))[0].best
    run, _ = solve(problem, MaxIterations(1), initial=good)
    moved = sum((getattr(run.best, name) != getattr(good, name)).sum() for name in ("rows", "columns"))
    assert moved <= 2
    assert isinstance(run.best, TransposableSolution)


def test_zeros_and_huge_weights_do_no_harm() -> None:
    for factor in (0.0, 1e300, 1e-300):
        problem = Problem.of(normal(8, 8) * factor, Transposable(2, 4))
        run, _ = solve(problem, MaxIterations(500))
        assert problem.score(run.best) >= problem.score(problem.start)


def test_it_cools() -> None:
    assert temperature(0.0) == START
    assert temperature(0.45) == pytest.approx(np.sqrt(START * END))
    assert temperature(0.95) == temperature(1.2) == FREEZING
