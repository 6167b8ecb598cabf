"""Method 'exact': optima, proofs, and what is true where it is interrupted."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, SOME_KINDS, cheapest_cover, groups_of, is_partition, matrix, worth
from helpers import brute_force, rarely, uniform

import permsolve
from permsolve import Problem, Status
from permsolve.errors import UnsupportedProblemError
from permsolve.instances.generators import duplicated_columns, planted
from permsolve.partition.quantise import Quantised
from permsolve.stop import MaxIterations


def optimum(values: np.ndarray, n: int, m: int) -> float:
    """Return the best score by dynamic programming over sets of columns, rounded up by a trifle."""
    quantised = Quantised.of(Problem.of(values, (n, m)))
    groups = groups_of(quantised.cols, m)
    units = cheapest_cover(groups, -worth(quantised.columns, groups, n), quantised.cols)
    return quantised.bound(int(-units))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "cols"), [(1, 2, 10), (2, 4, 12), (1, 4, 12), (3, 4, 12), (2, 3, 9)])
def test_few_columns(kind: str, n: int, m: int, cols: int) -> None:
    values = matrix(kind, 6, cols)
    result = permsolve.solve(values, (n, m), method="exact", n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(brute_force(values, n, m), rel=1e-9)
    assert result.bound >= brute_force(values, n, m) * (1 - 1e-15)
    assert result.check(values) == ()


@pytest.mark.parametrize("kind", rarely(KINDS, set(KINDS) - {"uniform", "duplicated"}))
def test_few_columns_in_large_groups(kind: str) -> None:
    test_few_columns(kind, 4, 8, 16)


@pytest.mark.parametrize("kind", rarely(SOME_KINDS, ["outliers"]))
@pytest.mark.parametrize(("n", "m", "cols"), [(1, 2, 18), (2, 4, 20), (2, 3, 18)])
def test_more_columns_than_dynamic_programming_takes(kind: str, n: int, m: int, cols: int) -> None:
    values = matrix(kind, 12, cols, seed=2)
    result = permsolve.solve(values, (n, m), method="exact", n_jobs=1)
    best = optimum(values, n, m)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(best, rel=1e-9)
    assert result.bound >= best * (1 - 1e-12)
    assert result.check(values) == ()


@pytest.mark.parametrize(("shape", "efficacy"), [((128, 64), 39.2594)])
def test_a_published_optimum(shape: tuple[int, int], efficacy: float) -> None:
    result = permsolve.solve(uniform(*shape), method="exact")
    assert result.status is Status.OPTIMAL
    assert result.bound_kind in ("exact", "lp")
    assert result.efficacy == pytest.approx(efficacy, abs=6e-5)


def test_no_search_beats_the_optimum() -> None:
    values = uniform(64, 32)
    result = permsolve.solve(values, method="exact", n_jobs=1)
    other = permsolve.solve(values, method="annealing", stop=MaxIterations(200_000), n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert other.score <= result.score * (1 + 1e-12)
    assert other.score >= result.score * 0.999


def test_planted_and_duplicated_optima() -> None:
    instance = planted(32, 48, seed=1)
    result = permsolve.solve(instance.matrix, method="exact", n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(instance.optimum, rel=1e-9)
    values = duplicated_columns(16, 20, seed=1)
    twice = permsolve.solve(values, method="exact", n_jobs=1)
    assert twice.status is Status.OPTIMAL
    assert twice.score == pytest.approx(optimum(np.asarray(values, dtype=np.float64), 2, 4), rel=1e-9)


@pytest.mark.parametrize("iterations", [2, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (1, 5, 50))])
def test_interrupted_it_says_so_and_what_it_proved_holds(iterations: int) -> None:
    for seed in range(2):
        values = matrix("uniform", 24, 20, seed)
        best = optimum(values, 2, 4)
        result = permsolve.solve(values, method="exact", stop=MaxIterations(iterations), n_jobs=1)
        assert result.status is Status.STOPPED if result.gap > 1e-9 else Status.OPTIMAL
        assert result.bound >= best * (1 - 1e-12)
        assert result.score <= best * (1 + 1e-12)
        assert result.check(values) == ()


@pytest.mark.parametrize("seconds", [1e-6, 0.02, 0.2])
def test_a_tiny_time_limit(seconds: float) -> None:
    values = uniform(256, 96)
    result = permsolve.solve(values, method="exact", time_limit=seconds, n_jobs=1)
    assert result.status is Status.STOPPED
    assert is_partition(result.perm, 96)
    assert result.score <= result.bound


@pytest.mark.parametrize("sizes", [(12, 8), (4, 4), (20, 12)])
def test_blocks(sizes: tuple[int, ...]) -> None:
    parts = [matrix("uniform", 8, size, seed) for seed, size in enumerate(sizes)]
    values = np.concatenate(parts, axis=1)
    result = permsolve.solve(values, method="exact", blocks=sizes, n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(sum(optimum(part, 2, 4) for part in parts), rel=1e-9)
    assert result.check(values) == ()


def test_blocks_that_reach_their_rows_bounds_are_optimal() -> None:
    half = np.zeros((2, 8))
    half[0, :4] = half[1, 4:] = 1
    one_sided = np.zeros((2, 16))
    one_sided[0, :8] = half[0] + half[1]
    values = np.concatenate([half, one_sided[:, :8] * 2], axis=1)  # the rows bound of the whole is more than both have
    result = permsolve.solve(values, method="exact", blocks=[8, 8], n_jobs=1)
    assert result.rows_bound > result.score
    assert result.status is Status.OPTIMAL
    assert result.bound == pytest.approx(result.score, rel=1e-9)


def test_a_stack_is_solved_as_one() -> None:
    pieces = [matrix("uniform", 5, 20, 1), matrix("uniform", 6, 20, 2)]
    result = permsolve.solve(Problem.stack(pieces), method="exact", n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(optimum(np.concatenate(pieces), 2, 4), rel=1e-9)


def test_the_number_of_threads_does_not_matter() -> None:
    values = uniform(48, 28)
    one, two = (permsolve.solve(values, method="exact", n_jobs=jobs) for jobs in (1, 2))
    assert one.perm.tolist() == two.perm.tolist()
    assert (one.bound, one.iterations) == (two.bound, two.iterations)


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(UnsupportedProblemError, match="lns"):
        permsolve.solve(np.ones((2, 172)), method="exact")
