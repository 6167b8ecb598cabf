"""Gyro-permutation: its clusters, costs and assignments against slow definitions, and the faults of other code."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import uniform
from scipy.optimize import linear_sum_assignment

import permsolve
from permsolve import HiNM, Problem, Status
from permsolve.errors import OptionError, UnsupportedProblemError
from permsolve.kernels.balanced import assign_balanced
from permsolve.kernels.gyro import dropped, largest_sum
from permsolve.run import Run
from permsolve.search import gyro
from permsolve.search.clusters import balanced_clusters
from permsolve.search.gyro import InputPhase, OutputPhase, scaled_rows
from permsolve.stop import MaxIterations, MaxRuntime

#: Shares of columns that tiles drop: code that is right for one half only is wrong for the others.
SHARES = [0.0, 0.25, 0.5, 0.75, 0.8]
BLOCKS = (24, 8, 16)


def normal(seed: int) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).standard_normal((256, 256)))


def planted(seed: int, vector: int) -> np.ndarray:
    """Rows of equally scaled columns belong together; they are shuffled."""
    rng = np.random.default_rng(seed)
    weights = np.abs(rng.standard_normal((256, 256)))
    scales = np.exp(rng.standard_normal((256 // vector, 256))).repeat(vector, axis=0)
    return np.asarray((weights * scales)[rng.permutation(256)])


def make_run(problem: Problem, **more: Any) -> Run:
    run = Run(problem, rng=np.random.default_rng(0), **{"stop": None, **more})
    run.open()
    return run


def make_output(problem: Problem, **more: Any) -> OutputPhase:
    return OutputPhase(problem, make_run(problem, **more), scaled_rows(problem), np.arange(problem.rows))


def make_input(problem: Problem, failures: int = 3) -> InputPhase:
    return InputPhase(problem, make_run(problem), scaled_rows(problem), problem.start, failures)


def slow_dropped(saliency: Any, tiles: Any, pattern: HiNM, blocks: tuple[int, ...] | None = None) -> float:
    """Sum what all but the best columns of every tile and block hold, column by column."""
    total = 0.0
    for tile in np.asarray(tiles).tolist():
        start = 0
        for size in blocks or (saliency.shape[1],):
            sums = sorted(sum(float(saliency[row, start + k]) for row in tile) for k in range(size))
            total += sum(sums[: size - pattern.kept(size)])
            start += size
    return total


def slow_kept(saliency: Any, rows: Any, columns: Any, pattern: HiNM) -> float:
    """Sum the n largest of every group of every row of a tile, by sorting lists of Python numbers."""
    total = 0.0
    for row in rows:
        entries = [float(saliency[row, column]) for column in columns]
        for first in range(0, len(entries), pattern.m):
            total += sum(sorted(entries[first : first + pattern.m], reverse=True)[: pattern.n])
    return total


# Balanced clusters


@pytest.mark.parametrize("kind", ["real", "tied", "equal", "negative", "far"])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 5), (2, 1), (3, 4), (7, 3), (16, 8)])
def test_balanced_assignments_are_best_and_their_prices_prove_it(kind: str, count: int, size: int) -> None:
    stream = np.random.RandomState(count * 10 + size)
    cost = {
        "real": stream.rand(count * size, count),
        "tied": stream.randint(0, 3, size=(count * size, count)).astype(float),
        "equal": np.full((count * size, count), 7.0),
        "negative": -stream.rand(count * size, count),
        "far": np.exp(20 * stream.rand(count * size, 1)) * stream.rand(1, count),  # all points agree on the clusters
    }[kind]
    clusters, prices = np.empty((count, size), dtype=np.int64), np.empty(count)
    assign_balanced(cost, clusters, prices, np.zeros(1, dtype=np.bool_))
    assert sorted(clusters.ravel()) == list(range(count * size))
    repeated = np.repeat(cost, size, axis=1)
    best = repeated[linear_sum_assignment(repeated)].sum()
    assert cost[clusters, np.arange(count)[:, None]].sum() == pytest.approx(best, rel=1e-12)
    reduced = cost - prices
    for cluster, members in enumerate(clusters):
        own = reduced[members, cluster][:, None]
        assert (own <= reduced[members] + 1e-9 * np.abs(cost).max()).all()


def spread(points: np.ndarray, clusters: np.ndarray) -> float:
    return float(sum(((points[cluster] - points[cluster].mean(axis=0)) ** 2).sum() for cluster in clusters))


def test_rounds_of_clustering_bring_points_together() -> None:
    points = planted(3, 32)[:64].astype(np.float32)
    results = [balanced_clusters(points, 8, np.random.default_rng(5), rounds=rounds) for rounds in (1, 2, 20)]
    for clusters in results:
        assert clusters.shape == (8, 8)
        assert sorted(clusters.ravel()) == list(range(64))
        assert (np.diff(clusters, axis=1) > 0).all()
    first, second, last = (spread(points, clusters) for clusters in results)
    assert first > second >= last
    assert last < 0.9 * spread(points, np.arange(64).reshape(8, 8))


def test_clusters_that_lie_apart_are_found() -> None:
    stream = np.random.RandomState(0)
    centres = 100.0 * np.eye(6)
    points = centres.repeat(4, axis=0) + stream.rand(24, 6)
    order = stream.permutation(24)
    found = [balanced_clusters(points[order], 4, np.random.default_rng(seed)) for seed in range(8)]
    right = [all(len(set((order[cluster] // 4).tolist())) == 1 for cluster in clusters) for clusters in found]
    assert sum(right) >= 1  # k-means depends on where it starts
    assert min(spread(points[order], clusters) for clusters in found) < 24 * 6 / 4


# Costs of the output phase


@pytest.mark.parametrize("guess", [-5.0, 0.0, 0.5, 3.0, 1e9])
@pytest.mark.parametrize(
    "values",
    [
        np.array([0.25]),
        np.zeros(7),
        np.full(9, 0.1),
        uniform(1, 33)[0],
        np.exp(40 * uniform(1, 64)[0]),
        np.repeat([3.0, 1.0, 2.0], 5),
        np.concatenate([np.zeros(20), uniform(1, 5)[0]]),
        np.random.RandomState(1).randint(0, 4, size=50).astype(float),
    ],
    ids=["one", "zeros", "constant", "uniform", "heavy", "ties", "few", "integers"],
)
def test_sums_of_the_largest_from_any_guess(values: np.ndarray, guess: float) -> None:
    for kept in range(1, len(values) + 1):
        total, limit = largest_sum(values, kept, guess)
        assert total == pytest.approx(np.sort(values)[::-1][:kept].sum(), rel=1e-12)
        assert (values > limit).sum() <= kept <= (values >= limit).sum()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("blocks", [None, BLOCKS])
@pytest.mark.parametrize("tied", [False, True])
def test_costs_are_what_tiles_drop(share: float, blocks: tuple[int, ...] | None, tied: bool) -> None:
    pattern = HiNM(3, share)
    tiles, clusters = uniform(4, 48), uniform(5, 48, seed=2)
    if tied:
        tiles, clusters = np.round(3 * tiles), np.round(2 * clusters)
    ends = np.cumsum(blocks or (48,))
    kept = np.array(pattern.kept_of(48, blocks))
    costs = np.full((4, 5), np.nan)
    for first, last in ((0, 1), (1, 4)):
        dropped(tiles, clusters, ends, kept, np.zeros((4, len(ends))), first, last, np.zeros(1, dtype=np.bool_), costs)
    for t, c in itertools.product(range(4), range(5)):
        expected = slow_dropped((tiles[t] + clusters[c])[None], [[0]], pattern, blocks)
        assert costs[t, c] == pytest.approx(expected, rel=1e-12, abs=1e-12)


# The output phase


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("blocks", [None, BLOCKS])
def test_accepted_costs_fall_and_are_what_tiles_drop(share: float, blocks: tuple[int, ...] | None) -> None:
    matrix = uniform(40, 48)
    problem = Problem.of(matrix, HiNM(8, share), blocks=blocks)
    phase = make_output(problem)
    data = scaled_rows(problem)
    assert phase.possible == (share > 0)
    cost, rows = phase.cost, phase.rows.copy()
    answers = []
    for size in [8, 1, 4, 1, 2, 1, 1] * 6:
        answers.append(phase.attempt(size))
        if answers[-1]:
            assert phase.cost < cost
            assert phase.cost == pytest.approx(slow_dropped(data, phase.rows, problem.pattern, blocks), rel=1e-12)
        else:
            assert phase.cost == cost
            np.testing.assert_array_equal(phase.rows, rows)
        assert sorted(phase.rows.ravel()) == list(range(40))
        np.testing.assert_allclose(phase.sums, data[phase.rows].sum(axis=1, dtype=np.float64), rtol=1e-12)
        cost, rows = phase.cost, phase.rows.copy()
    assert False in answers
    assert (True in answers) == (share > 0)
    # The columns that tiles keep are those that the cost counted as kept.
    chosen = phase.columns()
    held = sum(float(phase.sums[t, columns].sum()) for t, columns in enumerate(chosen))
    assert held + phase.cost == pytest.approx(float(phase.sums.sum()), rel=1e-12)
    problem.check_solution(permsolve.patterns.HiNMSolution(phase.rows.ravel(), chosen))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_attempt_is_the_best_of_all_assignments(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clusters can go to four tiles in 24 ways."""
    problem = Problem.of(uniform(16, 24), HiNM(4, 0.5))
    phase = make_output(problem)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    compute = gyro.dropped

    def watched(rest: np.ndarray, added: np.ndarray, *others: Any) -> None:
        seen.append((rest.copy(), added.copy()))
        compute(rest, added, *others)

    monkeypatch.setattr(gyro, "dropped", watched)
    for _ in range(12):
        before = phase.cost
        phase.attempt(size)
        rest, added = seen[-1]
        ways = itertools.permutations(range(4))
        best = min(slow_dropped(rest + added[list(way)], np.arange(4)[:, None], problem.pattern) for way in ways)
        assert phase.cost == pytest.approx(min(before, best), rel=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_every_retry_takes_other_rows(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all rows are equal nothing improves, and retries differ all the same."""
    matrix = np.repeat(uniform(1, 24), 32, axis=0)
    phase = make_output(Problem.of(matrix, HiNM(8, 0.5)))
    seen: list[bytes] = []
    take = np.take_along_axis

    def watched(rows: np.ndarray, taken: np.ndarray, axis: int) -> np.ndarray:
        seen.append(np.sort(taken, axis=1).tobytes())
        return np.asarray(take(rows, taken, axis=axis))

    monkeypatch.setattr(gyro.np, "take_along_axis", watched)
    assert not any(phase.attempt(size) for _ in range(10))
    assert len(set(seen)) == 10


# The input phase


@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "4:8"])
@pytest.mark.parametrize("share", SHARES[:-1])
@pytest.mark.parametrize("blocks", [None, (32, 16, 48)])
@pytest.mark.parametrize("kind", ["real", "tied"])
def test_values_of_tiles_rise_and_are_what_they_keep(
    nm: str, share: float, blocks: tuple[int, ...] | None, kind: str
) -> None:
    """Ties count the largest entries, and what an assignment permutes it permutes once."""
    matrix = uniform(14, 96) if kind == "real" else np.random.RandomState(3).randint(0, 3, size=(14, 96))
    problem = Problem.of(matrix, HiNM(7, share, nm), blocks=blocks)
    phase, data = make_input(problem), scaled_rows(problem)
    start, values = problem.start, phase.tiles.values.copy()
    rose = 0
    for _ in range(12):
        phase.sweep()
        solution = problem.check_solution(phase.solution)
        np.testing.assert_array_equal(solution.rows, start.rows)
        np.testing.assert_array_equal(np.sort(solution.columns, axis=1), np.sort(start.columns, axis=1))
        assert (phase.tiles.values >= values).all()
        rose += int((phase.tiles.values > values).sum())
        values = phase.tiles.values.copy()
        for tile in range(2):
            kept = slow_kept(data, solution.rows.reshape(2, 7)[tile], solution.columns[tile], problem.pattern)
            assert values[phase.tiles.parts[:, 0] == tile].sum() == pytest.approx(kept, rel=1e-6)
    several = (phase.tiles.parts[:, 2] - phase.tiles.parts[:, 1] > 1).any()
    assert rose > 2 if several else rose == 0


def test_a_sweep_is_the_best_of_all_assignments() -> None:
    """Four groups that lose a column each can be refilled in 24 ways."""
    problem = Problem.of(uniform(5, 32), HiNM(5, 0.5))
    phase, data = make_input(problem), scaled_rows(problem)
    changed = 0
    for _ in range(12):
        before, value = phase.tiles.members[0].copy(), phase.tiles.values[0]
        phase.sweep()
        block = phase._benches[0].block
        slots, names = block.slots.copy(), block.names.copy()
        np.testing.assert_array_equal(before[np.arange(4), slots], names)
        best = value
        for refill in itertools.permutations(names.tolist()):
            trial = before.copy()
            trial[np.arange(4), slots] = refill
            columns = problem.start.columns[0][trial.ravel()]
            best = max(best, slow_kept(data, range(5), columns, problem.pattern))
        assert phase.tiles.values[0] == pytest.approx(best, rel=1e-6)
        changed += bool(phase.tiles.values[0] > value)
        assert phase.tiles.misses[0] == 0 if phase.tiles.values[0] > value else phase.tiles.misses[0] > 0
    assert 0 < changed < 12


def test_a_tile_is_left_alone_after_failures_in_a_row() -> None:
    phase = make_input(Problem.of(uniform(12, 32), HiNM(4, 0.5)), failures=2)
    sweeps: list[np.ndarray] = []
    while phase.active.size:
        before = phase.tiles.values.copy()
        active = phase.active
        phase.sweep()
        idle = np.setdiff1d(np.arange(3), active)
        np.testing.assert_array_equal(phase.tiles.values[idle], before[idle])
        sweeps.append(phase.tiles.values > before)
    for tile in range(3):
        rose = [bool(each[tile]) for each in sweeps]
        last = max(k for k, each in enumerate(rose) if each) if any(rose) else -1
        assert not any(not rose[k] and not rose[k + 1] for k in range(last))
        assert phase.tiles.misses[tile] == 2


def test_single_groups_have_nothing_to_exchange() -> None:
    problem = Problem.of(uniform(8, 16), HiNM(4, 0.5), blocks=(8, 8))
    phase = make_input(problem)
    assert phase.active.size == 0
    result = permsolve.solve(uniform(8, 16), HiNM(4, 0.5), blocks=(8, 8), method="gyro")
    assert result.check(uniform(8, 16)) == ()


# The method


@pytest.mark.parametrize(
    ("kind", "vector", "share", "least"),
    [
        ("normal", 32, 0.5, 0.4315),
        ("normal", 64, 0.5, 0.413),
        ("normal", 32, 0.75, 0.2295),
        ("planted", 32, 0.5, 0.690),
        ("planted", 64, 0.5, 0.6781),
    ],
)
def test_it_keeps_what_the_reference_keeps(kind: str, vector: int, share: float, least: float) -> None:
    kept = []
    for seed in range(3):
        matrix = normal(seed) if kind == "normal" else planted(seed, vector)
        result = permsolve.solve(matrix, HiNM(vector, share), method="gyro", n_jobs=1, seed=seed)
        assert result.status is Status.COMPLETED
        kept.append(result.score / matrix.sum())
    assert np.mean(kept) >= least


def test_each_phase_alone_keeps_what_the_reference_keeps() -> None:
    """A corrected implementation of the published code keeps .4068 by the identity and .4151 by the output phase."""
    means = []
    for options in ({"samples": "", "failures": 0}, {"failures": 0}, {"samples": ""}):
        results = [
            permsolve.solve(normal(s), HiNM(32, 0.5), method="gyro", options=options, n_jobs=1) for s in range(3)
        ]
        means.append(np.mean([result.score / normal(s).sum() for s, result in enumerate(results)]))
    identity, output, inputs = means
    assert identity == pytest.approx(0.4068, abs=5e-5)
    assert output >= 0.4151
    assert inputs >= 0.42


@pytest.mark.parametrize("share", SHARES[:-1])
@pytest.mark.parametrize("vector", [1, 5, 10, 30])
def test_solutions_have_the_structure_that_they_promise(share: float, vector: int) -> None:
    matrix = uniform(30, 64) - 0.3
    pattern = HiNM(vector, share)
    result = permsolve.solve(matrix, pattern, method="gyro", n_jobs=1)
    kept, tiles = pattern.kept(64), 30 // vector
    rows, columns = result.solution.rows.reshape(tiles, vector), result.solution.columns
    assert sorted(rows.ravel()) == list(range(30))
    assert columns.shape == (tiles, kept)
    mask = result.mask(matrix)
    np.testing.assert_array_equal(mask.sum(axis=1), kept // 2)
    for tile in range(tiles):
        assert len(set(columns[tile].tolist())) == kept
        grouped = mask[np.ix_(rows[tile], columns[tile])].reshape(vector, -1, 4)
        assert (grouped.sum(axis=2) == 2).all()
    assert result.score == pytest.approx(np.abs(matrix)[mask].sum(), rel=1e-12)
    assert result.score >= result.baseline
    np.testing.assert_array_equal(result.undo(result.apply(matrix)), matrix)
    assert result.check(matrix) == ()


@pytest.mark.parametrize("blocks", [None, (64, 32, 32)])
def test_threads_do_not_change_the_result(blocks: tuple[int, ...] | None) -> None:
    matrix = uniform(96, 128)
    solutions = [
        permsolve.solve(
            matrix, HiNM(8, 0.5), blocks=blocks, method="gyro", n_jobs=jobs, seed=3, stop=MaxIterations(60)
        ).solution
        for jobs in (1, 2, 3)
    ]
    assert solutions[0] == solutions[1] == solutions[2]


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((8, 32)),
        np.full((8, 32), 0.1),
        np.random.RandomState(2).randint(0, 3, size=(8, 32)),
        uniform(8, 32) * 1e300,
        uniform(8, 32) * 1e-300,
        np.exp(12 * uniform(8, 32)),
        np.repeat(uniform(8, 8), 4, axis=1),
        np.random.RandomState(4).randint(0, 100, size=(8, 32)).astype(np.float32) * np.float32(1e-45),
    ],
    ids=["zero", "constant", "tied", "huge", "tiny", "heavy", "duplicates", "subnormal"],
)
@pytest.mark.parametrize("pattern", [HiNM(4, 0.5), HiNM(2, 0.3, "1:2"), HiNM(8, 0.0, "3:4"), HiNM(1, 0.75, "4:8")])
def test_every_kind_of_matrix(matrix: np.ndarray, pattern: HiNM) -> None:
    result = permsolve.solve(matrix, pattern, method="gyro", n_jobs=1)
    assert result.check(matrix) == ()
    assert result.score >= result.baseline


def test_blocks_keep_their_shares_and_may_keep_nothing() -> None:
    matrix = uniform(24, 60)
    pattern, blocks = HiNM(6, 0.5), (24, 4, 32)
    result = permsolve.solve(matrix, pattern, blocks=blocks, method="gyro", n_jobs=1)
    assert pattern.kept_of(60, blocks) == [12, 0, 16]
    assert (result.solution.columns[:, :12] < 24).all()
    assert (result.solution.columns[:, 12:] >= 28).all()
    assert result.score > result.baseline
    assert result.check(matrix) == ()


def test_a_given_solution_is_where_it_starts() -> None:
    """With a single tile only groups change: what the tile keeps stays as it was given."""
    matrix = uniform(16, 32)
    problem = Problem.of(matrix, HiNM(16, 0.5))
    given = permsolve.patterns.HiNMSolution(np.arange(16), np.arange(16, 32)[None])
    result = permsolve.solve(problem, problem.pattern, method="gyro", initial=given, n_jobs=1)
    assert result.score >= max(problem.score(given), result.baseline)
    with_time = permsolve.solve(problem, problem.pattern, method="gyro", stop=MaxRuntime(0.0), n_jobs=1)
    assert with_time.status is Status.STOPPED
    phase = InputPhase(problem, make_run(problem), scaled_rows(problem), given, 3)
    phase.sweep()
    assert sorted(phase.solution.columns[0]) == list(range(16, 32))


def test_options_are_checked() -> None:
    for options in ({"samples": "8,0"}, {"samples": "8;1"}, {"samples": (8, 1)}, {"tries": 0}, {"failures": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            permsolve.solve(uniform(8, 16), HiNM(4, 0.5), method="gyro", options=options)
    with pytest.raises(UnsupportedProblemError, match="hinm"):
        permsolve.solve(uniform(8, 16), method="gyro")
