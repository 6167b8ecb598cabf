"""Method 'tilewise': every tile's kept columns regrouped as well as its own n:m problem can be."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import uniform

import permsolve
from permsolve import HiNM, Problem, Status
from permsolve.errors import UnsupportedProblemError
from permsolve.partition import values as group_values
from permsolve.stop import MaxIterations


def tiles_of(values: np.ndarray, result: permsolve.Result, vector: int) -> list[np.ndarray]:
    solution = result.solution
    return [
        values[np.ix_(rows, kept)]
        for rows, kept in zip(solution.rows.reshape(-1, vector), solution.columns, strict=True)
    ]


def test_every_tile_ends_in_its_proved_optimum() -> None:
    values = uniform(16, 48)
    start = permsolve.solve(values, HiNM(8, 0.5), method="gyro", n_jobs=1)
    result = permsolve.solve(values, HiNM(8, 0.5), method="tilewise", initial=start.solution, n_jobs=1)
    best = [permsolve.solve(tile, method="exact", n_jobs=1) for tile in tiles_of(values, result, 8)]
    assert all(each.status is Status.OPTIMAL for each in best)
    assert result.score == pytest.approx(sum(each.score for each in best), rel=1e-9)
    assert result.score > start.score


def test_rows_and_the_choice_of_columns_stay() -> None:
    values = uniform(12, 40)
    start = permsolve.solve(values, HiNM(6, 0.4), method="gyro", n_jobs=1).solution
    found = permsolve.solve(values, HiNM(6, 0.4), method="tilewise", initial=start, n_jobs=1).solution
    assert (found.rows == start.rows).all()
    assert (np.sort(found.columns, axis=1) == np.sort(start.columns, axis=1)).all()
    assert (found.columns != start.columns).any()


def test_blocks_of_columns_keep_their_own() -> None:
    values, blocks = uniform(8, 48), (24, 4, 20)
    result = permsolve.solve(values, HiNM(4, 0.5), method="tilewise", blocks=blocks, n_jobs=1)
    problem = Problem.of(values, HiNM(4, 0.5), blocks=blocks)
    assert problem.score(result.solution) == pytest.approx(result.score, rel=1e-12)
    assert result.score > result.baseline


@pytest.mark.parametrize("wide", [False, True])
def test_it_starts_from_annealing_and_improves_on_it(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr(group_values, "MOST_STORED", 100)  # windows, as where a tile keeps hundreds of columns
    values = uniform(16, 160 if wide else 64)
    start = permsolve.solve(values, HiNM(8, 0.25), method="joint", stop=MaxIterations(50), n_jobs=1)
    limit = MaxIterations(12 if wide else 4000)
    results = [
        permsolve.solve(
            values, HiNM(8, 0.25), method="tilewise", initial=start.solution, stop=limit, seed=3, n_jobs=jobs
        )
        for jobs in (1, 2)
    ]
    assert results[0].score > start.score
    assert results[0].score == results[1].score, "threads must not matter under an iteration limit"
    assert results[0].iterations == results[1].iterations


def test_one_group_for_each_tile_has_nothing_to_regroup() -> None:
    values = uniform(8, 8)
    result = permsolve.solve(values, HiNM(4, 0.5), method="tilewise", initial=None, n_jobs=1)
    assert result.score >= result.baseline


def test_groups_that_cannot_be_enumerated_are_refused() -> None:
    with pytest.raises(UnsupportedProblemError, match="two groups of 16"):
        permsolve.solve(uniform(8, 64), HiNM(4, 0.25, "8:16"), method="tilewise")
