"""Passes over all groups, against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import PATTERNS, groups_of, whole, worth

from permsolve.kernels.enumerate import price_from, sums_from, values_from

SHAPES = [(1, 0), (3, 1), (17, 3), (2, 5)]  # rows, and columns beyond m + 1


def stored(columns: np.ndarray, first: int, n: int, m: int) -> np.ndarray:
    values = np.full(len(groups_of(len(columns), m, first)), np.nan)
    values_from(columns, first, n, m, values)
    return values


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize(("rows", "more"), SHAPES)
def test_values_of_all_groups(n: int, m: int, rows: int, more: int) -> None:
    columns = whole(rows, m + 1 + more, seed=rows)
    for first in range(len(columns) - m + 1):
        expected = worth(columns, groups_of(len(columns), m, first), n)
        assert stored(columns, first, n, m).tolist() == expected.tolist()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("most", [0, 1, 2**44])
def test_values_of_ties_zeros_and_large_integers_are_exact(n: int, m: int, most: int) -> None:
    columns = np.random.RandomState(3).randint(0, most + 1, size=(m + 3, 5)).astype(np.float64)
    expected = worth(columns, groups_of(m + 3, m, 0), n)
    assert stored(columns, 0, n, m).tolist() == expected.tolist()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_one_group_alone(n: int, m: int) -> None:
    columns = whole(4, m)
    assert stored(columns, 0, n, m).tolist() == worth(columns, np.arange(m)[None], n).tolist()


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_pricing_finds_exactly_the_groups_above_the_threshold(n: int, m: int, share: float) -> None:
    columns = whole(3, m + 4, most=20)
    duals = np.random.RandomState(7).randint(-30, 60, size=m + 4).astype(np.float64)
    for first in range(5):
        groups = groups_of(m + 4, m, first)
        values = worth(columns, groups, n)
        reduced = values - duals[groups].sum(axis=1)
        threshold = float(np.quantile(reduced, 1 - share)) - (share == 1.0)
        found, costs = np.full((len(groups) + 1, m), -1, dtype=np.int16), np.full(len(groups) + 1, np.nan)
        largest, count = price_from(values, duals, first, m, threshold, found, costs, 1)  # one is there already
        above = reduced > threshold
        assert largest == reduced.max()
        assert count == 1 + above.sum()
        assert found[1:count].tolist() == groups[above].tolist()
        assert costs[1:count].tolist() == reduced[above].tolist()
        assert found[0].tolist() == [-1] * m


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_pricing_counts_what_it_has_no_room_for(n: int, m: int) -> None:
    columns = whole(3, m + 3)
    groups = groups_of(m + 3, m, 0)
    values = worth(columns, groups, n)
    found, costs = np.full((3, m), -1, dtype=np.int16), np.full(2, np.nan)  # the third row must stay as it is
    _, count = price_from(values, np.zeros(m + 3), 0, m, -np.inf, found, costs, 0)
    assert count == len(groups)
    assert found[:2].tolist() == groups[:2].tolist()
    assert found[2].tolist() == [-1] * m


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_sums_of_the_groups_of_every_column(n: int, m: int) -> None:
    columns = whole(5, m + 4)
    sums = np.ones(m + 4)  # added to, not overwritten
    for first in range(5):
        sums_from(worth(columns, groups_of(m + 4, m, first), n), first, m, sums)
    groups = groups_of(m + 4, m)
    values = worth(columns, groups, n)
    assert sums.tolist() == [1 + values[(groups == column).any(axis=1)].sum() for column in range(m + 4)]
