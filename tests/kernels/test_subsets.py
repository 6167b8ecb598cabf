"""Dynamic programming over subsets, against all partitions."""

from __future__ import annotations

import numpy as np
import pytest
from groupings import groups_of, whole, worth
from helpers import brute_force

from permsolve.kernels.subsets import best_partition, trace_back


@pytest.mark.parametrize(
    ("n", "m", "cols"), [(1, 2, 2), (1, 2, 8), (2, 3, 9), (2, 4, 8), (2, 4, 12), (1, 4, 8), (3, 4, 12), (4, 8, 8)]
)
@pytest.mark.parametrize("most", [0, 1, 100])
def test_the_best_partition_of_all(n: int, m: int, cols: int, most: int) -> None:
    columns = whole(4, cols, seed=cols, most=most)
    groups = groups_of(cols, m)
    values = worth(columns, groups, n)
    masks = (1 << groups).sum(axis=1)
    best, choice = np.full(1 << cols, np.nan), np.full(1 << cols, -7, dtype=np.int32)
    best_partition(masks, values, np.searchsorted(groups[:, 0], np.arange(cols + 1)), cols, best, choice)
    assert best[-1] == brute_force(columns.T, n, m)
    chosen = np.full(cols // m, -1)
    assert trace_back(masks, choice, cols, chosen) == 0
    assert sorted(groups[chosen].ravel().tolist()) == list(range(cols))
    assert values[chosen].sum() == best[-1]
    assert (best[[bin(s).count("1") % m != 0 for s in range(1 << cols)]] == -np.inf).all()
