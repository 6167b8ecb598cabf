"""Keep 1 of 2 by matching, and few columns by dynamic programming: the optimum and its proof."""

from __future__ import annotations

import pytest
from groupings import KINDS, SOME_KINDS, cheapest_cover, groups_of, is_partition, matrix, opened, worth
from helpers import brute_force

from permsolve import Problem, Status
from permsolve.partition import matching, subsets
from permsolve.partition.quantise import Quantised


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "cols"), [(1, 4), (9, 14)])
@pytest.mark.parametrize("pairs", [1, 20])
def test_the_matching_is_optimal_also_where_few_pairs_take_part_at_first(
    kind: str, rows: int, cols: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "FIRST_PAIRS", pairs)
    problem = Problem.of(matrix(kind, rows, cols), (1, 2))
    run, core = opened(problem)
    matching.solve(problem, run)
    quantised = Quantised.of(problem)
    groups = groups_of(cols, 2)
    optimum = quantised.bound(int(-cheapest_cover(groups, -worth(quantised.columns, groups, 1), cols)))
    assert core.score == pytest.approx(optimum, rel=1e-9)  # what OPTIMAL means
    assert core.bound == pytest.approx(optimum, rel=1e-9)
    assert is_partition(core.solution, cols)


@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize(
    ("n", "m", "cols"), [(1, 2, 8), (2, 4, 12), (1, 4, 8), (3, 4, 12), (2, 3, 9), (4, 8, 16), (1, 5, 10)]
)
def test_few_columns_are_solved_to_the_optimum(kind: str, n: int, m: int, cols: int) -> None:
    values = matrix(kind, 7, cols)
    problem = Problem.of(values, (n, m))
    run, core = opened(problem)
    assert subsets.suits(cols)
    assert subsets.solve(problem, run) is Status.OPTIMAL
    optimum = brute_force(values, n, m)
    assert core.score == pytest.approx(optimum, rel=1e-12)
    assert core.bound == pytest.approx(optimum, rel=1e-9)
    assert core.bound >= optimum * (1 - 1e-15)


def test_more_columns_are_left_to_others() -> None:
    assert not subsets.suits(20)
