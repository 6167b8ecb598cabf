"""Integers that lie above the truth, and hardly above it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from groupings import KINDS, PATTERNS, groups_of, matrix
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from permsolve import Problem
from permsolve.partition.quantise import Quantised, total


def true_score(values: np.ndarray, perm: np.ndarray, n: int, m: int) -> Fraction:
    """Score a permutation without any rounding."""
    exact = Fraction(0)
    for row in np.asarray(values, dtype=np.float64)[:, perm].tolist():
        for start in range(0, len(row), m):
            exact += sum(map(Fraction, sorted(row[start : start + m])[m - n :]))
    return exact


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_scores_and_bounds_lie_above_the_truth_and_close_to_it(kind: str, n: int, m: int) -> None:
    values = matrix(kind, 6, 3 * m)
    quantised = Quantised.of(Problem.of(values, (n, m)))
    for seed in range(3):
        perm = np.random.RandomState(seed).permutation(3 * m)
        truth = true_score(values, perm, n, m)
        bound = quantised.bound(quantised.score(perm))
        assert Fraction(bound) >= truth
        assert Fraction(bound) <= truth * (1 + Fraction(1, 10**9))


@given(
    hnp.arrays(np.float64, (3, 8), elements=st.floats(0, 1e305, allow_subnormal=True)),
    st.permutations(list(range(8))),
    st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8)]),
)
def test_whatever_the_matrix_scores_lie_above_the_truth(
    values: np.ndarray, perm: list[int], nm: tuple[int, int]
) -> None:
    quantised = Quantised.of(Problem.of(values, nm))
    order = np.array(perm)
    truth = true_score(values, order, *nm)
    bound = Fraction(quantised.bound(quantised.score(order)))
    assert bound >= truth
    assert bound <= truth * (1 + Fraction(1, 10**9)) + Fraction(np.nextafter(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_an_integer_small_enough_for_exact_sums(kind: str) -> None:
    quantised = Quantised.of(Problem.of(matrix(kind, 7, 12)))
    assert (quantised.columns == np.floor(quantised.columns)).all()
    assert (quantised.columns >= 0).all()
    assert quantised.columns.max() * 2 * 7 <= 2**49


@pytest.mark.parametrize("smallest", [1e-300, 5e-324])
def test_an_entry_beside_huge_ones_never_counts_as_nothing(smallest: float) -> None:
    values = matrix("uniform", 4, 8) * 1e300
    values[2:] = smallest
    assert (Quantised.of(Problem.of(values)).columns > 0).all()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_worth_is_the_sum_of_the_largest(n: int, m: int) -> None:
    quantised = Quantised.of(Problem.of(matrix("uniform", 5, 2 * m), (n, m)))
    groups = groups_of(2 * m, m)[:200]
    slow = [sum(sum(sorted(row)[m - n :]) for row in quantised.columns[group].T.tolist()) for group in groups]
    assert quantised.worth(groups).tolist() == slow
    assert quantised.worth(groups[:0]).tolist() == []


def test_identical_columns_are_chained() -> None:
    values = matrix("uniform", 3, 8)
    values[:, [4, 7]] = values[:, [1]]
    values[:, 6] = values[:, 0]
    assert Quantised.of(Problem.of(values)).twins.tolist() == [-1, -1, -1, -1, 1, -1, 0, 4]


def test_a_part_keeps_the_unit() -> None:
    quantised = Quantised.of(Problem.of(matrix("outliers", 5, 16)))
    part = quantised.part(np.array([9, 3, 4, 0]))
    assert part.exponent == quantised.exponent
    assert part.columns.tolist() == quantised.columns[[9, 3, 4, 0]].tolist()
    part.columns[:] = 0
    assert quantised.columns[9].any()


def test_totals_beyond_float64_are_exact() -> None:
    assert total(np.array([2.0**60, 1.0, -3.0])) == 2**60 - 2
