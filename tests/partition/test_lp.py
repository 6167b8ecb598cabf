"""The LP bound: feasible for every group, above every score, and the LP's optimum."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import KINDS, feasible, groups_of, is_partition, matrix, plain, worth
from helpers import brute_force

from permsolve import Problem
from permsolve.partition import glop, lp
from permsolve.partition.lp import Duals
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues

SHAPES = [(1, 2, 8), (2, 4, 12), (3, 4, 8), (2, 3, 9)]


def solved(values: np.ndarray, n: int, m: int, rounds: int = 1000) -> tuple[Quantised, Duals]:
    """Solve the LP of a matrix, in so many rounds at most."""
    quantised = Quantised.of(Problem.of(values, (n, m)))
    left = iter([True] * rounds)
    stored = GroupValues(quantised, plain)
    return quantised, lp.solve(stored, np.arange(quantised.cols), lambda: next(left, False), lambda: np.inf)


def highs(quantised: Quantised) -> float:
    """Solve the LP over all groups by another solver, in units of the largest group."""
    from scipy.optimize import linprog

    groups = groups_of(quantised.cols, quantised.m)
    values = worth(quantised.columns, groups, quantised.n)
    rows = np.zeros((quantised.cols, len(groups)))
    np.put_along_axis(rows, groups.T, 1.0, axis=0)
    scale = max(values.max(), 1.0)
    answer = linprog(-values / scale, A_eq=rows, b_eq=np.ones(quantised.cols), method="highs")
    assert answer.status == 0
    return float(-answer.fun * scale)


@pytest.mark.parametrize(("n", "m", "cols"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_the_optimum_of_the_lp_and_above_every_score(kind: str, n: int, m: int, cols: int) -> None:
    values = matrix(kind, 5, cols)
    quantised, duals = solved(values, n, m)
    assert feasible(quantised, duals.prices)
    assert duals.bound == sum(map(int, duals.prices))
    best = brute_force(values, n, m)
    assert quantised.bound(duals.bound) >= best * (1 - 1e-15)
    assert duals.bound == pytest.approx(highs(quantised), rel=1e-6, abs=cols)
    if duals.perm is not None:
        assert is_partition(duals.perm, cols)
        assert quantised.score(duals.perm) == pytest.approx(duals.bound, rel=1e-6, abs=cols)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_cut_short_the_duals_are_feasible(rounds: int) -> None:
    for kind in KINDS:
        quantised, duals = solved(matrix(kind, 6, 20), 2, 4, rounds)
        assert feasible(quantised, duals.prices)


def test_column_generation_gets_there_where_most_groups_never_enter() -> None:
    quantised, duals = solved(matrix("uniform", 16, 28), 2, 4)
    assert feasible(quantised, duals.prices)
    assert duals.bound == pytest.approx(highs(quantised), rel=1e-6)
    assert duals.bound >= highs(quantised) * (1 - 1e-9)


def test_identical_columns_get_equal_duals() -> None:
    quantised, duals = solved(matrix("duplicated", 6, 20), 2, 4)
    twins = quantised.twins
    assert (twins >= 0).any()
    assert all(duals.prices[k] == duals.prices[twin] for k, twin in enumerate(twins) if twin >= 0)


def test_glop_covers_every_column_once() -> None:
    groups = groups_of(8, 4)
    values = np.random.RandomState(1).rand(len(groups))
    solution = glop.maximise(groups, values, 8)
    assert solution is not None
    covered = [solution.taken[(groups == column).any(axis=1)].sum() for column in range(8)]
    assert covered == pytest.approx(np.ones(8))
    assert solution.value == pytest.approx(float(values @ solution.taken)) == pytest.approx(solution.duals.sum())
    assert (values - solution.duals[groups].sum(axis=1)).max() < 1e-6


def test_glop_says_where_nothing_covers_all_columns() -> None:
    assert glop.maximise(groups_of(7, 4), np.ones(35), 8) is None


def test_the_cheapest_raise() -> None:
    groups = np.array([[0, 1], [1, 2], [3, 4]])
    raised = glop.cheapest_raise(groups, np.array([0.5, 0.25, 1.0]), 6)
    assert raised is not None
    assert raised.min() >= 0
    assert raised.sum() == pytest.approx(1.5)
    assert (raised[groups].sum(axis=1) >= np.array([0.5, 0.25, 1.0]) - 1e-9).all()
