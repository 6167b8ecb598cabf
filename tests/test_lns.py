"""Method 'lns': valid and reproducible on both of its ways, and better than what it starts from."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, is_partition, matrix
from helpers import uniform

import permsolve
from permsolve import Status
from permsolve.errors import OptionError, UnsupportedProblemError
from permsolve.instances.generators import planted
from permsolve.partition import values as group_values
from permsolve.stop import MaxIterations


def test_it_improves_on_annealing() -> None:
    values = uniform(64, 48)
    start = permsolve.solve(values, method="annealing", stop=MaxIterations(20_000), n_jobs=1)
    result = permsolve.solve(values, method="lns", initial=start.perm, stop=MaxIterations(20_000), n_jobs=1)
    assert result.score > start.score
    assert result.bound_kind == "lp"
    assert result.score <= result.bound
    assert result.check(values) == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nm", ["1:2", "2:4", "3:4", "4:8"])
def test_both_ways_give_valid_permutations(kind: str, nm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix(kind, 6, 24 if nm != "4:8" else 32)
    for stored in (group_values.MOST_STORED, 100):
        monkeypatch.setattr(group_values, "MOST_STORED", stored)
        result = permsolve.solve(values, nm, method="lns", stop=MaxIterations(6), options={"columns": 12}, n_jobs=1)
        assert is_partition(result.perm, values.shape[1])
        assert result.score >= result.baseline * (1 - 1e-12)
        assert result.score <= result.bound * (1 + 1e-9)
        monkeypatch.undo()


def test_wide_matrices() -> None:
    values = uniform(5, 200)
    start = permsolve.solve(values, method="annealing", stop=MaxIterations(30_000), n_jobs=1)
    result = permsolve.solve(values, method="lns", initial=start.perm, stop=MaxIterations(8), n_jobs=1)
    assert is_partition(result.perm, 200)
    assert result.score > start.score
    assert result.check(values) == ()


@pytest.mark.parametrize("wide", [False, True])
def test_the_number_of_threads_does_not_matter(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:
        monkeypatch.setattr(group_values, "MOST_STORED", 100)
    values = uniform(12, 48)
    limit = MaxIterations(6 if wide else 3000)
    results = [permsolve.solve(values, method="lns", stop=limit, seed=4, n_jobs=jobs) for jobs in (1, 2, 3)]
    assert len({tuple(result.perm.tolist()) for result in results}) == 1
    assert len({result.iterations for result in results}) == 1


def test_a_solved_problem_ends_at_once() -> None:
    instance = planted(16, 24, seed=1)
    result = permsolve.solve(instance.matrix, method="lns", n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.score == pytest.approx(instance.optimum, rel=1e-9)


def test_a_block_that_is_solved_takes_no_more_iterations() -> None:
    parts = [np.asarray(planted(16, 24, seed=seed).matrix) for seed in (1, 2)]
    whole = np.concatenate(parts, axis=1)
    stop = MaxIterations(2_000_000)
    result = permsolve.solve(whole, method="lns", blocks=[24, 24], stop=stop, n_jobs=1)
    assert result.status is Status.OPTIMAL
    assert result.iterations < 500_000  # annealing's share is 100,000


@pytest.mark.parametrize("columns", [0, 7, 169, 12.0, "64"])
def test_columns_of_a_window(columns: object) -> None:
    with pytest.raises(OptionError):
        permsolve.solve(uniform(4, 16), method="lns", options={"columns": columns})


def test_windows_that_cannot_be_enumerated_are_refused() -> None:
    with pytest.raises(UnsupportedProblemError):
        permsolve.solve(np.ones((2, 64)), (8, 16), method="lns")
