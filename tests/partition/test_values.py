"""Pricing over all groups: nothing above a threshold is missed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from groupings import KINDS, groups_of, matrix, plain, worth

from permsolve import Problem
from permsolve.partition import values as module
from permsolve.partition.quantise import Quantised
from permsolve.partition.values import GroupValues, storable


def stored(kind: str, n: int, m: int, cols: int) -> tuple[GroupValues, np.ndarray, np.ndarray]:
    """Return the group values of a matrix, all groups and what they are worth."""
    quantised = Quantised.of(Problem.of(matrix(kind, 5, cols), (n, m)))
    groups = groups_of(cols, m)
    return GroupValues(quantised, plain), groups, worth(quantised.columns, groups, n)


@pytest.mark.parametrize(("n", "m", "cols"), [(1, 2, 10), (2, 4, 12), (2, 3, 9), (4, 8, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_all_values_and_all_prices(kind: str, n: int, m: int, cols: int) -> None:
    values, groups, expected = stored(kind, n, m, cols)
    assert values.complete
    assert values.count == len(groups)
    assert np.concatenate(values.values).tolist() == expected.tolist()
    duals = np.floor(np.random.RandomState(1).rand(cols) * expected.max() / m)
    reduced = expected - duals[groups].sum(axis=1)
    threshold = float(np.median(reduced))
    found = values.price(duals, threshold, len(groups))
    assert found.largest == reduced.max()
    assert found.number == len(found.costs) == (reduced > threshold).sum()
    assert found.costs.tolist() == sorted(reduced[reduced > threshold], reverse=True)
    assert {tuple(g) for g in found.groups.tolist()} == {tuple(g) for g in groups[reduced > threshold].tolist()}
    assert values.price(duals).number == 0  # only the largest reduced cost was asked for


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 30, 200, 10_000])
def test_the_best_groups_are_the_best(kind: str, count: int) -> None:
    values, groups, expected = stored(kind, 2, 4, 20)
    duals = np.floor(np.random.RandomState(1).rand(20) * expected.max() / 4)
    reduced = np.sort(expected - duals[groups].sum(axis=1))[::-1]
    found = values.best(duals, count)
    assert len(found.costs) >= min(count, len(groups))
    assert found.costs.tolist() == reduced[: len(found.costs)].tolist()


def test_duals_that_fit_all_values_have_the_least_squares() -> None:
    values, groups, expected = stored("uniform", 2, 4, 12)
    members = np.zeros((len(groups), 12))
    np.put_along_axis(members, groups, 1.0, axis=1)
    best = np.linalg.lstsq(members, expected, rcond=None)[0]
    assert values.fit() == pytest.approx(best, abs=2.0, rel=1e-12)


def test_what_can_be_stored() -> None:
    assert storable(168, 4)
    assert not storable(172, 4)
    assert storable(8192, 2)
    assert not storable(8194, 2)
    assert module.MOST_STORED == 1 << 25


def test_the_deadline_is_kept() -> None:
    quantised = Quantised.of(Problem.of(matrix("uniform", 5, 12)))
    assert not GroupValues(quantised, plain, time.perf_counter() - 1).complete
