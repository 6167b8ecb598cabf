"""Kernels of the output error, against the reference that tries all masks."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from permsolve.kernels.certify import first_error_violation
from permsolve.kernels.error_groups import products
from permsolve.objectives import OutputError, choices, group_errors
from permsolve.partition.quantise import Quantised
from permsolve.partition.quantise_errors import QuantisedErrors
from permsolve.partition.values import GroupValues
from permsolve.problem import Problem
from permsolve.search.exchanges import ErrorExchanges

#: n:m, columns, rows of each kernel position: odd ones, one, and more than a block.
CASES = [
    ("2:4", 12, 5),
    ("1:4", 8, 1),
    ("3:4", 12, 70),
    ("1:2", 6, 3),
    ("2:3", 9, 140),
    ("4:8", 16, 17),
    ("1:6", 12, 66),
]


def make(nm: str, cols: int, rows: int, positions: int = 2) -> Problem:
    """Make a problem of a convolution with correlated inputs, some weights zero, a dead channel and twins."""
    rng = np.random.RandomState(rows)
    x = rng.standard_normal((positions, 40, cols)) + rng.standard_normal((positions, 40, 1))
    x[:, :, 2] = 0
    x[:, :, 5] = x[:, :, 4]
    w = rng.standard_normal((rows, cols, positions)).astype(np.float32)
    w[:, 5] = w[:, 4]
    w[rng.random_sample(w.shape) < 0.1] = 0
    return Problem.of(w, nm, saliency=OutputError(np.einsum("pni,pnj->pij", x, x) / 40))


@pytest.mark.parametrize("case", CASES)
def test_scorer_and_search_agree_with_the_reference(case: tuple[str, int, int]) -> None:
    problem = make(*case)
    n, m = problem.pattern.n, problem.pattern.m
    rng = np.random.default_rng(0)
    order = rng.permutation(problem.cols)
    expected = group_errors(problem.columns, problem.moments, problem.segments, order, n, m)
    assert problem.group_values(order) == pytest.approx(-expected, rel=1e-12, abs=1e-12)
    exchanges = ErrorExchanges(problem)
    space = exchanges.space(problem.cols, np.zeros(1, dtype=np.bool_))
    best = np.empty_like(order)
    last = order.copy()
    made = exchanges.anneal(space, last, best, (1e-9, 1e-9), 300, np.uint64(1), 1 << 40)
    assert made == 300
    assert sorted(best.tolist()) == list(range(problem.cols))
    # The errors that the search keeps are those of the groups it ended with, in units of `packed`.
    again = group_errors(problem.columns, problem.moments, problem.segments, last, n, m)
    assert space.errors[::m] * problem.scale == pytest.approx(again, rel=2e-5, abs=1e-6 * problem.energy)
    assert problem.score(best) >= problem.score(order)


@pytest.mark.parametrize("case", CASES)
def test_delta_of_every_exchange_is_the_difference_of_scores(case: tuple[str, int, int]) -> None:
    problem = make(*case)
    exchanges = ErrorExchanges(problem)
    space = exchanges.space(problem.cols, np.zeros(1, dtype=np.bool_))
    order = np.random.default_rng(1).permutation(problem.cols)
    before = problem.score(order)
    mean = exchanges.mean_loss(space, order, 4000, np.uint64(2))
    m = problem.pattern.m
    losses = []
    for p, q in itertools.combinations(range(problem.cols), 2):
        if p // m != q // m:
            swapped = order.copy()
            swapped[[p, q]] = order[[q, p]]
            losses.append(max(before - problem.score(swapped), 0.0))
    assert mean * problem.scale == pytest.approx(np.mean(losses), rel=0.1)


@pytest.mark.parametrize("case", CASES)
def test_values_of_all_groups_are_exact_bounds(case: tuple[str, int, int]) -> None:
    """Enumeration, single groups and the verifier use one rounding: never below the true value, and close to it."""
    problem = make(*case)
    quantised = Quantised.of(problem)
    assert isinstance(quantised, QuantisedErrors)
    n, m = problem.pattern.n, problem.pattern.m
    values = np.concatenate(GroupValues(quantised, lambda work, firsts: [work(first) for first in firsts]).values)
    groups = np.array(list(itertools.combinations(range(problem.cols), m)))
    assert (values == np.round(values)).all()
    assert (values == quantised.worth(groups)).all()
    assert (np.abs(values) < 2.0**49).all()
    some = np.random.default_rng(0).permutation(len(groups))[:300]
    true = -group_errors(problem.columns, problem.moments, problem.segments, groups[some].ravel(), n, m)
    unit = 2.0**-quantised.exponent
    assert (values[some] * unit - true >= -1e-13 * problem.energy).all()
    assert (values[some] * unit - true <= 2 * problem.terms * problem.rows * unit + 1e-13 * problem.energy).all()
    # Duals that pay for a group exactly are feasible; one unit less is a violation.
    moments = np.ldexp(problem.moments, quantised.exponent)
    for k in (0, len(groups) - 1):
        duals = np.zeros(problem.cols, dtype=np.int64)
        outside = np.setdiff1d(np.arange(problem.cols), groups[k])
        duals[outside] = 2**50
        duals[groups[k][0]] = int(values[k])
        found = np.full(m, -1)
        arguments = (problem.columns.astype(np.float64), moments, np.array(problem.segments))
        first_error_violation(*arguments, duals, int(groups[k][0]), choices(n, m).copy(), m, found)
        assert (found == -1).all()
        duals[groups[k][0]] -= 1
        first_error_violation(*arguments, duals, int(groups[k][0]), choices(n, m).copy(), m, found)
        assert found.tolist() == groups[k].tolist()


def test_products_never_exceed_the_true_ones() -> None:
    rng = np.random.RandomState(0)
    first, second = rng.standard_normal(2000), rng.standard_normal(2000)
    second[:5] = 0
    for moment in (2.0**44 / 3, -(2.0**44) / 7, 3.0, 1e-30):
        out = np.empty(2000)
        products(first, second, moment, out)
        exact = [Fraction(a) * Fraction(b) * Fraction(moment) for a, b in zip(first, second, strict=True)]
        assert all(Fraction(given) <= true < Fraction(given) + 2 for given, true in zip(out, exact, strict=True))
    assert (out[:5] == 0).all()


def test_twins_are_columns_that_may_trade_places() -> None:
    w = np.random.RandomState(1).standard_normal((4, 8))
    w[:, 6] = w[:, 1]
    w[:, [3, 4]] = 0
    correlated = np.full((8, 8), 0.5) + 0.5 * np.eye(8)
    assert Quantised.of(Problem.of(w, saliency=OutputError(correlated))).twins.tolist() == [-1] * 4 + [3, -1, 1, -1]
    correlated[1, 2] = correlated[2, 1] = 0.4
    assert Quantised.of(Problem.of(w, saliency=OutputError(correlated))).twins.tolist() == [-1] * 4 + [3, -1, -1, -1]


def test_parts_keep_the_unit() -> None:
    quantised = Quantised.of(make("2:4", 12, 5))
    some = np.array([9, 1, 4, 7, 2, 11, 0, 3])
    part = quantised.part(some)
    groups = np.array(list(itertools.combinations(range(8), 4)))
    assert (part.worth(groups) == quantised.worth(np.sort(some[groups], axis=1))).all()
