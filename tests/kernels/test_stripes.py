"""Values of groups and exhaustive regrouping."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import partitions as all_partitions
from reference import KINDS, PATTERNS, ROWS, matrix, pack, score, shuffled, value

from permsolve.kernels.groups import ROW_BLOCK
from permsolve.kernels.stripes import best_regroupings, group_value
from permsolve.solvers.stripe_groups import _tables, regroupings


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("rows", ROWS)
def test_group_value(n: int, m: int, rows: int) -> None:
    values = matrix("uniform", rows, 3 * m)
    scratch = np.full((n + 1, ROW_BLOCK), np.nan, dtype=np.float32)
    members = shuffled(3 * m)[:m]
    assert group_value(pack(values), members, n, scratch) == value(values, members, n)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("kind", KINDS)
def test_group_value_with_ties_zeros_and_constants(n: int, m: int, kind: str) -> None:
    values = matrix(kind, 33, 2 * m)
    scratch = np.empty((n + 2, ROW_BLOCK), dtype=np.float32)  # more than it needs
    for members in shuffled(2 * m).reshape(2, m):
        assert group_value(pack(values), members, n, scratch) == value(values, members, n)


@pytest.mark.parametrize(
    ("k", "m", "count"), [(2, 2, 3), (2, 4, 35), (3, 2, 15), (3, 4, 5775), (2, 3, 10), (3, 3, 280)]
)
def test_the_tables_hold_every_regrouping_once(k: int, m: int, count: int) -> None:
    subsets, partitions = _tables(k, m)
    assert len(partitions) == regroupings(k, m) == count
    seen = {frozenset(frozenset(subsets[s].tolist()) for s in partition) for partition in partitions}
    expected = {
        frozenset(frozenset(perm[g : g + m]) for g in range(0, k * m, m))
        for perm in all_partitions(tuple(range(k * m)), m)
    }
    assert seen == expected
    assert subsets[partitions[0]].ravel().tolist() == list(range(k * m))


@pytest.mark.parametrize(("k", "n", "m"), [(2, 1, 2), (3, 1, 2), (2, 1, 4), (2, 2, 4), (2, 3, 4), (2, 1, 3), (3, 2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_regrouping_is_the_best_of_all(k: int, n: int, m: int, kind: str) -> None:
    values, order = matrix(kind, 19, 4 * m), shuffled(4 * m)
    subsets, partitions = _tables(k, m)
    stripes = np.array([[0, 1, 2], [1, 2, 3], [0, 2, 3]])[:, :k]
    gains, choices = np.full(3, np.nan), np.full(3, -1)
    best_regroupings(pack(values), order, stripes, subsets, partitions, n, m, gains, choices)
    for stripe, gain, choice in zip(stripes, gains, choices, strict=True):
        columns = order.reshape(-1, m)[stripe].ravel()
        now = score(values, columns, n, m)
        scores = [score(values, columns[np.array(perm)], n, m) for perm in all_partitions(tuple(range(k * m)), m)]
        assert gain == max(scores) - now
        chosen = columns[subsets[partitions[choice]]].ravel()
        assert sorted(chosen) == sorted(columns)
        assert score(values, chosen, n, m) == now + gain


def test_nothing_to_gain_leaves_the_groups_as_they_are() -> None:
    subsets, partitions = _tables(2, 4)
    gains, choices = np.full(1, np.nan), np.full(1, -1)
    best_regroupings(pack(np.ones((5, 8))), np.arange(8), np.array([[0, 1]]), subsets, partitions, 2, 4, gains, choices)
    assert (gains[0], choices[0]) == (0, 0)
