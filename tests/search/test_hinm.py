"""Annealing of HiNM: valid, deterministic, within its limits, and better than what went before."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from permsolve.patterns.hinm import HiNM, HiNMSolution
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.hinm import search
from permsolve.search.tiles import DEAL_FROM, NARROW, WIDE, Tiles, effort_of, round_cost
from permsolve.solver import Status
from permsolve.stop import Criterion, MaxIterations, MaxRuntime


def normal(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Return magnitudes of normal weights."""
    values: np.ndarray = np.abs(np.random.RandomState(seed).standard_normal((rows, cols)))
    return values


def solved(
    matrix: np.ndarray,
    pattern: HiNM,
    stop: Criterion | None,
    *,
    jobs: int = 1,
    rows: bool = True,
    blocks: Any = None,
    initial: HiNMSolution | None = None,
    effort: float = 1.0,
) -> tuple[Problem, Run, Status]:
    """Search; return the problem, the run and the status."""
    problem = Problem.of(matrix, pattern, blocks=blocks)
    run = Run(problem, stop=stop, rng=np.random.default_rng(5), n_jobs=jobs, initial=initial)
    run.open()
    run.effort = effort
    return problem, run, search(problem, run, rows=rows)


def kept_share(problem: Problem, run: Run) -> float:
    """Return the share of the saliency that the incumbent keeps, by the reference scorer."""
    return problem.score(run.best) / float(problem.saliency.sum())


@pytest.mark.parametrize(
    ("rows", "cols", "pattern", "blocks"),
    [
        (32, 16, HiNM(8, 0.5, "2:4"), None),
        (32, 24, HiNM(4, 0.5, "2:4"), (8, 16)),
        (20, 24, HiNM(5, 0.7, "1:2"), (4, 20)),
        (33, 16, HiNM(11, 0.5, "4:8"), None),
        (6, 12, HiNM(1, 0.25, "2:3"), None),
        (16, 32, HiNM(16, 0.5, "2:4"), None),  # one tile
        (16, 32, HiNM(8, 0.0, "2:4"), None),  # nothing dropped
        (16, 32, HiNM(8, 0.9, "1:2"), None),  # one group kept
        (16, 32, HiNM(8, 0.75, "2:4"), (4, 28)),  # nothing kept of a block
        (34, 40, HiNM(17, 0.6, "2:4"), None),
    ],
)
def test_solutions_are_valid_and_better(rows: int, cols: int, pattern: HiNM, blocks: Any) -> None:
    problem, run, status = solved(normal(rows, cols), pattern, MaxIterations(200), blocks=blocks)
    solution = problem.check_solution(run.best)
    assert problem.score(solution) > 1.01 * problem.baseline
    assert status in (Status.COMPLETED, Status.STOPPED)
    assert run.iterations <= 200


@pytest.mark.parametrize(
    ("rows", "cols", "pattern"),
    [(64, 64, HiNM(8)), (512, 32, HiNM(32, 0.5, "2:4")), (24, 4 * DEAL_FROM * 2, HiNM(12, 0.5, "2:4"))],
)
def test_threads_do_not_change_the_result(rows: int, cols: int, pattern: HiNM) -> None:
    matrix, stop = normal(rows, cols), MaxIterations(12)
    one, two = (solved(matrix, pattern, stop, jobs=jobs)[1].best for jobs in (1, 3))
    assert one == two


def test_seeds_change_the_result() -> None:
    problem = Problem.of(normal(32, 32), HiNM(8))
    found = []
    for seed in (1, 1, 2):
        run = Run(problem, stop=MaxIterations(50), rng=np.random.default_rng(seed))
        run.open()
        search(problem, run)
        found.append(run.best)
    assert found[0] == found[1] != found[2]


def test_rows_stay_where_they_are_told_to() -> None:
    matrix, pattern = normal(32, 32), HiNM(8)
    problem, run, _ = solved(matrix, pattern, MaxIterations(300), rows=False)
    np.testing.assert_array_equal(run.best.rows, np.arange(32))
    assert problem.score(run.best) > problem.baseline
    _, free, _ = solved(matrix, pattern, MaxIterations(300))
    assert problem.score(free.best) > problem.score(run.best)


def test_rows_stay_in_the_tiles_of_the_start() -> None:
    problem = Problem.of(normal(32, 32), HiNM(8))
    start = problem.pattern.draw(problem, np.random.default_rng(3))
    run = Run(problem, stop=MaxIterations(20), rng=np.random.default_rng(1), initial=start)
    run.open()
    run.offer(start)
    search(problem, run, rows=False)
    np.testing.assert_array_equal(run.best.rows, start.rows)
    assert problem.score(run.best) > problem.score(start)


def test_the_planted_clusters_are_beaten() -> None:
    """Rows of a tile that like the same columns are found again, and what chance adds is found as well."""
    stream = np.random.RandomState(0)
    planted = np.abs(stream.standard_normal((64, 64))) * np.repeat(np.exp(stream.standard_normal((4, 64))), 16, axis=0)
    order = stream.permutation(64)
    matrix = planted[order]
    problem, run, _ = solved(matrix, HiNM(16), MaxIterations(2000))
    true_rows = np.argsort(order)
    sorted_start = problem.pattern.choose(problem, true_rows)  # type: ignore[attr-defined]
    fixed = Run(problem, stop=MaxIterations(2000), rng=np.random.default_rng(1), initial=sorted_start)
    fixed.open()
    search(problem, fixed, rows=False)
    assert problem.score(run.best) >= 0.999 * problem.score(fixed.best)


@pytest.mark.parametrize(("vector", "share"), [(32, 0.440), (64, 0.423)])
def test_quality(vector: int, share: float) -> None:
    """Gyro keeps 0.432 and 0.414 of such a matrix."""
    problem, run, _ = solved(normal(256, 256), HiNM(vector), MaxIterations(2000), jobs=2)
    assert kept_share(problem, run) > share


def test_an_optimum_is_found() -> None:
    """Two tiles that keep one group each: brute force over all rows and groups."""
    from itertools import combinations

    matrix = normal(6, 8)
    problem, run, _ = solved(matrix, HiNM(3, 0.5, "2:4"), MaxIterations(500))
    groups = [list(group) for group in combinations(range(8), 4)]

    def best(rows: tuple[int, ...]) -> float:
        return max(float(np.sort(matrix[list(rows)][:, group], axis=1)[:, 2:].sum()) for group in groups)

    halves = [(left, tuple(sorted(set(range(6)) - set(left)))) for left in combinations(range(6), 3)]
    optimum = max(best(left) + best(right) for left, right in halves)
    assert problem.score(run.best) == pytest.approx(optimum)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e290])
def test_scales_and_outliers_do_not_blind_the_search(scale: float) -> None:
    matrix = normal(32, 32)
    outliers = matrix.copy()
    outliers[3, 5] = 1e9
    problem, run, _ = solved(outliers * scale, HiNM(8), MaxIterations(300))
    found = problem.score(run.best) / scale - 1e9
    start = problem.baseline / scale - 1e9
    assert found > 1.04 * start


@pytest.mark.parametrize("kind", ["zero", "constant", "sparse", "tied"])
def test_degenerate_matrices(kind: str) -> None:
    stream = np.random.RandomState(1)
    matrix = {
        "zero": np.zeros((16, 16)),
        "constant": np.ones((16, 16)),
        "sparse": (stream.random_sample((16, 16)) < 0.02) * 1.0,
        "tied": np.round(stream.random_sample((16, 16)) * 2),
    }[kind]
    problem, run, _ = solved(matrix, HiNM(8), MaxIterations(50))
    assert problem.score(run.best) >= problem.baseline


def test_it_ends_by_itself_and_sooner_with_less_effort() -> None:
    rounds = []
    for effort in (0.02, 0.08):
        _, run, status = solved(normal(32, 32), HiNM(8), None, effort=effort)
        assert status is Status.COMPLETED
        rounds.append(run.iterations)
    assert rounds[1] > 2 * rounds[0]


def test_time_limits_hold() -> None:
    matrix = normal(64, 64)
    solved(matrix, HiNM(8), MaxIterations(2))  # compiles
    began = time.perf_counter()
    problem, run, _ = solved(matrix, HiNM(8), MaxRuntime(0.2))
    assert time.perf_counter() - began < 5.0  # a hang, not a slow machine
    assert problem.score(run.best) > problem.baseline


def test_nothing_is_done_once_the_limit_is_reached() -> None:
    _, run, status = solved(normal(32, 32), HiNM(8), MaxIterations(1))
    assert run.iterations == 1
    assert status is Status.STOPPED or status is Status.COMPLETED


def test_slots_keep_to_their_blocks() -> None:
    problem = Problem.of(normal(16, 24), HiNM(8), blocks=(8, 16))
    run = Run(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    tiles = Tiles(problem, run, True, problem.start)
    assert tiles.solution == problem.start
    before = tiles.value()
    epoch = tiles.epoch((1.0, 0.5), 0.0, 5)
    assert epoch.rounds == 5
    assert epoch.change == pytest.approx(tiles.value() - before, abs=1e-3)
    problem.check_solution(tiles.solution)
    scale = problem.score(tiles.solution) / tiles.value()
    assert scale == pytest.approx(problem.score(problem.start) / before, rel=1e-5)


def test_looking_for_temperatures_changes_nothing() -> None:
    problem = Problem.of(normal(64, 64), HiNM(16))
    run = Run(problem, stop=None, rng=np.random.default_rng(0))
    run.open()
    tiles = Tiles(problem, run, True, problem.start)
    scales = tiles.scout()
    assert tiles.solution == problem.start
    assert scales.unit > scales.hot > scales.cold > 0
    assert scales.spread > 0
    doubled = Problem.of(2 * normal(64, 64), HiNM(16))
    other = Run(doubled, stop=None, rng=np.random.default_rng(0))
    other.open()
    assert Tiles(doubled, other, True, doubled.start).scout() == scales  # in units of the largest entry


def test_wide_problems_are_assigned_as_well() -> None:
    narrow, wide = (Problem.of(normal(16, cols), HiNM(8)) for cols in (8 * DEAL_FROM - 8, 8 * DEAL_FROM))
    assert effort_of(narrow) == NARROW
    assert effort_of(wide) == WIDE
    assert round_cost(wide) > 2 * round_cost(narrow)
    problem, run, _ = solved(normal(16, 8 * DEAL_FROM), HiNM(8), MaxIterations(5))
    assert problem.score(run.best) > problem.baseline
