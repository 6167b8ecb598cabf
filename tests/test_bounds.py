"""`permsolve.bound`, bounds of blocks, and bounds within a solve."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, matrix
from helpers import brute_force

import permsolve
from permsolve import Problem
from permsolve.bounds import Bound
from permsolve.certificates import prove
from permsolve.errors import InputError, UnsupportedProblemError
from permsolve.instances.generators import planted
from permsolve.partition import values as group_values
from permsolve.stop import GapReached


def test_the_rows_bound_costs_nothing() -> None:
    values = matrix("uniform", 6, 16)
    answer = permsolve.bound(values, kind="rows")
    assert isinstance(answer, Bound)
    assert (answer.kind, answer.certificate) == ("rows", None)
    assert answer.value == answer.rows_bound == pytest.approx(np.sort(values, axis=1)[:, 8:].sum())
    assert answer.efficacy == pytest.approx(100.0)
    assert answer.baseline == Problem.of(values).baseline


def test_the_lp_bound_is_better_and_says_how_much_is_left() -> None:
    values = matrix("uniform", 12, 24)
    answer = permsolve.bound(values, "2:4", n_jobs=1)
    assert answer.kind == "lp"
    assert answer.value < answer.rows_bound
    assert answer.efficacy < 100
    result = permsolve.solve(values, method="annealing", stop=permsolve.stop.MaxIterations(50_000), n_jobs=1)
    assert 0 <= answer.gap(result.score) < 0.01
    assert answer.gap(answer.value) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_is_never_below_a_score(kind: str) -> None:
    for seed in range(3):
        values = matrix(kind, 7, 12, seed)
        for n in (1, 2, 3):
            assert permsolve.bound(values, (n, 4), n_jobs=1).value >= brute_force(values, n, 4) * (1 - 1e-15)


@pytest.mark.parametrize("kind", ["exact", "LP", "", None, 3])
def test_unknown_kinds(kind: object) -> None:
    for call in (
        lambda: permsolve.bound(np.ones((2, 8)), kind=kind),
        lambda: permsolve.solve(np.ones((2, 8)), bound=kind),
    ):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="bound"):
            call()


def test_out_of_reach() -> None:
    values = np.random.RandomState(0).rand(2, 256)
    with pytest.raises(UnsupportedProblemError, match="rows bound"):
        permsolve.bound(values, (8, 16))
    with pytest.raises(UnsupportedProblemError):
        permsolve.solve(values, (8, 16), method="identity", bound="lp")
    assert permsolve.bound(values, (8, 16), kind="rows").kind == "rows"


def test_too_short_a_time_gives_the_rows_bound() -> None:
    answer = permsolve.bound(matrix("uniform", 64, 128), time_limit=1e-6, n_jobs=1)
    assert answer.kind == "rows"
    assert answer.value == answer.rows_bound


@pytest.mark.parametrize("sizes", [(12, 12), (12, 8, 16), (4, 20), (20, 4), (4, 4, 12)])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9])
def test_bounds_of_blocks_add_up_and_are_proved(sizes: tuple[int, ...], scale: float) -> None:
    parts = [matrix("uniform", 8, size, seed) for seed, size in enumerate(sizes)]
    parts[0] = parts[0] * scale
    values = np.concatenate(parts, axis=1)
    answer = permsolve.bound(values, blocks=sizes, n_jobs=1)
    apart = sum(permsolve.bound(part, n_jobs=1).value for part in parts)
    assert answer.kind == "lp"
    assert answer.value == pytest.approx(apart, rel=1e-12)
    assert answer.certificate is not None
    assert prove(Problem.of(values, blocks=sizes), answer.certificate) <= answer.value


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_result_with_blocks_passes_its_own_check(scale: float) -> None:
    values = np.concatenate([matrix("uniform", 8, 20, 1), matrix("uniform", 8, 20, 2) * scale], axis=1)
    result = permsolve.solve(values, method="greedy", bound="lp", blocks=[20, 20], n_jobs=1)
    assert result.bound_kind == "lp"
    assert result.check(values) == ()


def test_stacked_matrices_have_one_bound() -> None:
    problem = Problem.stack([matrix("uniform", 4, 16, 1), matrix("uniform", 5, 16, 2)])
    whole = permsolve.bound(np.concatenate([matrix("uniform", 4, 16, 1), matrix("uniform", 5, 16, 2)]), n_jobs=1)
    assert permsolve.bound(problem, n_jobs=1).value == whole.value


def test_where_groups_cannot_be_stored_all_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix("uniform", 12, 32)
    narrow = permsolve.bound(values, n_jobs=1)
    monkeypatch.setattr(group_values, "MOST_STORED", 1000)
    wide = permsolve.bound(values, n_jobs=1)
    assert wide.kind == "lp"
    assert wide.certificate is not None
    assert prove(Problem.of(values), wide.certificate) == wide.value
    assert narrow.value * (1 - 1e-9) <= wide.value <= narrow.value * (1 + 1e-4)


def test_a_solve_carries_the_bound_it_was_asked_for() -> None:
    values = matrix("uniform", 12, 24)
    rows = permsolve.solve(values, method="greedy", n_jobs=1)
    result = permsolve.solve(values, method="greedy", bound="lp", n_jobs=1)
    answer = permsolve.bound(values, n_jobs=1)
    assert (rows.bound_kind, rows.certificate, rows.bound) == ("rows", None, rows.rows_bound)
    assert (result.bound_kind, result.bound, result.certificate) == ("lp", answer.value, answer.certificate)
    assert result.trace[0].bound == result.rows_bound
    assert result.trace[-1].bound == result.bound
    assert result.check(values) == ()


def test_a_gap_to_the_lp_bound_ends_a_solve_early() -> None:
    values = matrix("uniform", 12, 32)
    stop = GapReached(0.003) | permsolve.stop.MaxIterations(300_000)
    loose = permsolve.solve(values, method="annealing", stop=stop, n_jobs=1)
    tight = permsolve.solve(values, method="annealing", bound="lp", stop=stop, n_jobs=1)
    assert "GapReached" in str(tight.stopped_by)
    assert tight.gap <= 0.003
    assert tight.iterations < loose.iterations


def test_a_method_is_not_credited_with_what_the_bound_found() -> None:
    instance = planted(16, 24, seed=1)
    result = permsolve.solve(instance.matrix, method="identity", bound="lp", n_jobs=1)
    assert result.score == result.baseline
