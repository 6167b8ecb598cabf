"""Linear sum assignment against scipy, from any prices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from permsolve.kernels.lap import assign, make_assignment

KINDS = ["uniform", "tied", "equal", "product", "diagonal", "negative"]


def costs(kind: str, size: int) -> np.ndarray:
    """Multiples of a power of two, so that sums are exact."""
    stream = np.random.RandomState(size)
    values = stream.randint(0, 1 << 12, size=(size, size)).astype(np.float32)
    if kind == "tied":
        values = stream.randint(0, 3, size=(size, size)).astype(np.float32)
    elif kind == "equal":
        values[:] = 7
    elif kind == "product":  # near a sum over rows and columns in disguise: the hard case
        values = np.outer(stream.randint(1, 64, size), stream.randint(1, 64, size)) + values % 16
    elif kind == "diagonal":
        values[np.arange(size), np.arange(size)] = 0
    elif kind == "negative":
        values = -values
    return values.astype(np.float32)


def total(cost: np.ndarray, column: np.ndarray) -> float:
    return float(cost[np.arange(len(cost)), column].sum(dtype=np.float64))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 65])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_assignment_from_cold_and_from_any_prices(kind: str, size: int) -> None:
    cost = costs(kind, size)
    best = total(cost, linear_sum_assignment(cost)[1])
    work = make_assignment(size)
    stream = np.random.RandomState(1)
    starts = [None, np.zeros(size), stream.randint(-100, 100, size), stream.randint(0, 5000, size)]
    for start in starts:
        if start is not None:
            work.prices[:] = start
        assign(cost, size, work, start is not None)
        assert sorted(work.column) == list(range(size))
        np.testing.assert_array_equal(work.row[work.column], np.arange(size))
        assert total(cost, work.column) == best
        # The prices prove it: no row would rather have another column.
        reduced = cost - work.prices
        np.testing.assert_array_equal(reduced[np.arange(size), work.column], reduced.min(axis=1))
    assign(cost, size, work, True)  # and from its own prices nothing changes in value
    assert total(cost, work.column) == best


def test_a_smaller_problem_in_a_larger_work_space() -> None:
    work = make_assignment(20)
    cost = np.full((20, 20), np.nan, dtype=np.float32)
    cost[:9, :9] = costs("uniform", 9)
    assign(cost, 9, work, False)
    assert total(cost[:9, :9], work.column[:9]) == total(cost[:9, :9], linear_sum_assignment(cost[:9, :9])[1])


def test_rounding_does_not_keep_rows_bidding_for_ever() -> None:
    """Prices of hundreds beside differences of millionths: a bid may change nothing."""
    stream = np.random.RandomState(3)
    cost = (1000 + 1e-4 * stream.random_sample((40, 40))).astype(np.float32)
    work = make_assignment(40)
    work.prices[:] = 1e6 * stream.random_sample(40)
    assign(cost, 40, work, True)
    assert sorted(work.column) == list(range(40))
